"""Test a function of your own by the cases and the oracle that test ours: `assay parity OP FILE:FUNCTION`.

`check` is the same from Python. Your function takes what the function of core.functional with that name takes (see
its docstring for shapes and options), as torch tensors or as our Tensors; torch's autograd or ours differentiates it.
"""

import numpy as np

import core.functional
from bench.parity.cases import CASES, run
from bench.parity.cases.inputs import instead
from bench.parity.comparing import comparisons, run_ours, torch_backward, torch_inputs, torch_results


class Refused(Exception):
    """The function raised NotImplementedError: it does not claim this case."""


def cases_of(name):
    """The cases that call core.functional's function `name`."""

    class Called(Exception):
        pass

    def called(*args, **options):
        raise Called

    found = []
    for case in CASES:
        try:
            with instead(name, called):
                run(case, case.arrays())
        except Called:
            found.append(case)
    return found


def check(function, name, dtype="float32", *, takes="torch", device="cpu", forward_only=False, pattern=""):
    """Test `function` where core.functional's `name` stands: a list of (case name, comparisons or why there are none).

    takes: "torch" (tensors on `device`, gradients by torch's autograd) or "assay" (our Tensors); forward_only leaves
    gradients out; pattern: only cases whose name holds it. A case for which the function raises NotImplementedError is
    listed as not supported: it neither passes nor fails.
    """
    if name not in core.functional.__all__:
        raise ValueError(f"check: name is {name!r}, should be one of {', '.join(core.functional.__all__)}")
    subject = _on_torch(device, forward_only) if takes == "torch" else run_ours
    rows = []
    for case in (c for c in cases_of(name) if pattern in c.name):
        with instead(name, _refusing(function)):
            rows.append((case.name, _outcome(case, np.dtype(dtype), subject, device, forward_only)))
    return rows


def _refusing(function):
    def call(*args, **options):
        try:
            return function(*args, **options)
        except NotImplementedError as error:
            raise Refused(str(error) or "raised NotImplementedError") from None

    return call


def _outcome(case, dtype, subject, device, forward_only):
    try:
        found = comparisons(case, dtype, subject=subject, device=device)
    except Refused as why:
        return f"not supported: {why}"
    except Exception as error:
        return f"FAILED: {type(error).__name__}: {error}"
    return [c for c in found if not (forward_only and c.what.startswith("gradient"))]


def _on_torch(device, forward_only):
    """Runs a case on torch tensors, its function replaced by one that takes them."""

    def subject(case, arrays, dys):
        dtype = next(a.dtype for a in arrays if a.dtype.kind == "f")
        inputs = torch_inputs(case, arrays, dtype, device)
        y = case.ours(*inputs)
        outputs = y if isinstance(y, tuple) else (y,)
        if forward_only:  # `_outcome` leaves the gradients out
            return torch_results(outputs, [])[0], [np.zeros_like(a) for a in arrays]
        torch_backward(outputs, dys)
        return torch_results(outputs, inputs)

    return subject
