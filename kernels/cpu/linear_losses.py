"""Cross entropy on the logits x @ w.T of a language model's last layer, which are never all in memory.

    z = x w^T;  d = dL/dz as in kernels/cpu/losses.py;  dx = d w;  dw = d^T x

Shapes      x (rows, D), w (V, D), targets (rows,)
Plan        a piece of the rows for each thread: some rows of logits at a time, by the product of kernels/cpu/tiles.py,
            which stay in cache until their losses are known; backward the same logits again, d in their place, and both
            products. dw is a sum for each thread, then one over the threads
Cost        2 rows V D flops, 6 backward (the logits are computed twice); a copy of w as the product takes it, HELD
            logits and a dw for each thread
Precision   float32 as in losses.py; sums of products in blocks of DEPTH terms
Versions    x (1280, 128), 4000 classes, 1 thread: 33 ms with the gradient, torch's linear_cross_entropy 49. All in all
            157 GF/s, where NumPy's products alone reach 95
Limits      none

# why: docs/kernels/losses.md
# next: kernels/cpu/variational.py
"""

import numpy as np
from numba import types

from core.engine import Op
from core.runtime.threads import share
from kernels.cpu.common import INDEX, PIECE, const, f32, floats, kernel, out
from kernels.cpu.lanes import LANES, up
from kernels.cpu.losses import ENOUGH, IDS, OPTIONS, ids, losses_of, reduced, scales, slopes_of
from kernels.cpu.tiles import ROWS, buffers, pack, product, turn, unpack

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
def _linear_slopes(
    x, w, w_rows, t, stats, scale, dx, dw, ignore_index, smoothing, z_loss, V, tiles, z, start, stop
):  # fmt: skip
    """dx of the rows, and what they give to dw; either may have no elements and is not wanted then."""
    (step, wide), D, (x_tile, dx_tile) = z.shape, x.shape[1], tiles
    flat, z_flat, dx_flat, width = x.reshape(-1), z.reshape(-1), dx.reshape(-1), up(D, LANES)
    for first in range(start, stop, step):
        rows = min(step, stop - first)
        pack(flat[first * D :], D, rows, D, x_tile, width)
        product(x_tile, width, 1, w, LANES, LANES * D, z_flat, wide, rows, V, D, False)
        slopes_of(z, z, V, t, stats, scale, first, ignore_index, smoothing, z_loss, 0, rows)
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


def _linear_cross_entropy_backward(saved, dy, needs, *, ignore_index, label_smoothing, reduction, z_loss=0.0):
    x, w, target, stats, count = saved
    flat, w_, t = floats(x).reshape(target.size, x.shape[-1]), floats(w), ids(target)
    (V, D), width = w.shape, up(w.shape[1], LANES)
    w_rows = w_ if width == D else np.pad(w_, ((0, 0), (0, width - D)))
    dx = np.empty(flat.shape if needs[0] else (0, D), f32)
    given = flat, _turned(w_), w_rows.reshape(-1), t, stats, scales(dy, count, t.size), dx

    def piece(start, stop):
        rows, wide = _held(V)
        x_tile, dx_tile, z, dw = buffers(
            rows * width, rows * width, rows * wide, up(V, ROWS) * width if needs[1] else 0
        )
        dw[:] = 0
        options = ignore_index, f32(label_smoothing), f32(z_loss), V
        _linear_slopes(*given, dw, *options, (x_tile, dx_tile), z.reshape(rows, wide), start, stop)
        return dw[: V * width].reshape(V, width)[:, :D] if needs[1] else None

    parts = share(piece, t.size, _grain(V, D))
    dw = parts[0]
    for part in parts[1:]:
        dw = dw + part if needs[1] else None
    return dx.reshape(x.shape) if needs[0] else None, dw, None


linear_cross_entropy = Op(
    "linear_cross_entropy", _linear_cross_entropy, _linear_cross_entropy_backward, backend="numba"
)
