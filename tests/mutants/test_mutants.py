"""The plants are where they claim to be; `make test-all` applies each to the real code and sees the suite turn red."""

import pytest

from tests import ROOT
from tests.mutants.mutants import PLANTS
from tests.mutants.mutants_gpu import KERNELS


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_a_plant_changes_one_place(plant):
    assert (ROOT / plant.file).read_text().count(plant.old) == 1 and plant.old != plant.new


OTHERS = {name: plant for name, plant in PLANTS.items() if name not in KERNELS}  # those: test_gpu_mutants.py


@pytest.mark.full
@pytest.mark.parametrize("plant", OTHERS.values(), ids=OTHERS.keys())
def test_the_ordinary_suite_catches_it(plant, garden):
    assert garden.catches(plant)
