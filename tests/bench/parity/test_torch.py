"""Every case against PyTorch, outputs and gradients: algebra in float64, rounding in float32 and float16.

The rule is in parity.py. float16 is what a GPU stores; torch's CPU has most of it too, and where it has none
(WITHOUT_HALF) the oracle alone tests, at 2 eps.
"""

import numpy as np
import pytest
import torch

from bench.parity.cases import BENCH, CASES, case_id, expected
from bench.parity.comparing import compare
from bench.parity.rule import Draw, assert_accurate
from core import Tensor
from core import functional as F
from core.reference import conv, cross_entropy
from tests.suite import first_of_each

WITHOUT_HALF = frozenset()  # cases whose operation torch 2.13 does not implement in float16 on the CPU

pytestmark = pytest.mark.usefixtures("reference")  # kernels: test_cpu_kernels.py


def compare_as_expected(case, dtype):
    """Test the case; the implementation that ran is the one that specs.py expects."""
    found = compare(case, dtype)
    assert {c.backend for c in found} == {expected(case, dtype)}
    return found


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_float64(case):
    compare_as_expected(case, np.float64)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_float32(case):
    compare_as_expected(case, np.float32)


@pytest.mark.full
@pytest.mark.parametrize("case", BENCH, ids=case_id)
def test_float32_at_the_sizes_of_the_models(case):
    compare_as_expected(case, np.float32)


@pytest.mark.parametrize("case", first_of_each(CASES), ids=case_id)
def test_float16(case):
    has_baseline = all(c.verdict.theirs for c in compare_as_expected(case, np.float16))
    assert has_baseline == (case.name not in WITHOUT_HALF), "torch's support has changed: bring WITHOUT_HALF up to date"


def _backwards(x):
    """The same values, stored back to front along every axis: no stride is what a fresh array's would be."""
    flip = (slice(None, None, -1),) * x.ndim
    return x[flip].copy()[flip] if x.ndim else x


STRIDED = [c for c in CASES if any(a.size > 1 for a in c.arrays())]


@pytest.mark.parametrize("case", first_of_each(STRIDED), ids=case_id)
def test_strided_inputs(case):
    compare(case, np.float64, layout=_backwards)


BLOCKED = [c for c in CASES if c.name.startswith(("conv", "linear_cross_entropy"))]


@pytest.mark.parametrize("case", BLOCKED, ids=case_id)
def test_many_small_blocks(case, monkeypatch):
    """Work is cut into blocks of a size for caches, which no small test fills: here each block holds a little."""
    monkeypatch.setattr(conv, "BLOCK", 300)
    monkeypatch.setattr(cross_entropy, "CHUNK", 10)
    compare(case, np.float64)


# --- the closed forms, from another side ----------------------------------------


def test_gaussian_kl_is_the_divergence_of_distributions(rng):
    mu, logvar = rng.standard_normal((2, 5, 3))
    q = torch.distributions.Normal(torch.tensor(mu), torch.tensor(0.5 * logvar).exp())
    oracle = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).numpy()
    assert_accurate("gaussian_kl", [Draw(F.gaussian_kl(mu, logvar, reduction="none").data, oracle)], np.float64)


def test_elbo_is_the_likelihood_less_the_divergence(rng):
    logits, mu, logvar = rng.standard_normal((4, 6)), rng.standard_normal((4, 2)), rng.standard_normal((4, 2))
    x = (rng.random((4, 6)) < 0.5).astype(float)
    likelihood = torch.distributions.Bernoulli(logits=torch.tensor(logits)).log_prob(torch.tensor(x)).sum(1)
    q = torch.distributions.Normal(torch.tensor(mu), torch.tensor(0.5 * logvar).exp())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)
    found = F.elbo(logits, x, mu, logvar, beta=2.0, parts=True)
    for name, y, oracle in zip(("loss", "reconstruction", "kl"), found, (2 * kl - likelihood, -likelihood, kl)):
        assert_accurate(f"elbo: {name}", [Draw(y.data, oracle.mean().numpy())], np.float64)


# --- float16 activations with float32 weights and statistics, as training on a GPU has them -------------------------


def test_half_precision_norms_keep_float32_weights(rng):
    x, w, b = rng.standard_normal((6, 5)), rng.standard_normal(5), rng.standard_normal(5)
    x, w, b, dy = (a.astype(t) for a, t in zip((x, w, b, x + 1), ("float16", "float32", "float32", "float16")))
    tensors = [Tensor(a, requires_grad=True) for a in (x, w, b)]
    y = F.layer_norm(*tensors)
    y.backward(dy)
    exact = [torch.tensor(a.astype(float), requires_grad=True) for a in (x, w, b)]
    z = torch.nn.functional.layer_norm(exact[0], (5,), exact[1], exact[2])
    z.backward(torch.tensor(dy.astype(float)))
    assert_accurate("layer_norm: y", [Draw(y.data, z.detach().numpy())], np.float16)
    assert_accurate("layer_norm: dx", [Draw(tensors[0].grad, exact[0].grad.numpy())], np.float16)
    for name, ours, oracle in zip(("dw", "db"), tensors[1:], exact[1:]):
        assert ours.grad.dtype == np.float32
        assert_accurate(f"layer_norm: {name}", [Draw(ours.grad, oracle.grad.numpy())], np.float32)


def test_running_statistics_of_a_half_precision_batch_are_float32(rng):
    """The batch's mean and variance must not pass through float16 on their way into float32 statistics."""
    x = rng.standard_normal((400, 3)) * [1.0, 30.0, 300.0] + [0.1, 3.0, 100.0]  # a variance of 90,000 is no float16
    x = x.astype(np.float16)
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    F.batch_norm(x, mean, var, training=True, momentum=1.0)
    exact = x.astype(float)
    assert_accurate("running mean", [Draw(mean, exact.mean(0))], np.float32)
    assert_accurate("running variance", [Draw(var, exact.var(0, ddof=1))], np.float32)
