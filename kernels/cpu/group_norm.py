"""Group norm (Wu & He 2018) with the SiLU that may follow it.

    x^ = (x - mean) rstd,   z = x^ w + b,   y = act(z),   rstd = 1 / sqrt(var + eps)
    dz = act'(z) dy,   db = sum dz,   dw = sum dz x^,   dx = rstd (w dz - mean(w dz) - x^ mean(w dz x^))

Shapes      x, y, dy, dx (N, P C): P pixels of C channels an image; w, b (C,); mean and rstd (N, 2, G). The means are
            over the n = P C / G numbers of one group in one image, the sums for dw and db over images and pixels
Plan        a piece of the images for each thread. An image stays in the second level of cache while it is passed over
            twice: for the sums of its channels, from which those of its groups follow, and for the result; backward
            the same, and the first pass leaves dz where dx is to be. As in batch norm an image is read in chunks of k
            pixels, some 512 elements, and what belongs to a channel is repeated k times. dw and db: sums of each image
            onto those of its piece, pieces in order
Cost        float32 bytes an element: 8 (x; y), backward 12 (x, dy; dx), as long as an image fits into the cache: 2 MB
            of a core would be 700 x 700 pixels of one channel. SiLU: one exponential forward, one backward
Precision   sums in float64. The variance is E[d^2] - E[d]^2 of d = x - the group's first number, which is exact: as
            (first - mean)^2 <= n var, what cancels is at most n units of float64. Everything else is float32
Versions    one group after the other: loops as short as a group is wide, C / G = 2 to 16 elements. dz made twice, not
            kept: a second exponential, which costs more than a store to the cache
Limits      act is None or silu

# next: kernels/cpu/batch_norm.py, whose chunks these are
"""

import math

import numpy as np

from core.engine import Op
from core.runtime.threads import share
from kernels.cpu.common import DOUBLE, INDEX, PIECE, const, f32, floats, inline, kernel, out, sigmoid
from kernels.cpu.pointwise import silu_derivative

LONG = 512  # elements that a chunk has if the image does
GROUP = 16  # chunks whose terms of dw and db are added in float32
GRAIN = 1 << 17  # elements below which a second thread costs more than it brings


@inline
def again(row, C):
    """The first C numbers of `row` again and again, until it is full."""
    for first in range(C, row.size, C):
        row[first : first + C] = row[:C]


@inline
def repeat(values, C, row):
    """values[g] for each channel of group g, repeated."""
    width = C // values.size
    for g in range(values.size):
        for c in range(g * width, (g + 1) * width):
            row[c] = values[g]
    again(row, C)


@inline
def fold(sums, C):
    """The repeats of a chunk added up, into the first C places of each row."""
    for first in range(C, sums.shape[1], C):
        for row in range(sums.shape[0]):
            to, other = sums[row, :C], sums[row, first : first + C]
            for c in range(C):
                to[c] += other[c]


@inline
def channel_sums(image, shift, sums):
    """sums[0], sums[1] = the sums of d and d^2, d = x - shift, by places in a chunk."""
    sums[:] = 0.0
    for lo in range(0, image.size, shift.size):
        part = image[lo : lo + shift.size]
        for c in range(part.size):
            d = np.float64(part[c]) - np.float64(shift[c])
            sums[0, c] += d
            sums[1, c] += d * d


@inline
def group_moments(image, channels, eps, shift, sums, stats):
    """stats = mean and rstd of each group of an image."""
    groups = stats.shape[1]
    width, n = channels // groups, image.size // groups
    repeat(image[0:channels:width], channels, shift)
    channel_sums(image, shift, sums)
    fold(sums, channels)
    for g in range(groups):
        total, squares = 0.0, 0.0
        for c in range(g * width, (g + 1) * width):
            total += sums[0, c]
            squares += sums[1, c]
        var = max((squares - total * total / n) / n, 0.0)
        stats[0, g] = f32(image[g * width] + total / n)
        stats[1, g] = f32(1.0 / np.sqrt(var + eps))


@inline
def factors(stats, w, mean, factor):
    """mean and rstd w of each place in a chunk."""
    repeat(stats[0], w.size, mean)
    repeat(stats[1], w.size, factor)
    for first in range(0, factor.size, w.size):
        row = factor[first : first + w.size]
        for c in range(row.size):
            row[c] *= w[c]


VECTOR, ROWS, STATS = const(1), const(2), const(3)


@kernel(ROWS, VECTOR, VECTOR, DOUBLE, INDEX, INDEX, out(2), out(3), *PIECE)
def _forward(x, w, b, eps, period, silu, y, stats, start, stop):
    """y, and stats[image] = mean, rstd of each group."""
    sums, mean, factor, level = (
        np.empty((2, period)),
        np.empty(period, f32),
        np.empty(period, f32),
        np.empty(period, f32),
    )
    level[: b.size] = b
    again(level, b.size)
    for i in range(start, stop):
        image, result = x[i], y[i]
        group_moments(image, w.size, eps, mean, sums, stats[i])
        factors(stats[i], w, mean, factor)
        for lo in range(0, image.size, period):
            part, to = image[lo : lo + period], result[lo : lo + period]
            if silu:
                for c in range(part.size):
                    z = (part[c] - mean[c]) * factor[c] + level[c]
                    to[c] = z * sigmoid(z)
            else:
                for c in range(part.size):
                    to[c] = (part[c] - mean[c]) * factor[c] + level[c]


@inline
def undo(x, dy, mean, factor, level, silu, dz):
    """dz of a chunk."""
    if silu:
        for c in range(x.size):
            dz[c] = dy[c] * silu_derivative((x[c] - mean[c]) * factor[c] + level[c])
    else:
        dz[:] = dy


@inline
def add(x, dz, mean, parts):
    """parts[0], parts[1] += dz (x - mean), dz of a chunk."""
    dw, db = parts[0], parts[1]
    for c in range(x.size):
        dw[c] += dz[c] * (x[c] - mean[c])
        db[c] += dz[c]


@inline
def move(parts, sums):
    """sums += parts, which are zero then."""
    for row in range(2):
        part, total = parts[row], sums[row]
        for c in range(part.size):
            total[c] += np.float64(part[c])
    parts[:] = f32(0)


@inline
def weight_sums(sums, stats, w, n, totals, means):
    """totals += dw and db of an image; means = rstd times the means of w dz and of rstd w dz x^, by groups."""
    C, groups = w.size, stats.shape[1]
    width = C // groups
    fold(sums, C)
    for g in range(groups):
        rstd, level, slant = np.float64(stats[1, g]), 0.0, 0.0
        for c in range(g * width, (g + 1) * width):
            totals[0, c] += sums[0, c] * rstd
            totals[1, c] += sums[1, c]
            slant += np.float64(w[c]) * sums[0, c]
            level += np.float64(w[c]) * sums[1, c]
        means[0, g] = f32(level * rstd / n)
        means[1, g] = f32(slant * rstd * rstd * rstd / n)


@kernel(ROWS, ROWS, VECTOR, VECTOR, STATS, INDEX, INDEX, out(2), out(2, DOUBLE), *PIECE)
def _backward(x, dy, w, b, stats, period, silu, dx, totals, start, stop):
    """dx; totals[0], totals[1] += dw, db."""
    sums, rows, n = np.empty((2, period)), np.empty((5, period), f32), x.shape[1] // stats.shape[2]
    mean, factor, level, slant, base = rows[0], rows[1], rows[2], rows[3], rows[4]
    means, parts = np.empty((2, stats.shape[2]), f32), np.zeros((2, period), f32)
    base[: b.size] = b
    again(base, b.size)
    for i in range(start, stop):
        factors(stats[i], w, mean, factor)
        sums[:] = 0.0
        for lo in range(0, x.shape[1], period):
            hi = lo + period
            undo(x[i, lo:hi], dy[i, lo:hi], mean, factor, base, silu, dx[i, lo:hi])
            add(x[i, lo:hi], dx[i, lo:hi], mean, parts)
            if hi % (GROUP * period) == 0 or hi >= x.shape[1]:
                move(parts, sums)
        weight_sums(sums, stats[i], w, n, totals, means)
        repeat(means[0], w.size, level)
        repeat(means[1], w.size, slant)
        for lo in range(0, x.shape[1], period):
            part, to = x[i, lo : lo + period], dx[i, lo : lo + period]
            for c in range(part.size):
                to[c] = to[c] * factor[c] - level[c] - (part[c] - mean[c]) * slant[c]


# --- on the host ----------------------------------------


def _images(x):
    """`x` as a matrix with a row for each image."""
    return floats(x).reshape(len(x), -1)


def _pieces(x):
    """(how many images, how many a thread should have), for share()."""
    return len(x), 1 + GRAIN // x.shape[1]


def _group_norm(x, w, b, *, num_groups, eps, act):
    C, flat = x.shape[-1], _images(x)
    w, b = np.ones(C, f32) if w is None else floats(w), np.zeros(C, f32) if b is None else floats(b)
    period = C * max(1, min(LONG // C, math.prod(x.shape[1:-1])))
    y, stats = np.empty_like(flat), np.empty((len(x), 2, num_groups), f32)
    rest = period, act == "silu"
    share(lambda start, stop: _forward(flat, w, b, eps, *rest, y, stats, start, stop), *_pieces(flat))
    return y.reshape(x.shape), (flat, w, b if act else None, stats, *rest)  # z, with b, tells act'(z) alone


def _group_norm_backward(saved, dy, needs_input_grad, *, num_groups, eps, act):
    x, w, b, *rest = saved
    b, flat, dx = np.zeros_like(w) if b is None else b, _images(dy), np.empty_like(x)

    def piece(start, stop):
        totals = np.zeros((2, dy.shape[-1]))
        _backward(x, flat, w, b, *rest, dx, totals, start, stop)
        return totals

    totals = sum(share(piece, *_pieces(x)))
    gradients = dx.reshape(dy.shape), *totals.astype(f32)
    return tuple(gradient if need else None for gradient, need in zip(gradients, needs_input_grad))


group_norm = Op("group_norm", _group_norm, _group_norm_backward, backend="numba")
