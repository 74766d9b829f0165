"""Convolution as a sum over taps and channels, kept in registers: no patches, no border of zeros.

    y[n, place(p)] = act(b + sum over taps t, channels c of x[n, at(p, t), c] w[t, c])

where along each axis at(p, t) = step p + spacing t + start, and output p goes to place r + R p (a phase of a transposed
convolution fills every R-th pixel). Taps outside the image cost nothing, although 8 pixels are worked on at once: these
see the same taps, because pixels are sorted by them. A corner of one image stands beside the same corner of the next.

Shapes      x (N, H, W, A), w (KH, KW, A, B), y (N, OH, OW, B)
Plan        ROWS by LANES sums (kernels/cpu/tiles.py). Their terms lie in runs of neighbours, in x and in the weights:
            with a spacing of one, all channels of all taps in a row of the kernel. `_tables` lists, for every class of
            pixels, where they are, where they go, and their runs; it is made once for a geometry. The weights are
            copied once, so that a block of LANES outputs is one stream
Cost        2 pixels taps A B flops, taps outside the image excepted (31 % of 5 x 5 taps on 7 x 7 pixels)
Precision   float32, one sum over all taps and channels, as PyTorch's
Versions    two cores of a Zen 5 (peak 480 GF/s), 7 x 7 and 14 x 14 images. Patches side by side and BLAS: 200 to 260;
            a border of zeros, and two tables of offsets instead of patches: 215 to 300, zeros included; this: 380 to
            530, counted as if they were multiplied

# why: docs/kernels/convolution.md; docs/kernels/cpu.md
# next: kernels/cpu/direct_backward.py, the gradient of its weights
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import types

from core.runtime.threads import share
from kernels.cpu.common import INDEX, PIECE, REAL, const, f32, inline, kernel, out
from kernels.cpu.lanes import LANES, add_product, bent, fill, load_part, store_part, up
from kernels.cpu.tiles import ROWS, run_sums

BLOCK = 1 << 17  # numbers of the images that are worked on at once (512 KB)
PACKED = 1 << 15  # weights that are worth a thread of their own to copy
TABLE, RUNS = const(1, types.int64), const(2, types.int64)
ANY_LAYOUT = types.Array(types.float32, 4, "A", readonly=True)


class Axis(NamedTuple):
    """One axis of a correlation: output p of `count` goes to place r + R p, tap t reads step p + spacing t + start."""

    taps: tuple  # indices into the kernel; t counts them
    step: int
    spacing: int
    start: int
    place: tuple  # (r, R)
    count: int

    def inside(self, p, size):
        """Which of the taps read from an image of this size at output p."""
        return tuple(t for t in range(len(self.taps)) if 0 <= self.step * p + self.spacing * t + self.start < size)

    def terms(self, size):
        """How many taps all outputs see together."""
        return sum(len(self.inside(p, size)) for p in range(self.count))

    def classes(self, size):
        """{taps inside: [outputs]}"""
        found: dict = {}
        for p in range(self.count):
            found.setdefault(self.inside(p, size), []).append(p)
        return found


def starts(sizes):
    """Where each of consecutive pieces of these sizes begins, and where the last one ends."""
    return np.cumsum([0, *sizes], dtype=np.int64)


def as_runs(runs):
    return np.array(runs, np.int64).reshape(-1, 3)


@inline
def _put(y, o, n, s, bias, negative_slope):
    """y[o : o + n] = s + bias, times `slope` where that is negative."""
    v = add_product(bias, f32(1), s)
    if negative_slope != f32(1):
        v = bent(v, add_product(fill(f32(0)), negative_slope, v) if negative_slope != f32(0) else fill(f32(0)))
    store_part(y, o, n, v)


@kernel(const(1), const(1), const(1), REAL, out(1), *(TABLE,) * 3, RUNS, TABLE, *(INDEX,) * 3, *PIECE)
def _correlate(
    x, w, bias, negative_slope, y, pixels, places, classes, runs, run_starts, x_image, y_image, depth, start, stop
):
    """Images start to stop. Class k has the pixels from classes[k] and the runs from run_starts[k] on."""
    rows, targets = np.empty(ROWS, np.int64), np.empty(ROWS, np.int64)
    for j in range(0, bias.size, LANES):
        many, beside = bias.size - j, load_part(bias, j, bias.size - j, f32(0))
        for k in range(classes.size - 1):
            first, last = classes[k], classes[k + 1]
            n, p = start, first
            for _ in range(0, (stop - start) * (last - first), ROWS):
                for r in range(ROWS):
                    rows[r], targets[r] = n * x_image + pixels[p], n * y_image + places[p] + j
                    if p + 1 < last:
                        p += 1
                    elif n + 1 < stop:  # else the last pixel fills the rest of the rows
                        n, p = n + 1, first
                s0, s1, s2, s3, s4, s5, s6, s7 = run_sums(
                    x, rows, 0, 1, w, j * depth, LANES, runs, run_starts[k], run_starts[k + 1]
                )
                _put(y, targets[0], many, s0, beside, negative_slope)
                _put(y, targets[1], many, s1, beside, negative_slope)
                _put(y, targets[2], many, s2, beside, negative_slope)
                _put(y, targets[3], many, s3, beside, negative_slope)
                _put(y, targets[4], many, s4, beside, negative_slope)
                _put(y, targets[5], many, s5, beside, negative_slope)
                _put(y, targets[6], many, s6, beside, negative_slope)
                _put(y, targets[7], many, s7, beside, negative_slope)


@kernel(ANY_LAYOUT, TABLE, TABLE, out(1), *PIECE)
def _pack(w, rows, cols, packed, start, stop):
    """packed[j, t, c] = w[rows[t], cols[t], c, j LANES :] for taps t from start to stop; zeros beyond the last."""
    _, _, channels, outputs = w.shape
    for t in range(start, stop):
        tap = w[rows[t], cols[t]]
        for j in range(0, outputs, LANES):
            for c in range(channels):
                target = packed[((j // LANES * rows.size + t) * channels + c) * LANES :][:LANES]
                for k in range(LANES):
                    target[k] = tap[c, j + k] if j + k < outputs else f32(0)


class _Tables(NamedTuple):
    pixels: np.ndarray  # where a pixel's first tap lies in its image of x
    places: np.ndarray  # where the pixel lies in its image of y
    classes: np.ndarray  # of pixels that see the same taps: where each begins
    runs: np.ndarray  # (from the pixel's first tap, in a block of the weights, terms)
    run_starts: np.ndarray  # of each class
    rows: np.ndarray  # (taps,): the taps in the order in which the weights are packed
    cols: np.ndarray


def _class_runs(row, col, inside_h, inside_w, line, channels, packed):
    """The runs of pixels that see these taps; taps beside each other in x are one run. `packed` taps come before."""
    joined = [inside_w] if col.spacing == 1 and inside_w else [(t,) for t in inside_w]
    return [
        (
            row.spacing * s * line + col.spacing * group[0] * channels,
            (packed + s * len(col.taps) + group[0]) * channels * LANES,
            len(group) * channels,
        )
        for s in inside_h
        for group in joined
    ]


@lru_cache(64)
def _tables(x_size, channels, y_size, outputs, parts) -> _Tables:
    """Of the correlations `parts`, pairs of Axis, that fill an image (H, W, outputs) from one of (H, W, channels)."""
    pixels, places, runs, sizes, run_sizes, taps = [], [], [], [], [], []
    for row, col in parts:
        packed, line = len(taps), x_size[1] * channels
        taps += [(i, j) for i in row.taps for j in col.taps]
        for inside_h, ps in row.classes(x_size[0]).items():
            for inside_w, qs in col.classes(x_size[1]).items():
                p, q = np.array(ps)[:, None], np.array(qs)
                at = (row.step * p + row.start) * line + (col.step * q + col.start) * channels
                to = (row.place[0] + row.place[1] * p) * y_size[1] + col.place[0] + col.place[1] * q
                pixels.append(at.reshape(-1))
                places.append(to.reshape(-1) * outputs)
                own = _class_runs(row, col, inside_h, inside_w, line, channels, packed)
                runs += own
                sizes.append(at.size)
                run_sizes.append(len(own))
    flat = [np.concatenate(v) if v else np.empty(0, np.int64) for v in (pixels, places)]
    rows, cols = np.array(taps, np.int64).reshape(-1, 2).T.copy()
    return _Tables(*flat, starts(sizes), as_runs(runs), starts(run_sizes), rows, cols)


def correlate(x, w, y, parts, bias, negative_slope):
    """Fill the pixels of y that `parts`, pairs of Axis, make of x and w; slope is the activation's below zero."""
    a, b = w.shape[2:]
    t = _tables(x.shape[1:3], a, y.shape[1:3], b, tuple(parts))
    packed = np.empty(t.rows.size * a * up(b, LANES), f32)
    grain = max(PACKED // max(a * b, 1), 1)
    share(lambda start, stop: _pack(w, t.rows, t.cols, packed, start, stop), t.rows.size, grain)
    images = x[:1].size, y[:1].size
    step = max(1, BLOCK // max(*images, 1))

    def piece(start, stop):
        for n in range(start, stop, step):
            _correlate(
                *(x.reshape(-1), packed, bias, negative_slope, y.reshape(-1)),
                *(t.pixels, t.places, t.classes, t.runs, t.run_starts),
                *(*images, t.rows.size * a, n, min(n + step, stop)),
            )

    if y.size:
        share(piece, len(x))
