"""Random numbers of the CPU kernels: the reference's bits at every offset; normals pass the accuracy test."""

import numpy as np
import pytest

from bench.parity.rule import Draw, assert_accurate
from core.reference import random as reference
from kernels.cpu import random as kernels

KEY = 2**63 + 5, 3, np.array(2**31 + 9)  # seed, draw, step: each fills its words
OFFSETS = (0, 1, 7, 8, 13, 2**35 - 3, 2**40 + 6)  # block numbers on both sides of 2^32
LENGTHS = (0, 1, 9, 515, 40_000)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.99999, 1.0])
@pytest.mark.parametrize("offset", OFFSETS)
def test_masks_have_the_references_bits(p, offset):
    for n in LENGTHS:
        found = kernels.keep_mask((n,), p, *KEY, offset)
        assert found.dtype == bool and np.array_equal(found, reference.keep_mask((n,), p, *KEY, offset))


@pytest.mark.parametrize("offset", OFFSETS)
def test_uniforms_have_the_references_bits(offset):
    for n in LENGTHS:
        expected = reference.uniform((n,), *KEY, np.float32, offset)
        assert np.array_equal(kernels.uniform((n,), *KEY, np.float32, offset), expected)


@pytest.mark.parametrize("offset", OFFSETS)
def test_normals_follow_the_formula(offset):
    oracle = reference.normal((40_003,), *KEY, np.float64, offset)
    ours = kernels.normal((40_003,), *KEY, np.float32, offset)
    assert_accurate(
        "normals", [Draw(ours, oracle, oracle.astype(np.float32))], np.float32
    )  # the baseline: a single rounding


@pytest.mark.parametrize("draw", ["uniform", "normal", "keep_mask"])
@pytest.mark.parametrize("backend", [kernels, reference], ids=["kernel", "reference"])
def test_a_part_has_the_draws_of_its_place_in_the_whole(backend, draw):
    def drawn(n, offset=0):
        if draw == "keep_mask":
            return backend.keep_mask((n,), 0.4, *KEY, offset)
        return getattr(backend, draw)((n,), *KEY, np.float32, offset)

    whole = drawn(3000)
    for start, stop in ((0, 10), (1, 2), (2, 2000), (5, 9), (1023, 3000)):
        assert np.array_equal(drawn(stop - start, start), whole[start:stop])
