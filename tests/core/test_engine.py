"""The graph: what is recorded, walked, accumulated and freed, and what is refused."""

import gc
import subprocess
import sys
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest

import core.functional as F
from core import Tensor, no_grad
from core.engine import Op
from core.table import TABLE


def leaf(*values):
    return Tensor(np.array(values, np.float32), requires_grad=True)


# --- depth, width and memory ----------------------------------------


def test_a_chain_of_ten_thousand_nodes():
    x = leaf(1.0, 2.0)
    y = x
    for _ in range(10_000):
        y = y + 1
    y.backward(np.array([3.0, 4.0]))
    assert np.array_equal(x.grad, [3.0, 4.0])


def test_dropping_a_chain_of_a_hundred_thousand_nodes_does_not_crash():
    """In a process of its own: an overflow of the C stack would take the test run with it."""
    script = (
        "import numpy as np; from core import Tensor\n"
        "def chain():\n"
        "    y = Tensor(np.ones(1), requires_grad=True)\n"
        "    for _ in range(100_000): y = -y\n"
        "    return y\n"
        "chain()\n"
        "print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip() == "alive", done.stderr[-500:]


def test_one_leaf_used_a_thousand_times():
    x = leaf(2.0)
    sum((x * k for k in range(1000)), start=x * 0).sum().backward()
    assert np.array_equal(x.grad, [sum(range(1000))])


def test_a_diamond_is_walked_once_per_node(monkeypatch):
    """Each of 40 layers joins its input with itself: 2^40 paths, 40 nodes."""
    calls = []
    real = TABLE["add"].reference
    counting = real._replace(backward=lambda *a, **k: calls.append(1) or real.backward(*a, **k))
    monkeypatch.setitem(TABLE, "add", replace(TABLE["add"], reference=counting))
    x = Tensor(np.ones(1), requires_grad=True)
    y = x
    for _ in range(40):
        y = y + y
    y.backward(np.ones(1))
    assert len(calls) == 40 and np.array_equal(x.grad, [2.0**40])


def test_backward_frees_what_was_saved():
    x = leaf(1.0, 2.0)
    y = F.exp(x)
    saved, z = weakref.ref(y.data), y.sum()
    del y
    assert saved() is not None
    z.backward()
    assert saved() is None


def test_a_graph_is_freed_without_the_cycle_collector():
    x = leaf(1.0, 2.0)
    gc.disable()
    try:
        y = F.exp(x)
        z, saved = (y * y).sum(), weakref.ref(y.data)
        del y, z
        assert saved() is None
    finally:
        gc.enable()


# --- where gradients go ----------------------------------------


def test_only_leaves_get_gradients():
    x = leaf(1.0, 2.0)
    y = x * 3
    z = y.sum()
    z.backward()
    assert y.grad is None and z.grad is None and np.array_equal(x.grad, [3.0, 3.0])


def test_gradients_accumulate_in_place_over_graphs():
    x = leaf(1.0, 2.0)
    (x * 3).sum().backward()
    buffer = x.grad
    (x * x).sum().backward()
    assert x.grad is buffer and np.array_equal(x.grad, [5.0, 7.0])


def test_retained_graph_doubles_exactly(rng):
    x, w = (Tensor(rng.standard_normal(s).astype(np.float32), requires_grad=True) for s in ((7, 5), (3, 5)))
    loss = F.linear(x, w, act="gelu").mean()
    loss.backward(retain_graph=True)
    once = x.grad.copy(), w.grad.copy()
    loss.backward()
    assert np.array_equal(x.grad, 2 * once[0]) and np.array_equal(w.grad, 2 * once[1])


def test_second_backward_names_retain_graph_and_leaves_gradients_alone():
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        y.backward()
    assert np.array_equal(x.grad, [2.0, 4.0])


def test_second_backward_through_a_shared_trunk_is_refused_before_anything_is_added():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    trunk = F.exp(x)
    first, second = trunk.sum(), (trunk * w).sum()
    first.backward()
    before = x.grad.copy()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        second.backward()
    assert w.grad is None and np.array_equal(x.grad, before)


def test_backward_of_a_leaf():
    x, dy = leaf(1.0, 2.0), np.array([3.0, 4.0], np.float32)
    x.backward(dy)
    x.grad[0] = 9
    assert np.array_equal(dy, [3.0, 4.0]) and np.array_equal(x.grad, [9.0, 4.0])


def test_dy_may_be_a_tensor_or_of_another_dtype():
    for dy in (Tensor(np.array([3.0, 4.0])), np.array([3, 4]), [3.0, 4.0]):
        x = leaf(1.0, 2.0)
        (x * 2).backward(dy)
        assert x.grad.dtype == np.float32 and np.array_equal(x.grad, [6.0, 8.0])


def test_a_zero_dimensional_gradient_is_an_array():
    x = Tensor(np.array(2.0), requires_grad=True)
    (x * x + x * x).backward()
    assert isinstance(x.grad, np.ndarray) and x.grad.shape == () and x.grad == 8.0


# name -> a result whose gradient reaches a and b by moving dy about
MOVERS = {
    "sum-of-two": lambda a, b: a + b,
    "difference": lambda a, b: a - b,
    "same-twice": lambda a, b: a + a + b,
    "reshaped": lambda a, b: a.reshape(4) + b.reshape(4),
    "transposed": lambda a, b: a.T + b.T,
    "joined": lambda a, b: F.concatenate([a, b]),
    "broadcast": lambda a, b: F.broadcast_to(a, (3, 2, 2)) + b,
    "cut-and-joined": lambda a, b: F.concatenate(F.split(a, (1, 1)) + F.split(b, (1, 1)), axis=1),
    "no-dropout": lambda a, b: F.dropout(a, 0.5, False) + b,
    "sums": lambda a, b: a.sum(0) + b.sum(1),
    "means": lambda a, b: a.mean(0) + b.mean(1),
}


@pytest.mark.parametrize("f", MOVERS.values(), ids=MOVERS.keys())
def test_gradient_buffers_are_their_own(f):
    a, b = (Tensor(np.arange(4.0).reshape(2, 2), requires_grad=True) for _ in range(2))
    y = f(a, b)
    dy = np.arange(1.0, y.size + 1).reshape(y.shape)
    y.backward(dy)
    others = b.grad.copy(), dy.copy()
    a.grad += 100
    assert np.array_equal(b.grad, others[0]) and np.array_equal(dy, others[1])
    b.grad += 100
    assert np.array_equal(dy, others[1])


# --- what is recorded ----------------------------------------


def test_no_grad_records_nothing_and_ends():
    x = leaf(1.0)
    with no_grad():
        y = x * 2
        with no_grad():
            pass
        assert not (x * 2).requires_grad
    assert not y.requires_grad and (x * 2).requires_grad
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        y.backward()


def test_no_grad_ends_when_its_body_raises():
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert (leaf(1.0) * 2).requires_grad


def test_an_op_on_constants_records_nothing():
    assert (Tensor([1.0]) * Tensor([2.0]))._node is None


def test_detach_cuts_the_graph():
    x = leaf(2.0)
    (x * (x * x).detach()).sum().backward()
    assert np.array_equal(x.grad, [4.0])


def test_needs_says_which_gradients_are_wanted(monkeypatch):
    asked = []
    spy = Op(
        "mul",
        lambda x, y: (x * y, (x, y)),
        lambda saved, dy, needs_input_grad: asked.append(needs_input_grad) or (dy, dy),
    )
    monkeypatch.setitem(TABLE, "mul", replace(TABLE["mul"], reference=spy))
    x, c = leaf(1.0), Tensor([2.0])
    (x * c).sum().backward()
    (c * x).sum().backward()
    (x * x).sum().backward()
    assert asked == [(True, False), (False, True), (True, True)] and c.grad is None


COSTLY = {  # operations whose gradients cost a product each
    "matmul": (lambda x, w: x @ w, (4, 3), (3, 2)),
    "linear": (lambda x, w: F.linear(x, w), (4, 3), (2, 3)),
    "conv2d": (lambda x, w: F.conv2d(x, w), (1, 4, 4, 2), (3, 3, 2, 3)),
    "conv_transpose2d": (lambda x, w: F.conv_transpose2d(x, w), (1, 4, 4, 2), (3, 3, 3, 2)),
    "attention": (lambda q, k: F.attention(q, k, np.ones((1, 1, 3, 2))), (1, 1, 4, 2), (1, 1, 3, 2)),
}


@pytest.mark.parametrize("name", COSTLY)
def test_gradients_nobody_wants_are_not_computed(name, monkeypatch):
    f, *shapes = COSTLY[name]
    returned = []
    real = TABLE[name].reference
    spy = real._replace(backward=lambda *a, **k: returned.append(real.backward(*a, **k)) or returned[-1])
    monkeypatch.setitem(TABLE, name, replace(TABLE[name], reference=spy))
    for wanted in (0, 1):
        y = f(*(Tensor(np.ones(s), requires_grad=i == wanted) for i, s in enumerate(shapes)))
        y.backward(np.ones(y.shape))
        assert returned[-1][wanted] is not None and returned[-1][1 - wanted] is None


def test_unused_outputs_of_a_split():
    x = Tensor(np.arange(6.0), requires_grad=True)
    F.split(x, (1, 2, 3))[1].backward(np.array([5.0, 7.0]))
    assert np.array_equal(x.grad, [0, 5, 7, 0, 0, 0])


def test_unused_outputs_of_add_layer_norm(rng):
    x, residual, w = (Tensor(rng.standard_normal((3, 4)), requires_grad=True) for _ in range(3))
    w = Tensor(rng.standard_normal(4), requires_grad=True)
    dr = rng.standard_normal((3, 4))
    F.add_layer_norm(x, residual, w, None)[1].backward(dr)
    assert np.array_equal(x.grad, dr) and np.array_equal(residual.grad, dr)
    assert w.grad is None or not w.grad.any()


def test_unused_outputs_of_elbo(rng):
    r, mu, logvar = (Tensor(rng.standard_normal((4, 3)), requires_grad=True) for _ in range(3))
    F.elbo(r, np.ones((4, 3)), mu, logvar, beta=7.0, parts=True)[2].backward()
    assert not r.grad.any()
    np.testing.assert_allclose(mu.grad, mu.data / 4, rtol=1e-15)
    np.testing.assert_allclose(logvar.grad, (np.exp(logvar.data) - 1) / 8, rtol=1e-14)


def test_integer_outputs_have_no_gradient():
    x = leaf(1.5, 2.5)
    assert not x.astype("int64").requires_grad
    assert not (x > 2).requires_grad


# --- two threads ----------------------------------------


def test_backward_in_two_threads_on_two_graphs():
    found = {}

    def work(k):
        x = Tensor(np.full(50, float(k)), requires_grad=True)
        for _ in range(200):
            y = x
            for _ in range(10):
                y = y * 1.0 + x
            y.sum().backward()
        found[k] = x.grad

    threads = [threading.Thread(target=work, args=(k,)) for k in (1, 2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(np.array_equal(found[k], np.full(50, 200 * 11.0)) for k in (1, 2))


def test_no_grad_is_one_threads_own_affair():
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append((leaf(1.0) * 2).requires_grad))
        thread.start()
        thread.join()
    assert seen == [True]
