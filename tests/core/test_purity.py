"""Operations write to nothing they were given, and backward refuses where somebody else did."""

import numpy as np
import pytest

import core.functional as F
from bench.parity.cases import CASES, case_id, run
from bench.parity.comparing import backward_all, random_dys
from core import Tensor
from tests.core.purity import check_purity

pytestmark = pytest.mark.usefixtures("reference")  # kernels: test_cpu_kernels.py


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_pure(case):
    check_purity(case)


@pytest.mark.parametrize("case", [c for c in CASES if sum(c.needs_input_grad(c.arrays())) > 1], ids=case_id)
def test_each_gradient_alone_is_the_same(case):
    """Skipping the gradients of other inputs changes none: `needs` is an economy, not a different computation."""
    arrays = case.arrays()
    outputs, tensors = run(case, arrays)
    dys = random_dys(case, outputs, np.float64)
    backward_all(outputs, dys)
    for i, need in enumerate(case.needs_input_grad(arrays)):
        if not need:
            continue
        alone = case._replace(fixed=tuple(j for j in range(len(arrays)) if j != i))
        outputs, again = run(alone, arrays)
        backward_all(outputs, [dy if y.requires_grad else None for y, dy in zip(outputs, dys)])
        message = f"{case.name}: gradient {i} differs when it alone is wanted"
        if again[i].grad is None:  # no differentiable output depends on it
            assert not np.any(tensors[i].grad), message
            continue
        np.testing.assert_allclose(again[i].grad, tensors[i].grad, rtol=1e-13, atol=1e-15, err_msg=message)


# --- changes in place ----------------------------------------


def leaf(*values):
    return Tensor(np.array(values, np.float32), requires_grad=True)


def test_an_input_changed_in_place_is_refused():
    x = leaf(1.0, 2.0)
    y = x * x
    x.assign_(np.array([5.0, 5.0]))
    with pytest.raises(RuntimeError, match="mul: an input or result was changed in place"):
        y.backward(np.ones(2))
    assert x.grad is None


VIEWS = {
    "slice": lambda x: x[1:],
    "reshape": lambda x: x.reshape(2, 1),
    "transpose": lambda x: x.T,
    "slice-of-reshape": lambda x: x.reshape(2, 1)[0],
    "detach": lambda x: x.detach(),
    "split": lambda x: F.split(x, (1, 1))[0],
    "not-dropped": lambda x: F.dropout(x, 0.5, training=False),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_an_input_changed_through_a_view_is_refused(view):
    x = leaf(1.0, 2.0)
    v = view(x)
    y = x * x
    v.assign_(np.full(v.shape, 7.0))
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward(np.ones(2))


def test_a_view_used_by_the_graph_is_refused_when_its_base_changed():
    x = leaf(1.0, 2.0)
    y = x[1:] * x[1:]
    x.assign_(np.array([5.0, 5.0]))
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward(np.ones(1))


def test_a_constant_operand_counts_as_an_input():
    x, c = leaf(1.0, 2.0), Tensor(np.ones(2, np.float32))
    y = x * c
    c.assign_(np.zeros(2))
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward(np.ones(2))


def test_a_result_that_was_saved_and_then_changed_is_refused():
    """exp keeps its own result for the gradient; writing to that result must not change the gradient silently."""
    x = leaf(0.0, 1.0)
    y = F.exp(x)
    y.assign_(np.zeros(2))
    with pytest.raises(RuntimeError, match="changed in place"):
        (y * 1.0).backward(np.ones(2))


def test_changes_before_the_forward_pass_and_after_the_backward_pass_are_fine():
    x = leaf(1.0, 2.0)
    x.assign_(np.array([3.0, 4.0]))
    y = x * x
    y.backward(np.ones(2))
    x.assign_(np.array([0.0, 0.0]))
    assert np.array_equal(x.grad, [6.0, 8.0])


def test_a_changed_tensor_of_another_graph_is_no_concern():
    x, other = leaf(1.0, 2.0), leaf(3.0, 4.0)
    y, unrelated = x * x, other * other
    other.assign_(np.zeros(2))
    y.backward(np.ones(2))
    assert np.array_equal(x.grad, [2.0, 4.0])
    with pytest.raises(RuntimeError, match="changed in place"):
        unrelated.backward(np.ones(2))


def test_assign_keeps_the_address():
    x = leaf(1.0, 2.0)
    data = x.data
    assert x.assign_(np.array([5.0, 6.0])) is x
    assert x.data is data and np.array_equal(data, [5.0, 6.0])
