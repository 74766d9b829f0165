"""Python numbers among arrays, gradients behind infinities, and other places where a review found wrong results."""

import threading

import numpy as np
import pytest
import torch

import core.functional as F
from core import Generator, Tensor, dispatch, nn, optim
from core.nn import Parameter
from core.reference.optim import adam_
from core.table import Kernel, Row


def test_a_number_keeps_its_value_beside_any_array():
    c = np.array([True, False])
    x = np.array([0.5, 0.25])
    assert F.where(c, x, 0.1).data.tolist() == [0.5, 0.1]
    assert F.where(c, x.astype(np.float32), -1).data.tolist() == [0.5, -1.0]
    assert (Tensor(c) + 2).data.tolist() == [3, 2]
    assert (Tensor(np.array([1], np.uint8)) + 300).data.tolist() == [301]


def test_a_number_beside_float16_is_rounded_only_with_the_result():
    x = np.array([0, 0.001, 2], np.float16)
    expected = (torch.tensor(x) * 1e5).numpy()
    y = (Tensor(x) * 1e5).data
    assert y.dtype == np.float16 and np.array_equal(y, expected)
    assert (Tensor(np.array([60000], np.float16)) * 1e-8).data[0] == (torch.tensor([60000.0]).half() * 1e-8).item()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda x: F.log(F.relu(x)), lambda x: torch.log(torch.relu(x))),
        (lambda x: F.sqrt(F.clip(x, low=0)), lambda x: torch.sqrt(torch.clip(x, min=0))),
        (lambda x: F.sqrt(F.maximum(x, 0.0)), lambda x: torch.sqrt(torch.maximum(x, torch.zeros(())))),
    ],
    ids=["log relu", "sqrt clip", "sqrt maximum"],
)
def test_a_masked_gradient_is_zero_even_where_infinity_arrives(ours, theirs):
    a = Tensor(np.array([-1.0, 4.0]), requires_grad=True)
    b = torch.tensor([-1.0, 4.0], dtype=torch.float64, requires_grad=True)
    ours(a).backward(np.ones(2)), theirs(b).backward(torch.ones(2, dtype=torch.float64))
    assert np.array_equal(a.grad, b.grad.numpy())


def test_an_index_array_may_change_after_it_was_used():
    x, index = Tensor(np.arange(3.0), requires_grad=True), np.array([0, 1])
    y = x[index]
    index[:] = 2
    y.backward(np.ones(2))
    assert x.grad.tolist() == [1, 1, 0]


def test_equality_is_identity_and_says_so():
    t = Tensor(np.ones(2))
    assert t == t and t != Tensor(np.ones(2)) and len({t, t}) == 1
    with pytest.raises(TypeError, match="compare values by"):
        _ = t == 1
    assert np.array_equal(np.asarray(t), [1, 1])
    with pytest.raises(TypeError, match="requires a gradient"):
        np.asarray(Tensor(np.ones(2), requires_grad=True))


def test_a_generator_may_be_entered_in_two_threads():
    generator, errors = Generator(0), []
    inside = threading.Barrier(2)

    def enter():
        try:
            with generator:
                inside.wait(5)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=enter) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors


def test_a_state_operation_can_have_a_kernel(monkeypatch):
    calls = []

    def kernel(*args, **options):
        calls.append(options)
        return adam_(*args, **options)

    monkeypatch.setattr(Kernel, "load", lambda self: kernel)
    monkeypatch.setitem(dispatch.TABLE, "adam_", Row(adam_, {"cpu": Kernel("nowhere:adam_")}))
    p = Parameter(np.ones(3, np.float32))
    p.grad = np.ones(3, np.float32)
    optim.Adam({"p": p}).step()
    assert len(calls) == 1 and (p.data < 1).all()


def test_parameters_in_lists_and_dictionaries_are_found():
    class Net(nn.Module):
        def __init__(self):
            self.scales = [Parameter(np.ones(1)), Parameter(np.ones(2))]
            self.heads = {"a": nn.Linear(1, 1)}

    assert list(Net().state_dict()) == ["scales.0", "scales.1", "heads.a.weight", "heads.a.bias"]


def test_frozen_leaves_what_was_frozen_before():
    net = nn.Linear(1, 1)
    net.bias.requires_grad = False
    with net.frozen():
        assert not net.weight.requires_grad
    assert net.weight.requires_grad and not net.bias.requires_grad
