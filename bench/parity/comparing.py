"""One case computed three times: by us and by torch in the dtype under test, and by torch in float64 as the oracle.

All three start from the same inputs, rounded to the dtype under test, and the same random dy. `compare` is what the
tests call; `tested` gives the verdicts themselves, which the parity report writes down.
"""

import zlib
from typing import NamedTuple

import numpy as np
import torch

from bench.parity.cases import run
from bench.parity.rule import Draw, Verdict, assess, rms
from core import engine
from core.observe import recording

TORCH_DTYPES = {np.dtype(n): getattr(torch, n) for n in ("float16", "float32", "float64")}
ENOUGH, MOST = 1024, 32  # entries that a verdict should rest on, and draws that are made to have them ...
AT_ONCE = 1 << 18  # ... unless that makes so many of the largest array


class Comparison(NamedTuple):
    """One tested array: "output 0" or "gradient of input 1" of a case, and which implementation made it."""

    case: str
    what: str
    backend: str
    verdict: Verdict


def compare(case, dtype, layout=None):
    """Test outputs and gradients of `case` in `dtype`, or raise AssertionError; `layout` may rearrange our inputs'
    memory, not their values. Returns the comparisons."""
    found = comparisons(case, dtype, layout)
    for c in found:
        assert not c.verdict.fault, f"{c.case}: {c.what} in {c.verdict.dtype}: {c.verdict.fault}"
    return found


def comparisons(case, dtype, layout=None, subject=None, device="cpu", most=MOST, oracle="cpu") -> list[Comparison]:
    """The comparisons of one case, whatever the verdicts. `subject(case, arrays, dys) -> (outputs, gradients)` may
    stand in for our own code; `device` is where torch is asked how accurate it is, `oracle` where it computes float64;
    at most `most` draws."""
    where = {"device": device, "oracle": oracle}
    draw = lambda number: _one_draw(case, dtype, number, layout or (lambda a: a), subject or run_ours, **where)
    with recording() as log:
        first = draw(0)
    every = [first, *(draw(number) for number in range(1, _draws(first, dtype, most)))]
    backend = next((backend for name, backend in log if name == case.op), "none")
    return [Comparison(case.name, what, backend, assess([one[what] for one in every], dtype)) for what in first]


def _draws(first, dtype, most) -> int:
    """How many draws: enough for the smallest array that is not empty. float64 proves algebra: one will do."""
    sizes = [draw.oracle.size for draw in first.values() if draw.oracle.size]
    if not sizes or np.dtype(dtype) == np.float64:
        return 1
    return max(1, min(-(-ENOUGH // min(sizes)), most, AT_ONCE // max(sizes)))


def _one_draw(case, dtype, number, layout, subject, device, oracle) -> dict:
    """{"output 0" or "gradient of input 1": Draw} for one draw of the inputs."""
    arrays = case.arrays(dtype, number)
    draw_dys = lambda outputs: random_dys(case, outputs, dtype, number)
    *exact, dys = run_torch(case, case.oracle or case.torch, arrays, np.float64, draw_dys, oracle)
    theirs = baseline(case, arrays, dtype, dys, device) or [[None] * len(part) for part in exact]
    ours = subject(case, [layout(a) for a in arrays], dys)
    return drawn(case, arrays, ours, exact, theirs)


def drawn(case, arrays, ours, oracle, theirs) -> dict:
    """{"output 0" or "gradient of input 1": Draw} from what three computed, each as (outputs, gradients)."""
    assert len(ours[0]) == len(oracle[0]), f"{case.name}: {len(ours[0])} outputs, should be {len(oracle[0])}"
    given = rms(np.concatenate([np.ravel(a).astype(np.float64) for a in arrays if a.dtype.kind == "f"]))
    found = {f"output {i}": Draw(*three, given) for i, three in enumerate(zip(ours[0], oracle[0], theirs[0]))}
    for i, (g, o, t) in enumerate(zip(ours[1], oracle[1], theirs[1])):
        if o is None:  # torch found no way from this input to the outputs
            assert g is None or not g.any(), f"{case.name}: gradient of input {i} is {g}, torch has none"
        else:
            found[f"gradient of input {i}"] = Draw(g, o, t, given)
    return found


def baseline(case, arrays, dtype, dys, device):
    """torch in the dtype under test: (outputs, gradients), or None where it has no float16 implementation."""
    try:
        return run_torch(case, case.torch, arrays, dtype, lambda outputs: dys, device)[:2]
    except RuntimeError as error:
        if dtype != np.float16 or "not implemented" not in str(error):
            raise
        return None


def random_dys(case, outputs, dtype, number=0):
    """Random, never ones: rounded to the dtype under test; None for an output without a gradient."""
    rng = np.random.default_rng([zlib.crc32(case.name.encode()), number, 1])
    return [rng.standard_normal(tuple(y.shape)).astype(dtype) if y.requires_grad else None for y in outputs]


def torch_inputs(case, arrays, dtype, device="cpu"):
    """`arrays` as torch tensors, the floating ones in `dtype` and with a gradient where the case wants one."""
    inputs = [torch.from_numpy(np.array(a)).to(device) for a in arrays]
    kind = TORCH_DTYPES[np.dtype(dtype)]
    return [
        x.to(kind).requires_grad_(n) if x.is_floating_point() else x
        for x, n in zip(inputs, case.needs_input_grad(arrays))
    ]


def torch_backward(outputs, dys):
    """Backward from every torch output that has a gradient."""
    used = [(y, torch.from_numpy(dy.copy()).to(y)) for y, dy in zip(outputs, dys) if dy is not None]
    torch.autograd.backward([y for y, _ in used], [dy for _, dy in used])


def run_torch(case, f, arrays, dtype, draw_dys, device="cpu"):
    """(outputs, gradients, dys) as arrays; draw_dys: outputs -> an array or None for each."""
    inputs = torch_inputs(case, arrays, dtype, device)
    y = f(*inputs)
    outputs = y if isinstance(y, tuple) else (y,)
    dys = draw_dys(outputs)
    torch_backward(outputs, dys)
    return *torch_results(outputs, inputs), dys


def torch_results(outputs, inputs):
    """(outputs, gradients) of torch tensors as arrays, None for an input without a gradient."""
    grads = [x.grad.cpu().numpy() if x.grad is not None else None for x in inputs]
    return [y.detach().cpu().numpy() for y in outputs], grads


def run_ours(case, arrays, dys):
    """(outputs, gradients) of the case by our own code."""
    outputs, tensors = run(case, arrays)
    wants = [y.requires_grad for y in outputs]
    assert wants == [dy is not None for dy in dys], f"{case.name}: outputs require gradients {wants}, torch's differ"
    for i, (y, dy) in enumerate(zip(outputs, dys)):
        assert dy is None or y.shape == dy.shape, f"{case.name}: output {i} has shape {y.shape}, should be {dy.shape}"
    backward_all(outputs, dys)
    return [y.data for y in outputs], [getattr(t, "grad", None) for t in tensors]


def backward_all(outputs, dys, retain_graph=False):
    """Backward from every output that has a gradient, in one walk, as torch.autograd.backward."""
    roots = [(engine.source(y), dy.astype(y.dtype, copy=False)) for y, dy in zip(outputs, dys) if dy is not None]
    with np.errstate(all="ignore"):
        engine.accumulate(engine.backward_pass(roots, retain_graph))
