"""What every test shares: one thread for torch (the suite is many tiny arrays), and a seeded random generator."""

import numpy as np
import pytest
import torch

from core import use

torch.set_num_threads(1)


@pytest.fixture
def rng():
    return np.random.default_rng(20240601)


@pytest.fixture
def reference():
    """No kernels: what these tests look at is the reference."""
    with use("reference"):
        yield
