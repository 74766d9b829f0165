"""Fewer multiplications: short correlations by Winograd's algorithm, for many channels and undilated kernels.

Two outputs of three taps, or three outputs of two, take four multiplications instead of six. Along one axis

    y = A^T [(G g) * (B^T x)]      x four inputs, g two or three taps, y three or two outputs, * elementwise

evaluates the polynomials with coefficients x, g at the points 0, 1, -1 and infinity, multiplies the values, and goes
back; B is the same for both. In two dimensions this is done along rows, then columns: a tile of 4 x 4 inputs becomes 16
numbers, and the 16 products over channels, tiles and filters are 16 matrix products of (tiles, A) with (A, B).

    B^T = 1  0 -1  0     G(3) = 1   0   0     A^T(2) = 1  1  1  0     G(2) = 1   0     A^T(3) = 1  1  1  0
          0  1  1  0           1/2 1/2 1/2             0  1 -1  1            1/2 1/2            0  1 -1  0
          0 -1  1  0           1/2-1/2 1/2                                   1/2-1/2            0  1  1  1
          0 -1  0  1            0   0   1                                     0   1

Its adjoint in g gives the weight gradient: dg = G^T [(A dy) * (B^T x)]. Longer kernels and strides are cut into parts
of two or three taps: a correlation of stride 2 has one for each residue of the taps, a transposed one for each residue
of the output, and 5 taps of stride 1 are 3 + 2.

Shapes      x (N, H, W, A), w (KH, KW, A, B), y (N, OH, OW, B); V (16, tiles, A), U (16, A, B), M (16, tiles, B)
Plan        images are shared out over threads; each transforms a block of them, multiplies, and transforms back
Cost        5 x 5 taps at stride 2 on 14 x 14 inputs: 2.1 times fewer multiplications, on 7 x 7 (partial tiles) 1.6,
            where the direct sum is faster
Precision   float32: B has entries 0 and +-1 only, and errors are those of the direct sum. Points +-2 or +-1/2 would
            save a further third of the multiplications and were three to six times less accurate than PyTorch
Limits      multiples of LANES channels (32 with AVX-512, else 8) on both sides, 32 at least; an infinite input makes
            its whole tile nan
Source      Winograd 1980; Lavin & Gray 2016

# why: docs/kernels/convolution.md; docs/kernels/cpu.md
# next: kernels/cpu/embedding.py
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np

from core.runtime.threads import share
from kernels.cpu.common import INDEX, PIECE, REAL, const, f32, inline, kernel, out
from kernels.cpu.lanes import LANES, add_product, bent, fill, load, store, times, up
from kernels.cpu.tiles import ROWS, buffers, product

BLOCK = 1 << 19  # numbers of V at once (2 MB)
OUTPUTS = {2: 3, 3: 2}  # taps -> outputs of a tile
WORTH, CHANNELS = 1.8, 96  # times fewer multiplications, and channels in and out, at which this is faster
G = {  # by taps
    2: np.array([[1, 0], [0.5, 0.5], [0.5, -0.5], [0, 1]], f32),
    3: np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], f32),
}
AT = {  # by outputs; a third row of zeros where there are two
    2: np.array([[1, 1, 1, 0], [0, 1, -1, 1], [0, 0, 0, 0]], f32),
    3: np.array([[1, 1, 1, 0], [0, 1, -1, 0], [0, 1, 1, 1]], f32),
}


def cut(axis) -> list:
    """An axis in parts of two or three taps whose inputs are a step apart: by residues mod step, and then if long."""
    parts = []
    for i in range(min(axis.step, len(axis.taps))):
        taps = axis.taps[i :: axis.step]
        pieces = -(-len(taps) // 3)
        edges = [len(taps) * k // pieces for k in range(pieces + 1)]
        parts += [
            axis._replace(taps=taps[p:q], spacing=axis.step, start=axis.start + i + axis.step * p)
            for p, q in pairwise(edges)
        ]
    return parts


@lru_cache(256)
def parts(row, col, size, channels) -> tuple:
    """The parts (row, col) of a correlation of images of this size, if they save enough multiplications, in enough
    channels, to pay for their transforms; else none."""
    cuts = cut(row), cut(col)
    plain = all(a.spacing == 1 and a.count for a in (row, col))
    short = all(len(a.taps) in OUTPUTS for a in (*cuts[0], *cuts[1]))
    many = sum(channels) >= CHANNELS and all(c >= 32 and c % LANES == 0 for c in channels)
    if not (plain and short and many):
        return ()
    direct = row.terms(size[0]) * col.terms(size[1])
    ours = 16 * sum(map(_tiles, cuts[0])) * sum(map(_tiles, cuts[1]))
    pairs = tuple((a, b) for a in cuts[0] for b in cuts[1])
    return pairs if direct > WORTH * ours else ()


def _tiles(axis):
    return -(-axis.count // OUTPUTS[len(axis.taps)])


# --- transforms of LANES channels of a tile at a time; t holds the tile between rows and columns ---------------


@inline
def _pixel(x, i, inside):
    return load(x, i) if inside else fill(f32(0))


@kernel(const(4), out(1), out(1), *(INDEX,) * 9, *PIECE)
def _transform(x, v, t, tiles, step_h, step_w, top, left, mh, mw, th, tw, start, stop):
    """v[:, i] = B^T d B of every tile i of images start to stop; d is its 4 x 4 inputs, zero outside the image."""
    _, height, width, channels = x.shape
    flat, wide, one, minus = x.reshape(-1), width * channels, f32(1), f32(-1)
    for n in range(stop - start):
        image = (start + n) * height * wide
        for i in range(th * tw):
            h, w0 = i // tw * mh * step_h + top, i % tw * mw * step_w + left
            in0, in1 = 0 <= h < height, 0 <= h + step_h < height
            in2, in3 = 0 <= h + 2 * step_h < height, 0 <= h + 3 * step_h < height
            for c in range(0, channels, LANES):
                for b in range(4):
                    w = w0 + b * step_w
                    o, down, inside = image + h * wide + w * channels + c, step_h * wide, 0 <= w < width
                    d0, d1 = _pixel(flat, o, inside and in0), _pixel(flat, o + down, inside and in1)
                    d2, d3 = _pixel(flat, o + 2 * down, inside and in2), _pixel(flat, o + 3 * down, inside and in3)
                    store(t, b * LANES, add_product(d0, minus, d2))
                    store(t, (4 + b) * LANES, add_product(d1, one, d2))
                    store(t, (8 + b) * LANES, add_product(d2, minus, d1))
                    store(t, (12 + b) * LANES, add_product(d3, minus, d1))
                for a in range(4):
                    d0, d1 = load(t, 4 * a * LANES), load(t, (4 * a + 1) * LANES)
                    d2, d3 = load(t, (4 * a + 2) * LANES), load(t, (4 * a + 3) * LANES)
                    o, step = (4 * a * tiles + n * th * tw + i) * channels + c, tiles * channels
                    store(v, o, add_product(d0, minus, d2))
                    store(v, o + step, add_product(d1, one, d2))
                    store(v, o + 2 * step, add_product(d2, minus, d1))
                    store(v, o + 3 * step, add_product(d3, minus, d1))


@inline
def _combined(a, row, x, o, step):
    """The sum over k < 4 of a[row, k] x[o + k step]."""
    v = add_product(times(fill(a[row, 0]), load(x, o)), a[row, 1], load(x, o + step))
    return add_product(add_product(v, a[row, 2], load(x, o + 2 * step)), a[row, 3], load(x, o + 3 * step))


@kernel(const(1), out(4), out(1), const(1), REAL, *(INDEX,) * 2, *(const(2),) * 2, *(INDEX,) * 11, *PIECE)
def _inverse(
    m, y, t, bias, negative_slope, first, last, ah, aw, tiles, mh, mw, th, tw, r, rows, c, columns, oh, ow, start, stop
):
    """Pixels of y = A^T m A for every tile; the first part adds the bias, others add to y, the last one activates."""
    _, height, width, channels = y.shape
    flat, nothing, one = y.reshape(-1), fill(f32(0)), f32(1)
    for n in range(stop - start):
        for i in range(th * tw):
            p0, q0 = i // tw * mh, i % tw * mw
            for k in range(0, channels, LANES):
                for b in range(4):
                    o = (b * tiles + n * th * tw + i) * channels + k
                    for p in range(mh):
                        store(t, (4 * p + b) * LANES, _combined(ah, p, m, o, 4 * tiles * channels))
                for p in range(min(mh, oh - p0)):
                    for q in range(min(mw, ow - q0)):
                        h, w = r + rows * (p0 + p), c + columns * (q0 + q)
                        o = (((start + n) * height + h) * width + w) * channels + k
                        v = _combined(aw, q, t, 4 * p * LANES, LANES)
                        v = add_product(v, one, load(bias, k) if first else load(flat, o))
                        if last and negative_slope != one:
                            v = bent(
                                v, add_product(nothing, negative_slope, v) if negative_slope != f32(0) else nothing
                            )
                        store(flat, o, v)


@kernel(const(4), out(1), out(1), *(const(2),) * 2, *(INDEX,) * 9, *PIECE)
def _adjoint(dy, d, t, ah, aw, tiles, mh, mw, th, tw, r, rows, c, columns, start, stop):
    """d[:, i] = A dy A^T of every tile i of images start to stop: what `_inverse` makes of pixels, turned around."""
    _, height, width, channels = dy.shape
    flat, down = dy.reshape(-1), rows * width * channels
    for n in range(stop - start):
        for i in range(th * tw):
            h, w0 = r + rows * (i // tw * mh), i % tw * mw
            in0, in1, in2 = h < height, h + rows < height, mh == 3 and h + 2 * rows < height
            for k in range(0, channels, LANES):
                for q in range(3):
                    w = c + columns * (w0 + q)
                    o, inside = (((start + n) * height + h) * width + w) * channels + k, q < mw and w < width
                    d0, d1 = _pixel(flat, o, inside and in0), _pixel(flat, o + down, inside and in1)
                    d2 = _pixel(flat, o + 2 * down, inside and in2)
                    for a in range(4):
                        v = add_product(times(fill(ah[0, a]), d0), ah[1, a], d1)
                        store(t, (4 * a + q) * LANES, add_product(v, ah[2, a], d2))
                for a in range(4):
                    for b in range(4):
                        o = 4 * a * LANES
                        v = add_product(times(fill(aw[0, b]), load(t, o)), aw[1, b], load(t, o + LANES))
                        v = add_product(v, aw[2, b], load(t, o + 2 * LANES))
                        store(d, ((4 * a + b) * tiles + n * th * tw + i) * channels + k, v)


# --- the 16 products ----------------------------------------


@kernel(const(1), const(1), out(1), *(INDEX,) * 3)
def _multiply(v, u, m, tiles, a, b):
    """m = v u: 16 times (tiles, A) by (A, B), the latter in blocks of LANES columns."""
    for k in range(16):
        product(v[k * tiles * a :], a, 1, u[k * a * b :], LANES, a * LANES, m[k * tiles * b :], b, tiles, b, a, False)


@kernel(const(1), const(1), out(1), *(INDEX,) * 3)
def _multiply_backward(v, d, du, tiles, a, b):
    """du += v^T d: 16 times (A, tiles) by (tiles, B)."""
    for k in range(16):
        product(v[k * tiles * a :], 1, a, d[k * tiles * b :], b, LANES, du[k * a * b :], b, a, b, tiles, True)


# --- correlation and weight gradient ----------------------------------------


def _blocks(start, stop, parts, channels):
    """Pieces of range(start, stop) with about BLOCK numbers in V."""
    tiles = max(_tiles(row) * _tiles(column) for row, column, *_ in parts)
    step = max(1, BLOCK // (16 * tiles * channels))
    return [(a, min(a + step, stop)) for a in range(start, stop, step)]


def _weights(w, row, column):
    """U = G w G^T of a part's taps, flat: 16 times (A, B), each in blocks of LANES columns."""
    taps, (a, b) = w[list(row.taps)][:, list(column.taps)], w.shape[2:]
    u = np.tensordot(G[len(column.taps)], taps, (1, 1))  # (4, taps, A, B)
    u = np.tensordot(G[len(row.taps)], u, (1, 1)).reshape(16, a, b // LANES, LANES)
    return np.ascontiguousarray(u.transpose(0, 2, 1, 3)).reshape(-1)


def _geometry(row, column):
    return OUTPUTS[len(row.taps)], OUTPUTS[len(column.taps)], _tiles(row), _tiles(column)


def _rooms(pieces, parts, *channels):
    """Flat buffers for 16 times (tiles, C) of a block's largest part, for every C, and for `t` of the transforms."""
    images, tiles = max(q - p for p, q in pieces), max(_tiles(row) * _tiles(col) for row, col, *_ in parts)
    return buffers(*(16 * up(images * tiles, ROWS) * c for c in channels), 16 * LANES)


def correlate(x, w, y, parts, bias, negative_slope):
    """Fill the pixels of y that `parts` make together, bias and activation included."""
    a, b = w.shape[2:]
    parts = [(row, column, _weights(w, row, column)) for row, column in parts]

    def piece(start, stop):
        pieces = _blocks(start, stop, parts, max(a, b))
        v_room, m_room, t = _rooms(pieces, parts, a, b)
        for p, q in pieces:
            for i, (row, column, u) in enumerate(parts):
                sizes = _geometry(row, column)
                tiles = up((q - p) * sizes[2] * sizes[3], ROWS)
                _transform(x, v_room, t, tiles, row.step, column.step, row.start, column.start, *sizes, p, q)
                _multiply(v_room, u, m_room, tiles, a, b)
                ends, matrices = (i == 0, i == len(parts) - 1), (AT[sizes[0]], AT[sizes[1]])
                places = (*row.place, *column.place, row.count, column.count)
                _inverse(m_room, y, t, bias, negative_slope, *ends, *matrices, tiles, *sizes, *places, p, q)

    if len(x):
        share(piece, len(x))


def weight_gradient(x, y, taps, parts):
    """(KH, KW, A, B), by the parts of the correlation that makes y from x: dw = G^T [(A y A^T) * (B^T x B)] G."""
    a, b = x.shape[3], y.shape[3]
    if not len(x):
        return np.zeros((*taps, a, b), f32)

    def piece(start, stop):
        totals = np.zeros((len(parts), 16 * a * b), f32)
        pieces = _blocks(start, stop, parts, max(a, b))
        v_room, d_room, t = _rooms(pieces, parts, a, b)
        for p, q in pieces:
            for (row, column), total in zip(parts, totals):
                sizes = _geometry(row, column)
                tiles = (q - p) * sizes[2] * sizes[3]
                _transform(x, v_room, t, tiles, row.step, column.step, row.start, column.start, *sizes, p, q)
                matrices, places = (AT[sizes[0]], AT[sizes[1]]), (*row.place, *column.place)
                _adjoint(y, d_room, t, *matrices, tiles, *sizes, *places, p, q)
                _multiply_backward(v_room, d_room, total, tiles, a, b)
        return totals

    sums = share(piece, len(x))
    dw = np.empty((*taps, a, b), f32)
    for (row, column), total in zip(parts, sum(sums[1:], sums[0])):
        g = np.tensordot(G[len(row.taps)].T, total.reshape(4, 4, a, b), (1, 0))  # (taps, 4, A, B)
        dw[np.ix_(row.taps, column.taps)] = np.tensordot(G[len(column.taps)].T, g, (1, 1)).swapaxes(0, 1)
    return dw
