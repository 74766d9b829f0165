"""Every smooth case's gradients against finite differences in float64, and that no operation is left out."""

import pytest

from core import functional as F
from tests.cases import CASES, DIFFERENTIABLE, SMOOTH, case_id, covered, run
from tests.gradcheck import check_case


@pytest.mark.parametrize("case", SMOOTH, ids=case_id)
def test_gradients_by_finite_differences(case):
    check_case(case)


def test_every_differentiable_operation_has_a_smooth_case():
    assert covered(SMOOTH) >= DIFFERENTIABLE, f"without a case: {sorted(DIFFERENTIABLE - covered(SMOOTH))}"


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


def test_case_names_are_unique_and_begin_with_their_operation():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    for case in CASES:
        operation = case.name.partition("/")[0]
        assert operation in covered([case]) | {"dropout"}, f"{case.name} does not run {operation}"
