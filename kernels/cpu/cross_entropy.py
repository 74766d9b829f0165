"""Cross entropy on logits, and on the logits x @ w.T of a language model's last layer, which are never all in memory.

    top and rest as in kernels/cpu/softmax.py
    L = rest - (1 - s) (z_t - top) - s mean(z - top) + z_loss (top + rest)^2
    dL/dz = (1 + 2 z_loss (top + rest)) softmax - s / V - (1 - s) onehot(t)
    of a linear layer:  z = x w^T;  dx = d w;  dw = d^T x,  d being dL/dz

Shapes      logits (rows, V), targets (rows,); stats (3, rows) = top, rest and the target's probability; x (rows, D),
            w (V, D)
Plan        a piece of the rows for each thread. A row is read twice; what is left to do for each row, two functions of
            one number, is done for many at once. Of a linear layer some rows of logits at a time, by the product of
            kernels/cpu/tiles.py, which stay in cache until their losses are known; backward the same logits again, d in
            their place, and both products. dw is a sum for each thread, then one over the threads
Cost        4 rows V bytes, 8 rows V backward and an exponential each way: the gradient is computed from the logits,
            where torch writes and reads the logarithms of all probabilities. Linear: 2 rows V D flops, 6 backward (the
            logits are computed twice); a copy of w as the product takes it, HELD logits and a dw for each thread
Precision   float32, in float64 from block to block and over the losses. top + rest would lose the digits of rest where
            logits are far from zero, and all of a loss near 0 where the network is sure and right
Versions    cross entropy with its gradient at (4096, 61), where torch takes 0.24 ms: exponentials of a row through a
            tile in plain loops 1.51 ms, as vectors with a mask for a row's end 0.58; kernels that do not count
            references to their arrays 0.32; logarithms and the targets' exponentials for many rows at once 0.24.
            At (1280, 4000), where torch takes 5.6 ms: 12.6, 12.7, 3.5, 2.7. Linear, x (1280, 128), 4000 classes,
            1 thread: 33 ms with the gradient, torch's linear_cross_entropy 49. All in all 157 GF/s
Limits      none

# why: docs/kernels/losses.md
# next: kernels/cpu/variational.py
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
    exps,
    fill,
    load_part,
    store_part,
    up,
)
from kernels.cpu.softmax import ENOUGH, highest, shifted, sums
from kernels.cpu.tiles import ROWS, buffers, pack, product, turn, unpack

IDS = const(1, types.int64)


# --- logits that are given ----------------------------------------


@inline
def losses_of(x, n, t, losses, stats, first, ignore_index, smoothing, z_loss, start, stop):
    """Rows start, ..., stop - 1 of logits, of n classes: their losses, and top, rest and the target's probability into
    stats. The logits' row 0 is the row `first` of the others."""
    for r in range(start, stop):
        row = first + r
        top, seen = highest(x, r, n), t[row] != ignore_index
        norm, shifted_sum = sums(x, r, n, top, smoothing != 0)
        picked = x[r, t[row]] - top if seen else f32(0)
        stats[0, row], stats[1, row], stats[2, row] = top, f32(norm), picked
        losses[row] = (f32(1) - smoothing) * picked + smoothing * f32(shifted_sum / n) if smoothing else picked
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
def derivatives_of(x, dx, n, t, stats, scale, first, ignore_index, smoothing, z_loss, start, stop):
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
def _derivatives(x, t, stats, scale, dx, ignore_index, smoothing, z_loss, start, stop):
    derivatives_of(x, dx, x.shape[1], t, stats, scale, 0, ignore_index, smoothing, z_loss, start, stop)


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


def _cross_entropy_backward(saved, dy, needs_input_grad, *, ignore_index, label_smoothing, reduction, z_loss=0.0):
    logits, target, stats, count = saved
    x = floats(logits).reshape(target.size, logits.shape[-1])
    dx = np.empty(x.shape, f32)
    given = x, ids(target), stats, scales(dy, count, len(x)), dx, ignore_index, f32(label_smoothing), f32(z_loss)
    share(lambda start, stop: _derivatives(*given, start, stop), len(x), 1 + ENOUGH // max(x.shape[1], 1))
    return dx.reshape(logits.shape), None


cross_entropy = Op("cross_entropy", _cross_entropy, _cross_entropy_backward, backend="numba")


# --- logits of a linear layer ----------------------------------------

HELD = 1 << 18  # logits that a thread holds


@kernel(const(2), out(1), *PIECE)
def _turn(w, turned, start, stop):
    """Blocks start, ..., stop - 1 of LANES rows of w, as `product` takes them."""
    (V, D), flat = w.shape, w.reshape(-1)
    first, last = start * LANES, min(V, stop * LANES)
    turn(flat[first * D :], D, last - first, D, f32(1), turned[first * D :])


@kernel(const(2), const(1), IDS, out(1), out(2), *OPTIONS, INDEX, out(1), out(2), *PIECE)
def _linear_losses(x, w, t, losses, stats, ignore_index, smoothing, z_loss, V, x_tile, z, start, stop):
    (step, wide), D = z.shape, x.shape[1]
    flat, z_flat = x.reshape(-1), z.reshape(-1)
    for first in range(start, stop, step):
        rows = min(step, stop - first)
        pack(flat[first * D :], D, rows, D, x_tile, D)
        product(x_tile, D, 1, w, LANES, LANES * D, z_flat, wide, rows, V, D, False)
        losses_of(z, V, t, losses, stats, first, ignore_index, smoothing, z_loss, 0, rows)


@kernel(const(2), const(1), const(1), IDS, const(2), const(1), out(2), out(1), *OPTIONS, INDEX,
        types.UniTuple(out(1), 2), out(2), *PIECE)  # fmt: skip
def _linear_derivatives(
    x, w, w_rows, t, stats, scale, dx, dw, ignore_index, smoothing, z_loss, V, tiles, z, start, stop
):  # fmt: skip
    """dx of the rows, and what they give to dw; either may have no elements and is not wanted then."""
    (step, wide), D, (x_tile, dx_tile) = z.shape, x.shape[1], tiles
    flat, z_flat, dx_flat, width = x.reshape(-1), z.reshape(-1), dx.reshape(-1), up(D, LANES)
    for first in range(start, stop, step):
        rows = min(step, stop - first)
        pack(flat[first * D :], D, rows, D, x_tile, width)
        product(x_tile, width, 1, w, LANES, LANES * D, z_flat, wide, rows, V, D, False)
        derivatives_of(z, z, V, t, stats, scale, first, ignore_index, smoothing, z_loss, 0, rows)
        if dx.size:
            product(z_flat, wide, 1, w_rows, width, LANES, dx_tile, width, rows, D, V, False)
            unpack(dx_tile, width, rows, D, f32(1), dx_flat[first * D :], D)
        if dw.size:
            product(z_flat, 1, wide, x_tile, width, LANES, dw, width, V, D, rows, True)


def _turned(w):
    """w as `product` takes its transpose."""
    (V, D), (turned,) = w.shape, buffers(up(len(w), LANES) * w.shape[1])
    share(lambda start, stop: _turn(w, turned, start, stop), up(V, LANES) // LANES, 1 + ENOUGH // (LANES * max(D, 1)))
    return turned


def _held(V):
    """(rows of logits that a thread holds, a row's length)"""
    wide = up(V, LANES)
    return max(ROWS, min(512, HELD // max(wide, 1) // ROWS * ROWS)), wide


def _grain(V, D):
    """Rows below which a second thread costs more than it brings."""
    return 1 + (ENOUGH << 3) // max(1, V * D)


def _linear_cross_entropy(x, w, target, *, ignore_index, label_smoothing, reduction, z_loss=0.0):
    flat, w_, t = floats(x).reshape(target.size, x.shape[-1]), floats(w), ids(target)
    (V, D), losses, stats, turned = w.shape, np.empty(t.size, f32), np.empty((3, t.size), f32), _turned(w_)
    given = flat, turned, t, losses, stats, ignore_index, f32(label_smoothing), f32(z_loss), V

    def piece(start, stop):
        rows, wide = _held(V)
        x_tile, z = buffers(rows * D, rows * wide)
        _linear_losses(*given, x_tile, z.reshape(rows, wide), start, stop)

    share(piece, t.size, _grain(V, D))
    y, count = reduced(losses, target, ignore_index, reduction)
    return y, (x, w, target, stats, count)


def _linear_cross_entropy_backward(
    saved, dy, needs_input_grad, *, ignore_index, label_smoothing, reduction, z_loss=0.0
):
    x, w, target, stats, count = saved
    flat, w_, t = floats(x).reshape(target.size, x.shape[-1]), floats(w), ids(target)
    (V, D), width = w.shape, up(w.shape[1], LANES)
    w_rows = w_ if width == D else np.pad(w_, ((0, 0), (0, width - D)))
    dx = np.empty(flat.shape if needs_input_grad[0] else (0, D), f32)
    given = flat, _turned(w_), w_rows.reshape(-1), t, stats, scales(dy, count, t.size), dx

    def piece(start, stop):
        rows, wide = _held(V)
        x_tile, dx_tile, z, dw = buffers(
            rows * width, rows * width, rows * wide, up(V, ROWS) * width if needs_input_grad[1] else 0
        )
        dw[:] = 0
        options = ignore_index, f32(label_smoothing), f32(z_loss), V
        _linear_derivatives(*given, dw, *options, (x_tile, dx_tile), z.reshape(rows, wide), start, stop)
        return dw[: V * width].reshape(V, width)[:, :D] if needs_input_grad[1] else None

    parts = share(piece, t.size, _grain(V, D))
    dw = parts[0]
    for part in parts[1:]:
        dw = dw + part if needs_input_grad[1] else None
    return dx.reshape(x.shape) if needs_input_grad[0] else None, dw, None


linear_cross_entropy = Op(
    "linear_cross_entropy", _linear_cross_entropy, _linear_cross_entropy_backward, backend="numba"
)
