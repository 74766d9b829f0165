"""Rows of a table, and a number as the phases of waves: how a network is told a token, a place or a diffusion step.

    embedding            y = w[ids], ids (...), w (V, D) -> (..., D);   dw[i] = the sum of dy where ids are i
    timestep_embedding   y[n] = (cos(t[n] f_0), ..., cos(t[n] f_h-1), sin(t[n] f_0), ..., sin(t[n] f_h-1)),
                         f_i = max_period^(-i / h)
                         dt[n] = the sum over i of f_i (dy_sin cos(t f_i) - dy_cos sin(t f_i))

with h = dim / 2: the wavelengths of Vaswani et al. 2017, section 3.5, as Ho et al. 2020, appendix B, take them over.
Cosines stand first, as in Dhariwal & Nichol 2021; Ho et al. have the sines first, Vaswani et al. both in turn.
Angles are float64: in float32 one of 1,000 is off by 3e-5 before any cosine is taken. The result is rounded once.

# why: docs/kernels/others.md
"""

from core.arrays import array_module, is_cupy, is_float
from core.engine import Op


def _embedding(ids, w):
    return w[ids], (ids, w.shape)  # (..., D)


def _embedding_backward(saved, dy, needs_input_grad):
    """Rows that were used several times add up in float64: sort the ids, then sum each run.

    CuPy would take differences of a running sum for that, and one nan would reach every row that follows: there each
    row is added where it belongs, in an order that is not fixed."""
    (ids, shape), xp = saved, array_module(dy)
    flat = ids.reshape(-1)
    rows = dy.reshape(flat.size, shape[1])
    if is_cupy(dy):
        dw = xp.zeros(shape, xp.float64)
        xp.add.at(dw, flat, rows)
        return None, dw.astype(dy.dtype)
    dw = xp.zeros(shape, dy.dtype)
    if flat.size:
        order = xp.argsort(flat, kind="stable")
        used, starts = xp.unique(flat[order], return_index=True)
        dw[used] = xp.add.reduceat(rows[order], starts, axis=0, dtype=xp.float64)
    return None, dw


embedding = Op("embedding", _embedding, _embedding_backward)


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


def _timestep_embedding_backward(saved, dy, needs_input_grad, *, dim, max_period):
    (t,) = saved
    frequencies, cos, sin = _waves(t, dim, max_period)
    derivatives = frequencies * (dy[:, dim // 2 :] * cos - dy[:, : dim // 2] * sin)
    return (derivatives.sum(1).astype(dy.dtype),)


timestep_embedding = Op("timestep_embedding", _timestep_embedding, _timestep_embedding_backward)
