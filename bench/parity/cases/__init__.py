"""The one explicit list of cases: every operation and every function of core.functional, at every edge we know.

    CASES   small, with sizes that no block divides: what the tests compare. Each is named for the reason why it exists
    BENCH   the shapes of the models' own layers: what the benches time, and what `make test-all` tests too
    DEVICE  shapes that only a GPU is asked: `make gpu-check` tests and times them

Whoever checks operations (gradients, PyTorch, purity, the parity report, the kernels) goes through these. A case is
written in the file of its family in bench/parity/cases/. `expected` says which implementation has to run where kernels
are switched off (that each CPU kernel runs is tests/kernels/test_cpu_kernels.py's matter, each GPU kernel
tests/kernels/test_interpreter.py's); `covered` says which operations a list of cases runs, so that a forgotten one
turns a test red."""

from bench.parity.cases import (
    adversarial,
    attention,
    batch_norm,
    bench,
    conv,
    cross_entropy,
    device,
    embedding,
    group_norm,
    layer_norm,
    matmul,
    pointwise,
    random,
    reductions,
    reparameterize,
    shape,
    softmax,
    upsample,
    variational,
)
from core import Tensor
from core.engine import Op
from core.observe import recording
from core.table import TABLE

# What a family is tested by, section by section of the parity report: files of cases.
SECTIONS = {
    "convolution": (conv,),
    "attention": (attention,),
    "matrix products": (matmul,),
    "normalisation": (layer_norm, batch_norm, group_norm),
    "losses": (softmax, cross_entropy, variational, reparameterize, adversarial),
    "elementwise": (pointwise,),
    "shape and sums": (shape, reductions, embedding, upsample),
    "dropout": (random,),
}
CASES = [case for files in SECTIONS.values() for file in files for case in file.CASES]
BENCH = bench.CASES
DEVICE = device.CASES
BY_NAME = {case.name: case for case in [*CASES, *BENCH, *DEVICE]}
SMOOTH = [case for case in CASES if case.smooth]

FAMILIES = {  # section -> the operations whose accuracy is compared with torch's
    name: tuple(sorted({case.op for file in files for case in file.CASES})) for name, files in SECTIONS.items()
}

DIFFERENTIABLE = {name for name, row in TABLE.items() if isinstance(row.reference, Op)}
NOTHING_RUNS = {"dropout/p-0", "dropout/not-training"}  # the identity: no operation at all


def expected(case, dtype) -> str:
    """What has to run this case's operation where kernels are switched off."""
    return "none" if case.name in NOTHING_RUNS else "reference"


def family(op: str) -> str:
    for name, ops in FAMILIES.items():
        if op in ops:
            return name
    raise LookupError(f"family: operation is {op!r}, should be in one of FAMILIES in bench/parity/cases/__init__.py")


def case_id(case):
    return case.name


def run(case, arrays):
    """The case's own function on Tensors, for its side effects: (outputs as a tuple, Tensors)."""
    needs_input_grad = case.needs_input_grad(arrays)
    tensors = [Tensor(a, requires_grad=n) if a.dtype.kind == "f" else a for a, n in zip(arrays, needs_input_grad)]
    y = case.ours(*tensors)
    return y if isinstance(y, tuple) else (y,), tensors


def covered(cases) -> set:
    """The names of the operations that these cases run."""
    with recording() as log:
        for case in cases:
            run(case, case.arrays())
    return {name for name, _ in log}
