"""Softmax, and cross entropy on logits.

    top = max_v z_v,  rest = log sum_v exp(z_v - top)          log-sum-exp = top + rest, kept apart (see Precision)
    softmax_v = exp(z_v - top) / exp(rest)                     dz = y (dy - sum(dy y));  of its log: dy - exp(y) sum(dy)
    L = rest - (1 - s) (z_t - top) - s mean(z - top) + z_loss (top + rest)^2
    dL/dz = (1 + 2 z_loss (top + rest)) softmax - s / V - (1 - s) onehot(t)

Shapes      softmax x any, along any axis of n elements; logits (rows, V), targets (rows,); stats (3, rows) = top, rest
            and the target's probability
Plan        a piece of the rows for each thread. A row is read twice: for its maximum, then, still in cache, for the sum
            of its exponentials. What is left to do for each row, two functions of one number, is done for many at once
Cost        softmax 8n bytes, 12n backward; cross entropy 4 rows V, 8 rows V backward and an exponential each way: the
            gradient is computed from the logits, where torch writes and reads the logarithms of all probabilities
Precision   float32, in float64 from block to block and over the losses. top + rest would lose the digits of rest where
            logits are far from zero, and all of a loss near 0 where the network is sure and right
Versions    cross entropy with its gradient at (4096, 61), where torch takes 0.24 ms: exponentials of a row through a
            tile in plain loops 1.51 ms, as vectors with a mask for a row's end 0.58; kernels that do not count
            references to their arrays 0.32; logarithms and the targets' exponentials for many rows at once 0.24.
            At (1280, 4000), where torch takes 5.6 ms: 12.6, 12.7, 3.5, 2.7
Limits      none. Along another axis than the last x is copied

# why: docs/kernels/losses.md
# next: kernels/cpu/linear_losses.py
"""

import numpy as np
from numba import types

from core.arrays import total
from core.engine import Op
from core.runtime.threads import share
from kernels.cpu.common import INDEX, PIECE, REAL, const, exp, f32, floats, inline, kernel, log, out
from kernels.cpu.lanes import (
    LANES,
    add_product,
    added_up,
    exps,
    fill,
    larger,
    largest,
    load_part,
    over,
    store_part,
    times,
)

BLOCK = 1024  # elements of a row that are added up in float32, a multiple of LANES
ENOUGH = 1 << 16  # elements below which a second thread, 12 to 20 us away, costs more than it brings
IDS = const(1, types.int64)


# --- rows ----------------------------------------


@inline
def highest(x, r, n):
    """The largest of a row, -inf if it is empty; a nan counts only where there is nothing else."""
    o, low = r * x.shape[1], f32(-np.inf)
    most = fill(low)
    for c in range(0, n, LANES):
        most = larger(load_part(x, o + c, n - c, low), most)
    return largest(most)


@inline
def shifted(v, top, rest):
    """(v - top) - rest"""
    return add_product(fill(-rest), f32(1), add_product(fill(-top), f32(1), v))


@inline
def sums(x, r, n, top, both):
    """The sums of exp(x - top) and, if `both` are wanted, of x - top in a row."""
    o, norm, spread = r * x.shape[1], 0.0, 0.0
    for first in range(0, n, BLOCK):
        e, s = fill(f32(0)), fill(f32(0))
        for c in range(first, min(n, first + BLOCK), LANES):
            e = add_product(e, f32(1), exps(shifted(load_part(x, o + c, n - c, f32(-np.inf)), top, f32(0))))
            if both:
                s = add_product(s, f32(1), shifted(load_part(x, o + c, n - c, top), top, f32(0)))
        norm += added_up(e)
        spread += added_up(s)
    return norm, spread


@inline
def sum_of_products(x, y, r, is_log):
    """The sum of x y in a row, or of x if is_log."""
    n, total_ = x.shape[1], 0.0
    for first in range(0, n, BLOCK):
        s = fill(f32(0))
        for c in range(first, min(n, first + BLOCK), LANES):
            v = load_part(x, r * n + c, n - c, f32(0))
            s = add_product(s, f32(1), v if is_log else times(v, load_part(y, r * n + c, n - c, f32(0))))
        total_ += added_up(s)
    return f32(total_)


# --- softmax ----------------------------------------


@kernel(const(2), out(2), INDEX, *PIECE, _nrt=False)
def _softmax_forward(x, y, is_log, start, stop):
    n = x.shape[1]
    for r in range(start, stop):
        top = highest(x, r, n)
        norm = f32(sums(x, r, n, top, False)[0])
        rest = log(norm) if is_log else f32(0)
        for c in range(0, n, LANES):
            z = shifted(load_part(x, r * n + c, n - c, f32(0)), top, rest)
            store_part(y, r * n + c, n - c, z if is_log else over(exps(z), norm))


@kernel(const(2), const(2), out(2), INDEX, *PIECE, _nrt=False)
def _softmax_backward(y, dy, dx, is_log, start, stop):
    n = y.shape[1]
    for r in range(start, stop):
        s = sum_of_products(dy, y, r, is_log)
        for c in range(0, n, LANES):
            v, dv = load_part(y, r * n + c, n - c, f32(0)), load_part(dy, r * n + c, n - c, f32(0))
            store_part(
                dx, r * n + c, n - c, add_product(dv, -s, exps(v)) if is_log else times(v, shifted(dv, s, f32(0)))
            )


def _along(loop, axis, is_log, *inputs):
    """loop on the rows that run along `axis`; the result has the inputs' shape."""
    inputs = [floats(np.moveaxis(x, axis, -1)) for x in inputs]
    y = np.empty_like(inputs[0])
    n = y.shape[-1]
    rows = [x.reshape(y.size // max(n, 1), n) for x in (*inputs, y)]
    share(lambda start, stop: loop(*rows, is_log, start, stop), len(rows[0]), 1 + ENOUGH // max(n, 1))
    return np.moveaxis(y, -1, axis)


def _softmax_op(name, is_log):
    """softmax, or log_softmax."""

    def forward(x, *, axis):
        y = _along(_softmax_forward, axis, is_log, x)
        return y, (y,)

    def backward(saved, dy, needs, *, axis):
        return (_along(_softmax_backward, axis, is_log, *saved, dy),)

    return Op(name, forward, backward, backend="numba")


softmax = _softmax_op("softmax", 0)
log_softmax = _softmax_op("log_softmax", 1)


# --- cross entropy ----------------------------------------


@inline
def losses_of(x, n, t, losses, stats, first, ignore_index, smoothing, z_loss, start, stop):
    """Rows start, ..., stop - 1 of logits, of n classes: their losses, and top, rest and the target's probability into
    stats. The logits' row 0 is the row `first` of the others."""
    for r in range(start, stop):
        row = first + r
        top, seen = highest(x, r, n), t[row] != ignore_index
        norm, spread = sums(x, r, n, top, smoothing != 0)
        picked = x[r, t[row]] - top if seen else f32(0)
        stats[0, row], stats[1, row], stats[2, row] = top, f32(norm), picked
        losses[row] = (f32(1) - smoothing) * picked + smoothing * f32(spread / n) if smoothing else picked
    loss, ids = losses[first + start : first + stop], t[first + start : first + stop]
    tops, rests, targets = (
        stats[0, first + start : first + stop],
        stats[1, first + start : first + stop],
        stats[2, first + start : first + stop],
    )
    for r in range(loss.size):
        rest = log(rests[r])
        lse = tops[r] + rest
        rests[r], targets[r] = rest, exp(targets[r] - rest)
        found = rest - loss[r] + (z_loss * lse * lse if z_loss else f32(0))
        loss[r] = found if ids[r] != ignore_index else f32(0)


@inline
def slopes_of(x, dx, n, t, stats, scale, first, ignore_index, smoothing, z_loss, start, stop):
    """The gradients of rows, which may take the place of the logits."""
    low, step = -smoothing / f32(n), x.shape[1]
    for r in range(start, stop):
        row = first + r
        seen = t[row] != ignore_index
        top, rest, factor = stats[0, row], stats[1, row], scale[row] if seen else f32(0)
        weight = f32(1) + f32(2) * z_loss * (top + rest)
        for c in range(0, n, LANES):
            p = exps(shifted(load_part(x, r * step + c, n - c, f32(0)), top, rest))
            d = add_product(fill(f32(0)), factor, add_product(fill(low), weight, p)) if seen else fill(f32(0))
            store_part(dx, r * step + c, n - c, d)
        if seen:
            dx[r, t[row]] = (stats[2, row] * weight + low - (f32(1) - smoothing)) * factor


OPTIONS = (INDEX, REAL, REAL)  # ignore_index, label_smoothing, z_loss


@kernel(const(2), IDS, out(1), out(2), *OPTIONS, *PIECE, _nrt=False)
def _losses(x, t, losses, stats, ignore_index, smoothing, z_loss, start, stop):
    losses_of(x, x.shape[1], t, losses, stats, 0, ignore_index, smoothing, z_loss, start, stop)


@kernel(const(2), IDS, const(2), const(1), out(2), *OPTIONS, *PIECE, _nrt=False)
def _slopes(x, t, stats, scale, dx, ignore_index, smoothing, z_loss, start, stop):
    slopes_of(x, dx, x.shape[1], t, stats, scale, 0, ignore_index, smoothing, z_loss, start, stop)


def reduced(losses, target, ignore_index, reduction):
    """(the loss, the number of targets that count): losses (rows,) to what `reduction` asks for."""
    if reduction == "none":
        return losses.reshape(target.shape), 1
    count = int(np.count_nonzero(target != ignore_index)) if reduction == "mean" else 1
    with np.errstate(all="ignore"):  # the mean of nothing is nan
        return np.asarray(total(losses) / f32(count), f32), count


def scales(dy, count, rows):
    """What each row's gradient is multiplied by."""
    with np.errstate(all="ignore"):
        return floats(np.broadcast_to(np.asarray(dy, f32).reshape(-1) / f32(count), (rows,)))


def ids(target):
    return np.require(target.reshape(-1), np.int64, "CA")


def _cross_entropy(logits, target, *, ignore_index, label_smoothing, reduction, z_loss=0.0):
    x = floats(logits).reshape(target.size, logits.shape[-1])
    t, losses, stats = ids(target), np.empty(target.size, f32), np.empty((3, target.size), f32)
    given = x, t, losses, stats, ignore_index, f32(label_smoothing), f32(z_loss)
    share(lambda start, stop: _losses(*given, start, stop), t.size, 1 + ENOUGH // max(x.shape[1], 1))
    y, count = reduced(losses, target, ignore_index, reduction)
    return y, (logits, target, stats, count)


def _cross_entropy_backward(saved, dy, needs, *, ignore_index, label_smoothing, reduction, z_loss=0.0):
    logits, target, stats, count = saved
    x = floats(logits).reshape(target.size, logits.shape[-1])
    dx = np.empty(x.shape, f32)
    given = x, ids(target), stats, scales(dy, count, len(x)), dx, ignore_index, f32(label_smoothing), f32(z_loss)
    share(lambda start, stop: _slopes(*given, start, stop), len(x), 1 + ENOUGH // max(x.shape[1], 1))
    return dx.reshape(logits.shape), None


cross_entropy = Op("cross_entropy", _cross_entropy, _cross_entropy_backward, backend="numba")
