"""The plants are where they claim to be; `make test-all` applies each to the real code and sees the suite turn red."""

import pytest

from tests.mutants.mutant_runner import ROOT, Garden
from tests.mutants.mutants import PLANTS


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_a_plant_changes_one_place(plant):
    assert (ROOT / plant.file).read_text().count(plant.old) == 1 and plant.old != plant.new


@pytest.fixture(scope="module")
def garden(tmp_path_factory):
    return Garden(tmp_path_factory.mktemp("garden"))


@pytest.mark.full
@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_the_ordinary_suite_catches_it(plant, garden):
    assert garden.catches(plant)
