"""The one list of cases: every differentiable operation and every function of core.functional, at every edge we know.

The cases lie in four files by family; whoever checks operations (gradients, PyTorch, purity, and later the kernels)
goes through CASES. `covered` says which operations a list of cases runs, so that a forgotten one turns a test red.
"""

from core import Tensor
from core.dispatch import TABLE, recording
from core.op import Op
from tests import cases_image, cases_layers, cases_losses, cases_pointwise, cases_shape

CASES = [
    *cases_pointwise.CASES,
    *cases_shape.CASES,
    *cases_image.CASES,
    *cases_layers.CASES,
    *cases_losses.CASES,
]
BY_NAME = {case.name: case for case in CASES}
SMOOTH = [case for case in CASES if case.smooth]

DIFFERENTIABLE = {name for name, row in TABLE.items() if isinstance(row.reference, Op)}


def case_id(case):
    return case.name


def run(case, arrays):
    """The case's own function on Tensors, for its side effects: (outputs as a tuple, Tensors)."""
    needs = case.needs(arrays)
    tensors = [Tensor(a, requires_grad=n) if a.dtype.kind == "f" else a for a, n in zip(arrays, needs)]
    y = case.ours(*tensors)
    return y if isinstance(y, tuple) else (y,), tensors


def covered(cases) -> set:
    """The names of the operations that these cases run."""
    with recording() as log:
        for case in cases:
            run(case, case.arrays())
    return {name for name, _ in log}
