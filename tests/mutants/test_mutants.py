"""The mutants are where they claim to be; `make test-all` applies each to the real code and sees the suite turn red."""

import pytest

from tests import ROOT
from tests.mutants.mutants import MUTANTS
from tests.mutants.mutants_gpu import KERNELS


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_a_mutant_changes_one_place(mutant):
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1 and mutant.old != mutant.new


OTHERS = {name: mutant for name, mutant in MUTANTS.items() if name not in KERNELS}  # those: test_gpu_mutants.py


@pytest.mark.full
@pytest.mark.parametrize("mutant", OTHERS.values(), ids=OTHERS.keys())
def test_the_ordinary_suite_catches_it(mutant, runner):
    assert runner.catches(mutant)
