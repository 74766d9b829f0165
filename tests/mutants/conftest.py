"""The copy of the project that each file's mutants are planted in."""

import pytest

from tests.mutants.mutant_runner import Garden


@pytest.fixture(scope="module")
def garden(tmp_path_factory):
    return Garden(tmp_path_factory.mktemp("garden"))
