"""The mutants of GPU kernels, which the interpreter catches; apart from the others, so that two processes share the
work."""

import pytest

from tests.mutants.mutants_gpu import KERNELS


@pytest.mark.full
@pytest.mark.parametrize("mutant", KERNELS.values(), ids=KERNELS.keys())
def test_the_interpreter_catches_it(mutant, runner):
    assert runner.catches(mutant)
