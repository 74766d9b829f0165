"""Diffusion's arithmetic: how noise grows, what a network may predict, and one step back. Arrays in, arrays out.

Time runs from t = 0, the clean image, to t = T, all but pure noise (Ho et al. 2020, equation 4):

    x_t = a_t x_0 + s_t noise,      a_t = sqrt(alpha_bar_t),   s_t = sqrt(1 - alpha_bar_t),   a_t^2 + s_t^2 = 1

A step back goes from time t to any earlier time s, not only to t - 1: what is between is skipped (Song et al. 2021).
# next: models/diffusion.py, which trains a network to predict
"""

import itertools

import numpy as np

import core.functional as F
from core import check

OFFSET, LARGEST = 0.008, 0.999  # of the cosine schedule (Nichol & Dhariwal 2021, section 3.2)


def linear(timesteps: int):
    """alpha_bar (T + 1,) where beta rises evenly (Ho et al. 2020, section 4: 1e-4 to 0.02 in 1,000 steps)."""
    scale = 1000 / timesteps  # with fewer steps each adds more noise, so that as little is left of the image
    return _alpha_bar(np.linspace(scale * 1e-4, scale * 0.02, timesteps))


def cosine(timesteps: int):
    """alpha_bar (T + 1,) along a squared cosine (Nichol & Dhariwal 2021, equation 17): noise comes more slowly."""
    f = np.cos((np.arange(timesteps + 1) / timesteps + OFFSET) / (1 + OFFSET) * np.pi / 2) ** 2
    return _alpha_bar(1 - f[1:] / f[:-1])


def _alpha_bar(betas):
    return np.cumprod(np.concatenate([[1.0], 1 - np.minimum(betas, LARGEST)]))


SCHEDULES = {"linear": linear, "cosine": cosine}
PREDICTIONS = ("eps", "v")  # the noise, or a_t noise - s_t x_0 (Salimans & Ho 2022, section 4)


class Schedule:
    """Schedule("linear" | "cosine", timesteps): `alpha_bar` in float64 on the host, tables of a and s on the device."""

    def __init__(self, kind: str, timesteps: int, xp=np):
        check.one_of("Schedule", "kind", kind, SCHEDULES)
        check.count("Schedule", "timesteps", timesteps)
        self.timesteps, self.alpha_bar = timesteps, SCHEDULES[kind](timesteps)
        both = np.sqrt(np.stack([self.alpha_bar, 1 - self.alpha_bar], axis=1))
        self.table = xp.asarray(both.astype(np.float32))  # (T + 1, 2)

    def at(self, t):
        """a and s of times t (N,), an array on the device, each (N, 1, 1, 1)."""
        a, s = F.embedding(t, self.table).data.T.reshape(2, -1, 1, 1, 1)
        return a, s

    def signal_and_noise(self, t: int):
        """a and s of one time."""
        return float(np.sqrt(self.alpha_bar[t])), float(np.sqrt(1 - self.alpha_bar[t]))

    def times(self, steps: int):
        """(from, to) of each of `steps` steps back from T to 0, all about as long."""
        check.count("Schedule", "steps", steps, 1, self.timesteps)
        t = np.linspace(self.timesteps, 0, steps + 1).round().astype(int).tolist()
        return list(itertools.pairwise(t))

    def ddim(self, x, x0, t: int, s: int, eta: float = 0.0, noise=None):
        """x at time s from x at time t and what x_0 is held to be (Song et al. 2021, equations 12 and 16).

        eta 0 draws nothing: the same x_T gives the same image. eta 1 is as noisy as `ddpm`."""
        alpha, before = self.alpha_bar[t], self.alpha_bar[s]
        sigma = eta * np.sqrt((1 - before) / (1 - alpha) * (1 - alpha / before))
        eps = noise_of(x0, x, *self.signal_and_noise(t))
        y = float(np.sqrt(before)) * x0 + float(np.sqrt(max(1 - before - sigma**2, 0.0))) * eps
        return y if noise is None else y + float(sigma) * noise

    def ddpm(self, x, x0, t: int, s: int, noise):
        """x at time s, drawn from q(x_s | x_t, x_0) (Ho et al. 2020, equations 6 and 7)."""
        alpha, before = self.alpha_bar[t], self.alpha_bar[s]
        kept = alpha / before  # of the signal's square, from s to t
        beta = 1 - kept
        of_x0, of_x = np.sqrt(before) * beta / (1 - alpha), np.sqrt(kept) * (1 - before) / (1 - alpha)
        return float(of_x0) * x0 + float(of_x) * x + float(np.sqrt((1 - before) / (1 - alpha) * beta)) * noise


# --- what is predicted: each of noise, v and x_0 tells the others, x_t being known ----------------------------


def target(predict: str, x0, noise, a, s):
    """What a network that predicts `predict` should say at x_t = a x_0 + s noise."""
    return noise if predict == "eps" else a * noise - s * x0


def x0_of(predict: str, said, x, a, s):
    """x_0 from what such a network said at x = x_t."""
    return (x - s * said) / a if predict == "eps" else a * x - s * said


def noise_of(x0, x, a, s):
    """The noise in x = x_t if x_0 is that."""
    return (x - a * x0) / s
