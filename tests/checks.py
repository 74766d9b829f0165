"""What is asked of every case: that it agrees with PyTorch, and that it is pure.

`compare` runs a case three times: ours and torch in the dtype under test, and torch in float64 as the oracle on the
same rounded inputs. `check_purity` watches every array around a forward and a backward pass. Both are used by the
ordinary tests and, on planted errors, by test_harness.py.
"""

import zlib

import numpy as np
import torch

from tests.cases import run
from tests.judge import Draw, judge, rms

TORCH_DTYPES = {np.dtype(n): getattr(torch, n) for n in ("float16", "float32", "float64")}


# --- against PyTorch ----------------------------------------


SMALL, DRAWS = 64, 8  # an array with fewer entries is judged over this many draws, except in float64


def compare(case, dtype, layout=None):
    """Judge outputs and gradients of `case` in `dtype`; `layout` may rearrange our inputs' memory, not their values.

    Returns False where torch has no implementation in this dtype (then only the oracle judged), else True.
    """
    found = _one_draw(case, dtype, 0, layout)
    small = any(draw.oracle.size < SMALL for draw in found.values())
    rest = range(1, DRAWS) if small and dtype != np.float64 else ()
    every = [found, *(_one_draw(case, dtype, number, layout) for number in rest)]
    for what in found:
        judge(f"{case.name}: {what}", [one[what] for one in every], dtype)
    return all(draw.theirs is not None for draw in found.values())


def _one_draw(case, dtype, number, layout) -> dict:
    """{"output 0" or "gradient of input 1": Draw} for one draw of the inputs."""
    arrays = case.arrays(dtype, number)
    draw_dys = lambda outputs: _random_dys(case, outputs, dtype, number)
    oracle, oracle_grads, dys = _run_torch(case, case.oracle or case.torch, arrays, np.float64, draw_dys)
    theirs, their_grads = [None] * len(oracle), [None] * len(oracle_grads)
    try:
        theirs, their_grads, _ = _run_torch(case, case.torch, arrays, dtype, lambda outputs: dys)
    except RuntimeError as error:
        if dtype != np.float16 or "not implemented" not in str(error):
            raise
    ours, our_grads = _run_ours(case, [layout(a) for a in arrays] if layout else arrays, dys)
    assert len(ours) == len(oracle), f"{case.name}: {len(ours)} outputs, should be {len(oracle)}"
    given = rms(np.concatenate([np.ravel(a).astype(np.float64) for a in arrays if a.dtype.kind == "f"]))
    found = {f"output {i}": Draw(*three, given) for i, three in enumerate(zip(ours, oracle, theirs))}
    for i, (g, o, t) in enumerate(zip(our_grads, oracle_grads, their_grads)):
        if o is None:  # torch found no way from this input to the outputs
            assert g is None or not g.any(), f"{case.name}: gradient of input {i} is {g}, torch has none"
        else:
            found[f"gradient of input {i}"] = Draw(g, o, t, given)
    return found


def _random_dys(case, outputs, dtype, number=0):
    """Random, never ones: rounded to the dtype under test; None for an output without a gradient."""
    rng = np.random.default_rng([zlib.crc32(case.name.encode()), number, 1])
    return [rng.standard_normal(tuple(y.shape)).astype(dtype) if y.requires_grad else None for y in outputs]


def _run_torch(case, f, arrays, dtype, draw_dys):
    """(outputs, gradients, dys) as arrays; draw_dys: outputs -> an array or None for each."""
    kind = TORCH_DTYPES[np.dtype(dtype)]
    inputs = [torch.from_numpy(np.array(a)) for a in arrays]
    inputs = [x.to(kind).requires_grad_(n) if x.is_floating_point() else x for x, n in zip(inputs, case.needs(arrays))]
    y = f(*inputs)
    outputs = y if isinstance(y, tuple) else (y,)
    dys = draw_dys(outputs)
    used = [(y, torch.from_numpy(dy.copy()).to(y.dtype)) for y, dy in zip(outputs, dys) if dy is not None]
    torch.autograd.backward([y for y, _ in used], [dy for _, dy in used])
    grads = [x.grad.numpy() if x.requires_grad and x.grad is not None else None for x in inputs]
    return [y.detach().numpy() for y in outputs], grads, dys


def _run_ours(case, arrays, dys):
    outputs, tensors = run(case, arrays)
    wants = [y.requires_grad for y in outputs]
    assert wants == [dy is not None for dy in dys], f"{case.name}: outputs require gradients {wants}, torch's differ"
    for i, (y, dy) in enumerate(zip(outputs, dys)):
        assert dy is None or y.shape == dy.shape, f"{case.name}: output {i} has shape {y.shape}, should be {dy.shape}"
    backward_all(outputs, dys)
    return [y.data for y in outputs], [getattr(t, "grad", None) for t in tensors]


def backward_all(outputs, dys, retain_graph=False):
    """Backward from every output that has a gradient, over one graph."""
    used = [(y, dy) for y, dy in zip(outputs, dys) if dy is not None]
    for i, (y, dy) in enumerate(used):
        y.backward(dy, retain_graph=retain_graph or i + 1 < len(used))


# --- purity ----------------------------------------


def check_purity(case):
    """Raise AssertionError where an operation writes to what it was given, or gradients share memory, or `saved` holds
    anything but arrays, host values, None and tuples of such."""
    arrays = case.arrays(np.float32)
    outputs, tensors = run(case, arrays)
    dys = _random_dys(case, outputs, np.float32)
    nodes = _nodes(outputs)
    for node in nodes:
        _check_plain(f"{case.name}: saved of {node.name}", node.saved)
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
