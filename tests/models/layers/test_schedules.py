"""Diffusion's arithmetic: what noise leaves of an image, what a network may predict, and the way back, which ends where
it should when the network is right."""

import functools

import numpy as np
import pytest

from models.layers.schedules import PREDICTIONS, SCHEDULES, Schedule, noise_of, target, x0_of

both = pytest.mark.parametrize("kind", SCHEDULES)


@both
def test_noising_step_by_step_has_the_mean_and_variance_of_noising_at_once(kind):
    """q(x_t | x_0) in closed form against T steps x <- sqrt(1 - beta) x + sqrt(beta) noise: moments, no samples."""
    schedule, mean, variance = Schedule(kind, 40), 1.0, 0.0
    for t in range(1, 41):
        kept = schedule.alpha_bar[t] / schedule.alpha_bar[t - 1]
        mean, variance = np.sqrt(kept) * mean, kept * variance + (1 - kept)
        a, s = schedule.signal_and_noise(t)
        assert a == pytest.approx(mean, rel=1e-12) and s**2 == pytest.approx(variance, rel=1e-12)
        tables = [float(x[0, 0, 0, 0]) for x in schedule.at(np.array([t]))]
        assert tables == pytest.approx([mean, np.sqrt(variance)], rel=1e-7)


def test_linear_is_that_of_ho_and_others():
    beta = 1 - SCHEDULES["linear"](1000)[1:] / SCHEDULES["linear"](1000)[:-1]
    assert beta[[0, -1]] == pytest.approx([1e-4, 0.02], rel=1e-9)
    assert np.diff(beta) == pytest.approx(np.full(999, (0.02 - 1e-4) / 999), rel=1e-6)


def test_cosine_is_that_of_nichol_and_dhariwal():
    """Their equation 17 but for the last steps, whose beta is cut to 0.999 so that something of the image is left."""
    found = SCHEDULES["cosine"](1000)
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    assert found[:-1] == pytest.approx((f / f[0])[:-1], rel=1e-9)
    assert found[500] == pytest.approx(0.4939, abs=1e-4)  # half the noise in half the time; linear has 8 % left
    assert found[-1] / found[-2] == pytest.approx(0.001) and f[-1] < 1e-30


@both
@pytest.mark.parametrize("timesteps", [1, 7, 50, 1000, 4000])
def test_a_schedule_runs_from_the_image_to_noise(kind, timesteps):
    alpha_bar = SCHEDULES[kind](timesteps)
    assert alpha_bar.shape == (timesteps + 1,) and alpha_bar[0] == 1
    assert (np.diff(alpha_bar) < 0).all() and 0 < alpha_bar[-1] < (0.02 if timesteps > 1 else 1)


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_what_is_predicted_tells_image_and_noise(predict, rng):
    """There and back; v in closed form: a rotation of (x_0, noise), whose other half is x_t."""
    x0, noise = rng.standard_normal((2, 5, 3))
    a, s = np.cos([[0.1], [0.5], [1.0], [1.3], [1.5]]), np.sin([[0.1], [0.5], [1.0], [1.3], [1.5]])
    x = a * x0 + s * noise
    said = target(predict, x0, noise, a, s)
    assert np.abs(x0_of(predict, said, x, a, s) - x0).max() < 1e-13
    assert np.abs(noise_of(x0, x, a, s) - noise).max() < 1e-13
    if predict == "v":
        assert np.abs(said**2 + x**2 - x0**2 - noise**2).max() < 1e-13
        assert np.abs(a * x - s * said - x0).max() < 1e-13 and np.abs(s * x + a * said - noise).max() < 1e-13


@both
@pytest.mark.parametrize("steps", [50, 7])
def test_ddim_with_eta_1_is_the_ancestral_sampler(kind, steps, rng):
    """Two papers' formulas: the same mean, the same noise; and at eta 0 no variance at all is lost or made."""
    schedule = Schedule(kind, 50)
    x, x0, noise = rng.standard_normal((3, 4))
    for t, s in schedule.times(steps):
        ours, theirs = schedule.ddim(x, x0, t, s, 1.0, noise), schedule.ddpm(x, x0, t, s, noise)
        assert np.abs(ours - theirs).max() < 1e-9 * np.abs(theirs).max(), (t, s)
    assert np.array_equal(schedule.ddim(x, x0, 1, 0, 1.0, noise), x0), "the last step ends at x_0, without noise"


def test_the_ancestral_step_is_bayes_rule(rng):
    """Mean and variance of q(x_s | x_t, x_0), two Gaussians multiplied: x_s given x_0, and x_t given x_s."""
    schedule = Schedule("cosine", 50)
    for t, s in ((50, 49), (30, 12), (2, 1)):
        before, kept = schedule.alpha_bar[s], schedule.alpha_bar[t] / schedule.alpha_bar[s]
        x, x0 = rng.standard_normal(2)
        precision = 1 / (1 - before) + kept / (1 - kept)
        mean = (np.sqrt(before) * x0 / (1 - before) + np.sqrt(kept) * x / (1 - kept)) / precision
        assert schedule.ddpm(x, x0, t, s, 0.0) == pytest.approx(mean, rel=1e-9)
        assert schedule.ddpm(x, x0, t, s, 1.0) - schedule.ddpm(x, x0, t, s, 0.0) == pytest.approx(precision**-0.5)


MEAN, STD = 0.3, 0.5


def oracle(schedule, x, t):
    """E[x_0 | x_t] where x_0 is N(MEAN, STD^2): what a perfect network says."""
    a, s = schedule.signal_and_noise(t)
    return MEAN + a * STD**2 / (a**2 * STD**2 + s**2) * (x - a * MEAN)


@both
@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0), ("ddpm", None)])
def test_with_a_perfect_network_samples_have_the_datas_mean_and_variance(kind, sampler, eta, rng):
    """Given E[x_0 | x_t] a step is linear in x and in fresh noise, so both moments are followed without samples."""
    schedule = Schedule(kind, 1000)
    mean, variance = 0.0, 1.0
    back = schedule.ddpm if sampler == "ddpm" else functools.partial(schedule.ddim, eta=eta)
    for t, s in schedule.times(1000):
        of = lambda x, noise, t=t, s=s: back(x, oracle(schedule, x, t), t, s, noise=noise)
        slope, fresh = of(1.0, 0.0) - of(0.0, 0.0), of(0.0, 1.0) - of(0.0, 0.0)
        mean, variance = of(mean, 0.0), slope**2 * variance + fresh**2
    assert mean == pytest.approx(MEAN, abs=0.01) and np.sqrt(variance) == pytest.approx(STD, rel=0.01)


def test_steps_back_go_all_the_way():
    schedule = Schedule("cosine", 1000)
    assert schedule.times(1000) == [(t, t - 1) for t in range(1000, 0, -1)]
    for steps in (1, 3, 50, 999):
        times = schedule.times(steps)
        assert len(times) == steps and times[0][0] == 1000 and times[-1][1] == 0
        assert all(t > s for t, s in times) and [t for t, _ in times[1:]] == [s for _, s in times[:-1]]
    with pytest.raises(ValueError, match=r"Schedule: steps is 1001, should be an integer >= 1 \(and at most 1000\)"):
        schedule.times(1001)
