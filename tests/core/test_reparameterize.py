"""A VAE's sampling step draws its noise itself, in both directions, and keeps none of it."""

import numpy as np
import pytest

import core.functional as F
from core import Generator, Tensor, dispatch, random


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_reparameterize_draws_the_generators_noise_forward_and_backward(rng, dtype):
    mu, logvar, dz = (rng.standard_normal((50, 7)).astype(dtype) for _ in range(3))
    wide = np.float64 if dtype == np.float64 else np.float32

    def sampled(noise, generator):
        leaves = [Tensor(a, requires_grad=True) for a in (mu, logvar)]
        with generator:
            z = F.reparameterize(*leaves, noise=noise)
        generator.advance_()  # a step may end before somebody goes back
        z.backward(dz)
        return z.data, *(leaf.grad for leaf in leaves)

    with Generator(3) as g:
        noise = random.normal(mu.shape, wide)
        assert g.draw == 1
    drawn, given = sampled(None, Generator(3)), sampled(noise, Generator(4))
    for one, other in zip(drawn, given):
        assert one.dtype == dtype and np.array_equal(one, other.astype(dtype))
    with random.record() as draws:
        recorded = sampled(None, Generator(3))
    assert np.array_equal(draws[0], noise) and len(draws) == 1
    assert all(np.array_equal(one, other) for one, other in zip(drawn, recorded))


def test_reparameterize_keeps_no_noise(rng):
    mu, logvar = rng.standard_normal((2, 50, 7))
    _, step, key = random.normal_draw(mu.shape, np.float64)
    op, _ = dispatch.choose("reparameterize", [mu, logvar, None, step], key)
    _, saved = op.forward(mu, logvar, None, step, **key)
    assert all(x is None or x is logvar or x.size == 1 for x in saved)
