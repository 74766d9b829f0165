"""Every smooth case's gradients against finite differences in float64."""

import pytest

from bench.parity.cases import SMOOTH, case_id
from bench.parity.gradcheck import check_case


@pytest.mark.parametrize("case", SMOOTH, ids=case_id)
def test_gradients_by_finite_differences(case):
    check_case(case)
