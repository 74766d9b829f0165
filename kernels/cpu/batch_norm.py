"""Batch norm (Ioffe & Szegedy 2015) with the activation and the dropout that follow it.

    x^ = (x - mean) rstd,   z = x^ w + b,   y = dropout(act(z)),   rstd = 1 / sqrt(var + eps)
    dz = act'(z) dropout(dy),   db = sum dz,   dw = sum dz x^,   dx = rstd w (dz - db / R - x^ dw / R)

Shapes      x, y, dy, dx (R, C): all axes but the last are one, n = R C elements; w, b, mean, var (C,)
Plan        x is read as a flat array in chunks of k whole rows: as many as fit into LONG elements, and at
            least one, so that narrow and wide images have the same inner loop. What belongs to a channel is repeated k
            times to be as long as a chunk. Training: one pass for the sums, one for the result; backward the same.
            Chunks are shared out over threads; each has sums of its own, (2, k C), which are added in order and then
            over the k
Cost        float32 bytes, n each: training 12 (x twice, y), backward 20 (x and dy twice, dx), and 1 for each time that
            a mask is read. With running statistics 8, and 12 back (20 with gradients of w and b). Memory decides
Precision   sums in float64. The variance is E[d^2] - E[d]^2 of d = x - first row, which is exact: as (first row -
            mean)^2 <= R var, what cancels is at most R units of float64. Everything else is float32
Versions    nothing of the activation is kept: z costs two operations to make again. A loop over one row at a time:
            narrow images spend more time on its beginning and end than in it. Two passes over x for the variance: more
            bytes, no more digits
Limits      act is None, relu or leaky_relu: they are the comparison z <= 0 and a factor
Source      Chan, Golub & LeVeque 1979 on shifted sums

# why: docs/kernels/norms.md
# next: kernels/cpu/softmax.py
"""

import numpy as np

from core.engine import Op
from core.runtime.threads import share
from kernels.cpu.common import DOUBLE, PIECE, REAL, const, f32, floats, inline, kernel, out
from kernels.cpu.random import BYTES, dropping_of

LONG = 512  # elements that a chunk has at most, unless a row is longer
GRAIN = 1 << 17  # elements below which a second thread costs more than it brings
NO_MASK = np.zeros(0, np.uint8)
CHANNELS = const(2)  # rows mean, rstd w and b, each as long as a chunk


@kernel(const(1), const(1), out(2, DOUBLE), *PIECE)
def _moments(x, first, sums, start, stop):
    """sums[0], sums[1] += d, d^2 with d = x - first, chunk by chunk."""
    for chunk in range(start, stop):
        part = x[chunk * first.size : (chunk + 1) * first.size]
        for c in range(part.size):
            d = np.float64(part[c]) - np.float64(first[c])
            sums[0, c] += d
            sums[1, c] += d * d


@inline
def affine(x, mean, factor, b):
    """z of an element."""
    return (x - mean) * factor + b


@kernel(const(1), CHANNELS, const(1, BYTES), REAL, REAL, out(1), *PIECE)
def _forward(x, channels, kept, scale, negative_slope, y, start, stop):
    """y = dropout(act(z)); slope is 0 for relu and 1 for no activation."""
    mean, factor, b = channels[0], channels[1], channels[2]
    for chunk in range(start, stop):
        lo, hi = chunk * mean.size, (chunk + 1) * mean.size
        part, result = x[lo:hi], y[lo:hi]
        for c in range(part.size):
            z = affine(part[c], mean[c], factor[c], b[c])
            low = f32(0) if negative_slope == f32(0) else z * negative_slope  # relu(-inf) is 0
            result[c] = low if z <= f32(0) else z
        if kept.size:
            mask = kept[lo:hi]
            for c in range(part.size):
                result[c] *= scale if mask[c] else f32(0)


@inline
def undo(x, dy, mean, factor, b, kept, scale, negative_slope, dz):
    """dz of a chunk: dropout and activation undone."""
    for c in range(x.size):
        z = affine(x[c], mean[c], factor[c], b[c])
        dz[c] = dy[c] * (negative_slope if z <= f32(0) else f32(1))
    for c in range(kept.size):
        dz[c] *= scale if kept[c] else f32(0)


@kernel(const(1), const(1), CHANNELS, const(1, BYTES), REAL, REAL, out(2, DOUBLE), *PIECE)
def _sums(x, dy, channels, kept, scale, negative_slope, sums, start, stop):
    """sums[0], sums[1] += dz (x - mean), dz, chunk by chunk."""
    mean, factor, b = channels[0], channels[1], channels[2]
    dz = np.empty(mean.size, f32)
    for chunk in range(start, stop):
        lo, hi = chunk * mean.size, (chunk + 1) * mean.size
        part = x[lo:hi]
        undo(part, dy[lo:hi], mean, factor, b, kept[lo:hi], scale, negative_slope, dz)
        for c in range(part.size):
            sums[0, c] += np.float64(dz[c] * (part[c] - mean[c]))
            sums[1, c] += np.float64(dz[c])


@kernel(const(1), const(1), CHANNELS, const(2), const(1, BYTES), REAL, REAL, out(1), *PIECE)
def _backward(x, dy, channels, means, kept, scale, negative_slope, dx, start, stop):
    """dx; means holds rstd dw / R and db / R, zeros where mean and var are no functions of x."""
    mean, factor, b, slant, level = channels[0], channels[1], channels[2], means[0], means[1]
    dz = np.empty(mean.size, f32)
    for chunk in range(start, stop):
        lo, hi = chunk * mean.size, (chunk + 1) * mean.size
        part, result = x[lo:hi], dx[lo:hi]
        undo(part, dy[lo:hi], mean, factor, b, kept[lo:hi], scale, negative_slope, dz)
        for c in range(part.size):
            result[c] = (dz[c] - level[c] - (part[c] - mean[c]) * slant[c]) * factor[c]


# --- on the host ----------------------------------------


def _repeats(C):
    """How many rows make a chunk."""
    return max(1, LONG // max(C, 1))


def _chunks(n, period):
    """(how many chunks, how many a thread should have), for share()."""
    period = max(period, 1)
    return -(-n // period), 1 + GRAIN // period


def _summed(loop, n, period):
    """What loop(sums, start, stop) adds up over all chunks: (2, period) float64."""

    def piece(start, stop):
        sums = np.zeros((2, period))
        loop(sums, start, stop)
        return sums

    return sum(share(piece, *_chunks(n, period)))


def moments(x):
    """(mean, biased variance) of each channel, float64."""
    C = x.shape[-1]
    R, k, flat = x.size // max(C, 1), _repeats(C), x.reshape(-1)
    first = np.tile(flat[:C], k)
    sums = _summed(lambda sums, start, stop: _moments(flat, first, sums, start, stop), x.size, C * k)
    mean, square = sums.reshape(2, k, C).sum(axis=1) / R
    return flat[:C] + mean, np.maximum(square - mean * mean, 0)


def _apply(x, mean, var, w, b, dropping, eps, act, negative_slope):
    """y, and what the backward pass reads."""
    rstd, (mask, scale) = 1 / np.sqrt(np.asarray(var, np.float64) + eps), dropping
    channels = np.empty((3, mean.size), f32)
    channels[0], channels[1], channels[2] = mean, rstd if w is None else rstd * w, 0 if b is None else b
    channels = np.tile(channels, (1, _repeats(mean.size)))
    negative_slope = f32({None: 1, "relu": 0, "leaky_relu": negative_slope}[act])
    y, kept = np.empty_like(x), NO_MASK if mask is None else mask.reshape(-1)
    arguments = x.reshape(-1), channels, kept, scale, negative_slope, y.reshape(-1)
    share(lambda start, stop: _forward(*arguments, start, stop), *_chunks(x.size, channels.shape[1]))
    return y, (x, rstd.astype(f32), channels, kept, scale, negative_slope)


def _gradients(saved, dy, train, needs_input_grad):
    """(dx, dw, db). In training dx needs dw and db too: they carry the gradients of mean and variance."""
    x, rstd, channels, kept, scale, negative_slope = saved
    C, n, period = rstd.size, x.size, channels.shape[1]
    flat, rest, dx, sums = (x.reshape(-1), floats(dy).reshape(-1), channels), (kept, scale, negative_slope), None, None
    if train or needs_input_grad[1] or needs_input_grad[2]:
        sums = _summed(lambda sums, start, stop: _sums(*flat, *rest, sums, start, stop), n, period)
        sums = sums.reshape(2, period // max(C, 1), C).sum(axis=1)
        sums[0] *= rstd  # dw; sums[1] is db
    if needs_input_grad[0]:
        dx, means = np.empty_like(x), np.zeros((2, C), f32)
        if train:
            means[0], means[1] = sums[0] * rstd * (C / n), sums[1] * (C / n)
        arguments = *flat, np.tile(means, (1, period // max(C, 1))), *rest, dx.reshape(-1)
        share(lambda start, stop: _backward(*arguments, start, stop), *_chunks(n, period))
    return (
        dx,
        sums[0].astype(f32) if needs_input_grad[1] else None,
        sums[1].astype(f32) if needs_input_grad[2] else None,
    )


def _batch_norm(x, w, b, mask, step, *, eps, act, negative_slope, dropout_p, seed, draw):
    x = floats(x)
    mean, var = moments(x)
    dropping = dropping_of(x, mask, step, dropout_p, seed, draw)
    y, saved = _apply(x, mean, var, w, b, dropping, eps, act, negative_slope)
    return (y, mean.astype(f32), var.astype(f32)), saved


def _batch_norm_backward(saved, dys, needs_input_grad, *, eps, act, negative_slope, dropout_p, seed, draw):
    return *_gradients(saved, dys[0], True, needs_input_grad[:3]), None, None


def _batch_norm_eval(x, mean, var, w, b, *, eps, act, negative_slope):
    return _apply(floats(x), mean, var, w, b, (None, f32(1)), eps, act, negative_slope)


def _batch_norm_eval_backward(saved, dy, needs_input_grad, *, eps, act, negative_slope):
    dx, dw, db = _gradients(saved, dy, False, (needs_input_grad[0], *needs_input_grad[3:]))
    return dx, None, None, dw, db


batch_norm = Op("batch_norm", _batch_norm, _batch_norm_backward, backend="numba")
batch_norm_eval = Op("batch_norm_eval", _batch_norm_eval, _batch_norm_eval_backward, backend="numba")
