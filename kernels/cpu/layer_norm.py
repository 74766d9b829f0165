"""Layer norm (Ba et al. 2016) over the last axis, alone or behind the residual sum of a pre-norm block.

    r = residual + dropout(x)  (or x),   x^ = (r - mean) rstd,   y = x^ w + b,   rstd = 1 / sqrt(var + eps)
    g = dy w,   dr += rstd (g - mean(g) - x^ mean(g x^)),   dx = dropout(dr),   dw = sum dy x^,   db = sum dy

Shapes      x, residual, y, r and their gradients (R, D): all axes but the last are one; w, b (D,); mean, rstd (R,)
Plan        a piece of the rows for each thread. A row stays in the first level of cache while it is passed over: for r
            and its mean, for the variance of the centred values, for the result; backward for the sums, then for dr.
            Sums for dw and db: GROUP rows in float32, then onto float64; each piece has its own, added in order
Cost        float32 bytes: layer norm 8 RD, backward 12 RD; with the residual 16 RD and 16 RD, a mask 1 RD each time,
            and 4 RD more backward where it is dropped. Memory decides
Precision   sums along a row in float64, mean and rstd rounded once; the rest float32
Versions    keeping x^ for the backward pass: as many bytes as keeping r, which the residual stream keeps anyway
Limits      none: any number of rows and columns, weights or not
Source      batch norm has a file of its own, imported here so that all norms are found in this one

# why: docs/kernels/norms.md
# next: kernels/cpu/group_norm.py
"""

import numpy as np

from core.engine import Op
from core.runtime.threads import share
from kernels.cpu.batch_norm import NO_MASK
from kernels.cpu.common import DOUBLE, PIECE, REAL, SUMS, const, f32, floats, inline, kernel, out
from kernels.cpu.random import BYTES, drop, dropping_of

GROUP = 16  # rows whose terms of dw and db are added in float32
SHORT = 1 << 10  # elements of a loop below which its beginning and end count
GRAIN = 1 << 17  # elements below which a second thread costs more than it brings
NO_RESIDUAL, NO_GRADIENT = np.zeros(0, f32), np.zeros((0, 0), f32)


@inline
def add_branches(x, residual, kept, scale, r):
    """r = residual + dropout(x) of a row; an empty `kept` drops nothing."""
    if kept.size:
        for i in range(x.size):
            r[i] = residual[i] + x[i] * (scale if kept[i] else f32(0))
    else:
        for i in range(x.size):
            r[i] = residual[i] + x[i]


@inline
def moments(r, eps):
    """(mean, rstd) of a row."""
    total, squares = 0.0, 0.0
    for i in range(r.size):
        total += np.float64(r[i])
    mean = f32(total / r.size)
    for i in range(r.size):
        centred = r[i] - mean
        squares += np.float64(centred * centred)
    return mean, f32(1.0 / np.sqrt(squares / r.size + eps))


@inline
def normalise(r, w, b, eps, y, stats):
    """y, mean and rstd of a row."""
    mean, rstd = moments(r, eps)
    for i in range(r.size):
        y[i] = (r[i] - mean) * rstd * w[i] + b[i]
    stats[0] = mean
    stats[1] = rstd


ROWS, VECTOR, FLOATS = const(2), const(1), out(2)


@kernel(ROWS, VECTOR, const(1, BYTES), REAL, VECTOR, VECTOR, DOUBLE, FLOATS, out(1), out(2), *PIECE, fastmath=SUMS)
def _forward(x, residual, kept, scale, w, b, eps, y, r, stats, start, stop):
    """y, r, and stats[row] = mean, rstd; without a residual r is x, and is not written. residual and r are flat."""
    D = w.size
    together = 1 + SHORT // D  # rows that are added at once, so that short ones make a long loop
    for first in range(start, stop, together):
        last = min(first + together, stop)
        if residual.size:
            lo, hi = first * D, last * D
            add_branches(x[first:last].reshape(-1), residual[lo:hi], kept[lo:hi], scale, r[lo:hi])
            for row in range(first, last):
                normalise(r[row * D : (row + 1) * D], w, b, eps, y[row], stats[row])
        else:
            for row in range(first, last):
                normalise(x[row], w, b, eps, y[row], stats[row])


@kernel(ROWS, ROWS, ROWS, VECTOR, ROWS, FLOATS, out(2, DOUBLE), *PIECE, fastmath=SUMS)
def _backward(r, dy, dr, w, stats, dx, sums, start, stop):
    """dx = dr + the gradient through the norm; sums[0], sums[1] += dy x^, dy. An empty dr is zero."""
    dw, db = np.zeros(w.size, f32), np.zeros(w.size, f32)
    for row in range(start, stop):
        mean, rstd = stats[row, 0], stats[row, 1]
        x, d, y = r[row], dy[row], dx[row]
        g_sum, gx_sum = 0.0, 0.0
        for i in range(w.size):
            xhat, g = (x[i] - mean) * rstd, d[i] * w[i]
            g_sum += np.float64(g)
            gx_sum += np.float64(g * xhat)
            dw[i] += d[i] * xhat
            db[i] += d[i]
        level, slant = f32(g_sum / w.size), f32(gx_sum / w.size)
        for i in range(w.size):
            xhat = (x[i] - mean) * rstd
            y[i] = rstd * (d[i] * w[i] - level - xhat * slant)
        if dr.size:
            other = dr[row]
            for i in range(w.size):
                y[i] += other[i]
        if (row + 1 - start) % GROUP == 0 or row + 1 == stop:
            for i in range(w.size):
                sums[0, i] += np.float64(dw[i])
                sums[1, i] += np.float64(db[i])
            dw[:] = f32(0)
            db[:] = f32(0)


# --- on the host ----------------------------------------


def _rows(x):
    """`x` as a matrix of rows."""
    return floats(x).reshape(-1, x.shape[-1]) if x.size else np.zeros((0, x.shape[-1]), f32)


def _normed(x, residual, w, b, mask, scale, eps):
    """(y, r, what the backward pass reads); r is x where there is no residual."""
    shape, D = x.shape, x.shape[-1]
    x, w = _rows(x), np.ones(D, f32) if w is None else floats(w)
    y, stats = np.empty_like(x), np.empty((len(x), 2), f32)
    r = x if residual is None else np.empty_like(x)
    kept, flat, result = NO_MASK if mask is None else mask.reshape(-1), NO_RESIDUAL, NO_RESIDUAL
    if residual is not None:
        flat, result = _rows(residual).reshape(-1), r.reshape(-1)
    b = np.zeros(D, f32) if b is None else floats(b)
    arguments = x, flat, kept, scale, w, b, eps, y, result, stats
    share(lambda start, stop: _forward(*arguments, start, stop), len(x), 1 + GRAIN // max(D, 1))
    return y.reshape(shape), r.reshape(shape), (r, w, stats)


def _gradients(saved, dy, dr):
    """(gradient of r, dw, db); dr is what r has from elsewhere."""
    (r, w, stats), shape = saved, dy.shape
    dy, dx = _rows(dy), np.empty_like(r)
    arguments = r, dy, NO_GRADIENT if dr is None else _rows(dr), w, stats, dx

    def piece(start, stop):
        sums = np.zeros((2, w.size))
        _backward(*arguments, sums, start, stop)
        return sums

    sums = sum(share(piece, len(r), 1 + GRAIN // max(w.size, 1)))
    return dx.reshape(shape), *sums.astype(f32)


def _layer_norm(x, w, b, *, eps):
    y, _, saved = _normed(x, None, w, b, None, f32(1), eps)
    return y, saved


def _layer_norm_backward(saved, dy, needs_input_grad, *, eps):
    return tuple(gradient if need else None for gradient, need in zip(_gradients(saved, dy, None), needs_input_grad))


def _add_layer_norm(x, residual, w, b, mask, step, *, eps, dropout_p, seed, draw):
    dropping = dropping_of(x, mask, step, dropout_p, seed, draw)
    y, r, saved = _normed(x, residual, w, b, *dropping, eps)
    return (y, r), (dropping, saved)


def _add_layer_norm_backward(saved, dys, needs_input_grad, *, eps, dropout_p, seed, draw):
    (dropping, normed), (dy, dr), dw, db = saved, dys, None, None
    if dy is not None:
        dr, dw, db = _gradients(normed, dy, dr)
    return (
        drop(dr, *dropping) if needs_input_grad[0] else None,
        dr,
        dw if needs_input_grad[2] else None,
        db if needs_input_grad[3] else None,
        None,
        None,
    )


layer_norm = Op("layer_norm", _layer_norm, _layer_norm_backward, backend="numba")
add_layer_norm = Op("add_layer_norm", _add_layer_norm, _add_layer_norm_backward, backend="numba")
