"""What every test shares: one thread for torch (the suite is many tiny arrays), a seeded random generator, and a run
that nothing happened to."""

import subprocess

import numpy as np
import pytest
import torch

from core import use
from tests import ROOT
from tests.models.training.crashing import TRAIN, command
from tests.suite import pytest_addoption, pytest_configure  # noqa: F401  (hooks)

torch.set_num_threads(1)


@pytest.fixture
def rng():
    return np.random.default_rng(20240601)


@pytest.fixture
def reference():
    """No kernels: what these tests look at is the reference."""
    with use("reference"):
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A finished GAN run of 12 steps that nothing happened to."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    subprocess.run(command(*TRAIN, "--out", folder), cwd=ROOT, check=True, capture_output=True)
    return folder
