"""The copy of the project in which each file's mutants are tried."""

import pytest

from tests.mutants.mutant_runner import MutantRunner


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    return MutantRunner(tmp_path_factory.mktemp("mutants"))
