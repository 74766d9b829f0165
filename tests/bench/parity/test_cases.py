"""The list of cases itself: complete, explicit, every one for a reason of its own."""

from collections import Counter

import numpy as np
import pytest

from bench.parity.cases import BENCH, CASES, DIFFERENTIABLE, FAMILIES, NOTHING_RUNS, SMOOTH, covered, family, run
from core import functional as F
from core.observe import tracing

DTYPES = 3  # each case is tested in float64, float32 and float16


def comparisons(cases) -> Counter:
    """How many arrays are tested, by operation: outputs, and gradients of the inputs that want one."""
    count = Counter()
    for case in cases:
        arrays = case.arrays(np.float32)
        outputs, _ = run(case, arrays)
        count[case.op] += DTYPES * (len(outputs) + sum(case.needs_input_grad(arrays)))
    return count


COUNT = comparisons(CASES)


def test_enough_is_compared_and_not_the_easy_part():
    assert COUNT.total() >= 1500
    assert all(COUNT[op] >= 150 for op in ("conv2d", "conv_transpose2d", "attention"))
    assert COUNT["cross_entropy"] + COUNT["linear_cross_entropy"] >= 150
    assert sum(COUNT[op] for op in FAMILIES["elementwise"]) <= COUNT.total() / 4


def test_every_operation_has_a_case_and_a_family():
    assert covered(SMOOTH) >= DIFFERENTIABLE, f"without a smooth case: {sorted(DIFFERENTIABLE - covered(SMOOTH))}"
    assert set(FAMILIES) == {family(op) for op in DIFFERENTIABLE}
    with pytest.raises(LookupError, match=r"'cosh', should be in one of FAMILIES in bench/parity/cases/__init__\.py"):
        family("cosh")


def test_every_public_function_is_called_by_a_case(monkeypatch):
    called = set()

    def counted(name, f):
        def wrapper(*args, **options):
            called.add(name)
            return f(*args, **options)

        return wrapper

    for name in F.__all__:
        monkeypatch.setattr(F, name, counted(name, getattr(F, name)))
    for case in CASES:
        run(case, case.arrays())
    assert called == set(F.__all__)


def test_names_are_unique_and_begin_with_the_operation_that_runs():
    names = [case.name for case in [*CASES, *BENCH]]
    assert len(set(names)) == len(names)
    for case in CASES:
        assert case.name in NOTHING_RUNS or case.op in covered([case]), f"{case.name} does not run {case.op}"


def signature(case):
    """What makes a case's branch: the operations it runs with their shapes and options, which gradients are wanted,
    and what kinds of numbers go in."""
    arrays = case.arrays()
    with tracing() as trace:
        run(case, arrays)
    shape = lambda x: None if x is None else x.shape or x.item()  # of a 0-dimensional one, its value
    calls = tuple((op, (*map(shape, given),), repr(sorted(attrs.items(), key=str))) for op, given, attrs, _ in trace)
    return calls, tuple(case.needs_input_grad(arrays)), tuple(_kinds(a) for a in arrays)


def _kinds(a):
    """Classes of numbers in an array: which special ones, how large; of a few whole ones, all."""
    if a.dtype.kind != "f":
        return a.dtype.kind, *((int(a.min()), int(a.max())) if a.size and a.size < 50 else ())
    finite = np.abs(a[np.isfinite(a)])
    size = int(np.round(np.log10(finite[finite > 0]).mean())) if (finite > 0).any() else None
    if a.size <= 8 and (finite == np.round(finite)).all():
        return tuple(map(str, a.ravel()))
    special = np.isnan(a).any(), np.isposinf(a).any(), np.isneginf(a).any(), (a == 0).any(), (a < 0).any()
    return size, *special


def test_no_two_cases_are_alike():
    seen = {}
    for case in CASES:
        key = (case.op, *signature(case))
        assert case.name in NOTHING_RUNS or key not in seen, f"{case.name} exercises what {seen[key]} does"
        seen[key] = case.name


def test_bench_shapes_are_no_test_shapes():
    """Large and regular, as models have them: each is larger than any test of its operation."""
    for case in BENCH:
        size = sum(a.size for a in case.arrays())
        tested = (c.arrays() for c in CASES if c.op == case.op)
        assert size > max(sum(a.size for a in arrays) for arrays in tested if all(a.size for a in arrays)), case.name
