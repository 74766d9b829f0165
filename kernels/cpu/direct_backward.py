"""The gradient of a convolution's weights, with its sums in registers: direct.py turned around.

    dw[t, c] = sum over images n, pixels p of x[n, at(p, t), c] y[n, p]

Plan        A tile has ROWS channels of one tap by LANES outputs, and its runs are rows of pixels: those for which the
            tap lies inside the image. With fewer channels than a tile has rows (1 -> 32) taps share a tile; they see
            different pixels, so that x gets its border of zeros after all. Tiles are shared out over threads: no two
            write to the same number, and the sums do not depend on how many threads there are
Cost        2 pixels taps A B flops, taps outside the image excepted
Precision   float32; PIXELS terms in a register, then these sums

# why: docs/kernels/convolution.md; docs/kernels/cpu.md
# next: kernels/cpu/narrow.py, for few channels
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from core.runtime.threads import share
from kernels.cpu.common import INDEX, PIECE, const, f32, inline, kernel, out
from kernels.cpu.direct import BLOCK, RUNS, TABLE, as_runs, starts
from kernels.cpu.lanes import LANES, add_product, load_part, store_part
from kernels.cpu.tiles import ROWS, run_sums

PIXELS = 48  # terms of a sum that stay in registers: more round worse than PyTorch's


@inline
def _add(dw, o, n, s):
    store_part(dw, o, n, add_product(load_part(dw, o, n, f32(0)), f32(1), s))


@kernel(const(1), const(1), out(2), *(TABLE,) * 4, RUNS, *(TABLE,) * 2, *(INDEX,) * 5, *PIECE)
def _weight_gradient(
    x, y, dw, rows, firsts, counts, classes, runs, sums, sum_starts, step, width, images, x_image, y_image, start, stop
):
    """dw += x^T y over `images` images. Tile t has counts[t] rows from firsts[t] on, and its class's sums of runs."""
    flat, outputs = dw.reshape(-1), dw.shape[1]
    for t in range(start, stop):
        k, count = classes[t], counts[t]
        for j in range(0, outputs, LANES):
            o, many = firsts[t] * outputs + j, outputs - j
            for n in range(images):
                for g in range(sum_starts[k], sum_starts[k + 1]):
                    s0, s1, s2, s3, s4, s5, s6, s7 = run_sums(
                        x, rows[t * ROWS :], n * x_image, step, y, n * y_image + j, width, runs, sums[g], sums[g + 1]
                    )
                    _add(flat, o, many, s0)
                    if count > 1:
                        _add(flat, o + outputs, many, s1)
                    if count > 2:
                        _add(flat, o + 2 * outputs, many, s2)
                    if count > 3:
                        _add(flat, o + 3 * outputs, many, s3)
                    if count > 4:
                        _add(flat, o + 4 * outputs, many, s4)
                    if count > 5:
                        _add(flat, o + 5 * outputs, many, s5)
                    if count > 6:
                        _add(flat, o + 6 * outputs, many, s6)
                    if count > 7:
                        _add(flat, o + 7 * outputs, many, s7)


class _WeightTables(NamedTuple):
    rows: np.ndarray  # (tiles ROWS,): where each row's first term lies in an image of x
    firsts: np.ndarray  # (tiles,): the first row of dw
    counts: np.ndarray  # (tiles,): how many
    classes: np.ndarray  # (tiles,)
    runs: np.ndarray  # (in x, in y, pixels)
    sums: np.ndarray  # of at most PIXELS terms: the first run of each
    sum_starts: np.ndarray  # of each class


@lru_cache(64)
def _weight_tables(size, channels, width, row, col) -> _WeightTables:
    """Of the taps of one part; y has `width` numbers a pixel. Taps see different pixels: each is a class of its own,
    unless channels are so few that it would not fill a tile. Then all must lie inside the image, and are one class."""
    taps = [(s, t) for s in range(len(row.taps)) for t in range(len(col.taps))]
    groups = [[tap] for tap in taps] if channels >= ROWS else [taps]
    rows, firsts, counts, classes, runs, sums, sum_sizes, first = [], [], [], [], [], [], [], 0
    for k, group in enumerate(groups):
        offsets = [((row.spacing * s) * size[1] + col.spacing * t) * channels for s, t in group]
        own = [o + c for o in offsets for c in range(channels)]
        for i in range(0, len(own), ROWS):
            tile = own[i : i + ROWS]
            rows += tile + tile[:1] * (ROWS - len(tile))
            firsts.append(first + i)
            counts.append(len(tile))
            classes.append(k)
        first += len(own)
        sizes = _cut(runs, row, col, size, channels, width, group[0])
        sums += [len(runs) - sum(sizes[i:]) for i in range(len(sizes))]
        sum_sizes.append(len(sizes))
    tables = [np.array(v, np.int64) for v in (rows, firsts, counts, classes)]
    return _WeightTables(*tables, as_runs(runs), np.array([*sums, len(runs)], np.int64), starts(sum_sizes))


def _cut(runs, row, col, size, channels, width, tap):
    """Append the runs of one tap's pixels; how many there are in each sum of at most PIXELS terms."""
    ps = [p for p in range(row.count) if tap[0] in row.inside(p, size[0])]
    qs = [q for q in range(col.count) if tap[1] in col.inside(q, size[1])]
    sizes, room = [], 0
    for p in ps:
        for i in range(0, len(qs), PIXELS):
            q, length = qs[i], min(PIXELS, len(qs) - i)
            x = ((row.step * p + row.start) * size[1] + col.step * q + col.start) * channels
            runs.append((x, (p * col.count + q) * width, length))
            if length > room:
                sizes.append(0)
                room = PIXELS
            sizes[-1] += 1
            room -= length
    return sizes


def _bordered(x, row, col):
    """x with zeros around, so that all taps lie inside; and the two axes in it."""
    reach = [a.step * (a.count - 1) + a.spacing * (len(a.taps) - 1) + 1 for a in (row, col)]
    y = np.zeros((len(x), *reach, x.shape[3]), f32)
    here, there = [], []
    for axis, size, length in zip((row, col), x.shape[1:3], reach):
        here.append(slice(max(-axis.start, 0), max(min(size - axis.start, length), 0)))
        there.append(slice(max(axis.start, 0), max(min(size, axis.start + length), 0)))
    y[:, here[0], here[1]] = x[:, there[0], there[1]]
    return y, row._replace(start=0), col._replace(start=0)


def weight_gradient(x, y, row, col):
    """(KH, KW, A, B): for every tap, the sum over pixels of x's value times y's."""
    a, b = x.shape[3], y.shape[3]
    dw = np.zeros((len(row.taps) * len(col.taps) * a, b), f32)
    if not (dw.size and y.size):
        return dw.reshape(len(row.taps), len(col.taps), a, b)
    if a < ROWS:
        x, row, col = _bordered(x, row, col)
    if b % LANES:  # whole vectors of y are read
        y = np.concatenate([y, np.zeros((*y.shape[:3], -b % LANES), f32)], axis=3)
    t, width, images = _weight_tables(x.shape[1:3], a, y.shape[3], row, col), y.shape[3], (x[0].size, y[0].size)
    step = max(1, BLOCK // max(images))

    def piece(start, stop):
        for n in range(0, len(x), step):
            part = x[n : n + step].reshape(-1), y[n : n + step].reshape(-1)
            _weight_gradient(*part, dw, *t, col.step * a, width, len(x[n : n + step]), *images, start, stop)

    share(piece, len(t.firsts))
    return dw.reshape(len(row.taps), len(col.taps), a, b)
