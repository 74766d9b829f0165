"""What is asked of every case besides its numbers: that it writes to nothing it was given, and keeps nothing in vain.

`check_purity` watches every array around a forward and a backward pass; `saved_in_vain` spoils what was saved.
"""

import numpy as np

from bench.parity.cases import run
from bench.parity.comparing import backward_all, random_dys


def check_purity(case):
    """Raise AssertionError where an operation writes to what it was given, or gradients share memory, or `saved` holds
    anything but arrays, host values, None and tuples of such."""
    arrays = case.arrays(np.float32)
    outputs, tensors = run(case, arrays)
    dys = random_dys(case, outputs, np.float32)
    nodes = _nodes(outputs)
    for node in nodes:
        _check_plain(f"{case.name}: saved of {node.op.name}", node.saved)
    saved = [a for node in nodes for a in _arrays_in(node.saved)]
    watched = [("input", a) for a in arrays] + [("output", y.data) for y in outputs]
    watched += [("dy", dy) for dy in dys if dy is not None] + [("saved array", a) for a in saved]
    before = [a.tobytes() for _, a in watched]
    fresh = case.arrays(np.float32)
    backward_all(outputs, dys, retain_graph=True)
    for (what, a), then in zip(watched, before):
        assert a.tobytes() == then, f"{case.name}: backward wrote to an {what} of shape {a.shape}"
    for i, (a, b) in enumerate(zip(arrays, fresh)):
        assert a.tobytes() == b.tobytes(), f"{case.name}: forward wrote to input {i}"
    grads = [t.grad for t in tensors if getattr(t, "grad", None) is not None]
    _check_own_memory(case.name, grads, [a for _, a in watched])
    _check_repeatable(case.name, outputs, dys, tensors)
    _check_read_only(case, dys)


def _check_own_memory(name, grads, others):
    for i, g in enumerate(grads):
        assert isinstance(g, np.ndarray), f"{name}: gradient {i} is a {type(g).__name__}, should be an array"
        assert g.flags.writeable, f"{name}: gradient {i} is read-only: accumulating into it would raise"
        for other in others + grads[:i]:
            assert not np.may_share_memory(g, other), f"{name}: gradient {i} shares memory with another array"


def _check_repeatable(name, outputs, dys, tensors):
    """A second pass over a retained graph gives the same gradients to the bit, so what was saved is intact."""
    leaves = [t for t in tensors if getattr(t, "grad", None) is not None]
    first = [t.grad.copy() for t in leaves]
    for t in leaves:
        t.grad = None
    backward_all(outputs, dys, retain_graph=True)
    for i, (t, g) in enumerate(zip(leaves, first)):
        assert np.array_equal(t.grad, g, equal_nan=True), f"{name}: gradient {i} differs in a second backward pass"


def _check_read_only(case, dys):
    """Nothing tries to write even where writing would change nothing."""
    arrays, dys = case.arrays(np.float32), [None if dy is None else dy.copy() for dy in dys]
    for a in [*arrays, *(dy for dy in dys if dy is not None)]:
        a.flags.writeable = False
    try:
        outputs, _ = run(case, arrays)
        backward_all(outputs, dys)
    except ValueError as error:
        raise AssertionError(f"{case.name}: wrote to a read-only input or dy: {error}") from error


def _nodes(outputs):
    """Every node behind these outputs."""
    seen, stack = {}, [y._node for y in outputs if y._node is not None]
    while stack:
        node = stack.pop()
        seen[id(node)] = node
        stack += [e[0] for e in node.edges if e is not None and hasattr(e[0], "edges") and id(e[0]) not in seen]
    return list(seen.values())


def _check_plain(where, x):
    if isinstance(x, tuple):
        for item in x:
            _check_plain(where, item)
        return
    plain = (np.ndarray, np.generic, np.dtype, int, float, bool, str, type(None))
    assert isinstance(x, plain), f"{where} holds a {type(x).__name__}, should hold arrays and host values"


def _arrays_in(x):
    if isinstance(x, tuple):
        for item in x:
            yield from _arrays_in(item)
    elif isinstance(x, np.ndarray):
        yield x


# --- what is saved is read ----------------------------------------


def saved_in_vain(cases) -> set:
    """(operation, activation, place in `saved`) of a kernel's arrays whose spoiling changes no gradient in any case.

    Spoiled: nan in every place of a floating one, the opposite of a boolean one; integers are left alone."""
    found, read = set(), set()
    for case in cases:
        outputs, tensors = run(case, case.arrays(np.float32))
        dys = random_dys(case, outputs, np.float32)
        first = _gradients(outputs, dys, tensors)
        for node in (n for n in _nodes(outputs) if n.op.name == case.op and n.op.backend != "reference"):
            saved = node.saved
            for place, a in _places(saved):
                node.saved = _spoiled(saved, a)
                same = first == _gradients(outputs, dys, tensors)
                (found if same else read).add((case.op, case.options.get("act"), place))
            node.saved = saved
    return found - read


def _gradients(outputs, dys, tensors):
    """All gradients, as bytes: nan is nan."""
    leaves = [t for t in tensors if getattr(t, "requires_grad", False)]
    for t in leaves:
        t.grad = None
    backward_all(outputs, dys, retain_graph=True)
    return [t.grad.tobytes() for t in leaves if t.grad is not None]


def _places(x, place=()):
    """(place, array) of what can be spoiled."""
    if isinstance(x, tuple):
        for i, item in enumerate(x):
            yield from _places(item, (*place, i))
    elif isinstance(x, np.ndarray) and x.size and x.dtype.kind in "fb":
        yield place, x


def _spoiled(x, target):
    if isinstance(x, tuple):
        return tuple(_spoiled(item, target) for item in x)
    return x if x is not target else ~x if x.dtype == bool else np.full_like(x, np.nan)
