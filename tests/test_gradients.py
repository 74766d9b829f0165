"""Every smooth case's gradients against finite differences in float64."""

import pytest

from tests.gradcheck import check_case
from tests.specs import SMOOTH, case_id


@pytest.mark.parametrize("case", SMOOTH, ids=case_id)
def test_gradients_by_finite_differences(case):
    check_case(case)
