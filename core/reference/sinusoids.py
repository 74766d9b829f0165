"""A number as the phases of waves: how a network is told a diffusion step, or a token's place.

    y[n] = (cos(t[n] f_0), ..., cos(t[n] f_h-1), sin(t[n] f_0), ..., sin(t[n] f_h-1)),   f_i = max_period^(-i / h)

with h = dim / 2: the wavelengths of Vaswani et al. 2017, section 3.5, as Ho et al. 2020, appendix B, take them over.
Cosines stand first, as in Dhariwal & Nichol 2021; Ho et al. have the sines first, Vaswani et al. both in turn.

    dt[n] = the sum over i of f_i (dy_sin cos(t f_i) - dy_cos sin(t f_i))

Angles are float64: in float32 one of 1,000 is off by 3e-5 before any cosine is taken. The result is rounded once.
"""

from core.arrays import array_module, is_float
from core.engine import Op


def _waves(t, dim, max_period):
    """(frequencies (h,), cos (N, h), sin (N, h)), all float64."""
    xp = array_module(t)
    frequencies = float(max_period) ** (xp.arange(dim // 2, dtype=xp.float64) * (-2 / dim))
    angles = t.astype(xp.float64)[:, None] * frequencies  # (N, h)
    return frequencies, xp.cos(angles), xp.sin(angles)


def _timestep_embedding(t, *, dim, max_period):
    xp = array_module(t)
    _, cos, sin = _waves(t, dim, max_period)
    return xp.concatenate([cos, sin], axis=1).astype(t.dtype if is_float(t) else xp.float32), (t,)  # (N, dim)


def _timestep_embedding_backward(saved, dy, needs, *, dim, max_period):
    (t,) = saved
    frequencies, cos, sin = _waves(t, dim, max_period)
    slopes = frequencies * (dy[:, dim // 2 :] * cos - dy[:, : dim // 2] * sin)
    return (slopes.sum(1).astype(dy.dtype),)


timestep_embedding = Op("timestep_embedding", _timestep_embedding, _timestep_embedding_backward)
