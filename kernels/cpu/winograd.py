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
Cost        5 x 5 taps at stride 2 on 14 x 14 inputs: 2.1 times fewer multiplications, on 7 x 7 (ragged tiles) 1.6,
            where the direct sum is faster
Precision   float32: B has entries 0 and +-1 only, and errors are those of the direct sum. Points +-2 or +-1/2 would
            save a further third of the multiplications and were three to six times less accurate than PyTorch
Limits      multiples of 32 channels up to 1,024 on both sides; an infinite input makes its whole tile nan
Source      Winograd 1980; Lavin & Gray 2016

# next: kernels/cpu/conv.py, which chooses between this and kernels/cpu/patches.py
"""

from typing import NamedTuple

import numpy as np

from core.threads import share
from kernels.cpu.common import INDEX, PIECE, REAL, const, f32, kernel, out
from kernels.cpu.lanes import LANES, ROWS, buffers, product, up

BLOCK = 1 << 19  # numbers of V at once (2 MB)
WIDE = 1024  # channels at most
OUTPUTS = {2: 3, 3: 2}  # taps -> outputs of a tile
G = {  # by taps
    2: np.array([[1, 0], [0.5, 0.5], [0.5, -0.5], [0, 1]], f32),
    3: np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], f32),
}
AT = {  # by outputs; a third row of zeros where there are two
    2: np.array([[1, 1, 1, 0], [0, 1, -1, 1], [0, 0, 0, 0]], f32),
    3: np.array([[1, 1, 1, 0], [0, 1, -1, 0], [0, 1, 1, 1]], f32),
}


class Axis(NamedTuple):
    """A part along one axis: output p of `count` goes to place r + R p and reads inputs step (p + t) + start."""

    taps: tuple  # indices into the kernel, in order of their inputs: two or three
    step: int
    start: int
    place: tuple  # (r, R)
    count: int

    @property
    def outputs(self):
        return OUTPUTS[len(self.taps)]

    @property
    def tiles(self):
        return -(-self.count // self.outputs)


def cut(taps, step, start, place, count) -> list:
    """Parts of two or three taps each, or of one where there is only one."""
    pieces, parts, at = -(-len(taps) // 3), [], 0
    for i in range(pieces):
        size = len(taps) * (i + 1) // pieces - len(taps) * i // pieces
        parts.append(Axis(tuple(taps[at : at + size]), step, start + step * at, place, count))
        at += size
    return parts


def worthwhile(rows, cols, channels) -> bool:
    """Whether parts along both axes save enough multiplications, in enough channels, to pay for their transforms."""
    parts = [*rows, *cols]
    if any(not 32 <= c <= WIDE or c % LANES for c in channels):
        return False
    if any(len(a.taps) not in OUTPUTS or not a.count for a in parts):
        return False
    direct, ours = (sum(f(a) for a in rows) * sum(f(a) for a in cols) for f in (_direct, _products))
    return direct > 1.8 * ours


def _direct(axis):
    return axis.count * len(axis.taps)


def _products(axis):
    return axis.tiles * 4


# --- transforms: a tile's numbers lie in 16 rows of a buffer, WIDE apart, which leaves room for vector instructions ---


@kernel(const(4), out(3), out(1), const(1), *(INDEX,) * 8, *PIECE)
def _transform(x, v, t, nothing, step_h, step_w, top, left, mh, mw, th, tw, start, stop):
    """v[:, i] = B^T d B of every tile i of images start to stop; d is its 4 x 4 inputs, zero outside the image."""
    _, height, width, channels = x.shape
    for n in range(start, stop):
        for i in range(th * tw):
            row, column = i // tw * mh, i % tw * mw
            out = (n - start) * th * tw + i
            for b in range(4):
                w = (column + b) * step_w + left
                h = row * step_h + top
                inside = w >= 0 and w < width
                d0 = x[n, h, w] if inside and h >= 0 and h < height else nothing
                h += step_h
                d1 = x[n, h, w] if inside and h >= 0 and h < height else nothing
                h += step_h
                d2 = x[n, h, w] if inside and h >= 0 and h < height else nothing
                h += step_h
                d3 = x[n, h, w] if inside and h >= 0 and h < height else nothing
                o = b * WIDE
                for k in range(channels):
                    t[o + k] = d0[k] - d2[k]
                    t[o + 4 * WIDE + k] = d1[k] + d2[k]
                    t[o + 8 * WIDE + k] = d2[k] - d1[k]
                    t[o + 12 * WIDE + k] = d3[k] - d1[k]
            for a in range(4):
                o = 4 * a * WIDE
                v0, v1, v2, v3 = v[4 * a, out], v[4 * a + 1, out], v[4 * a + 2, out], v[4 * a + 3, out]
                for k in range(channels):
                    v0[k] = t[o + k] - t[o + 2 * WIDE + k]
                    v1[k] = t[o + WIDE + k] + t[o + 2 * WIDE + k]
                for k in range(channels):
                    v2[k] = t[o + 2 * WIDE + k] - t[o + WIDE + k]
                    v3[k] = t[o + 3 * WIDE + k] - t[o + WIDE + k]


@kernel(const(3), out(4), out(1), const(1), REAL, *(INDEX,) * 2, *(const(2),) * 2, *(INDEX,) * 10, *PIECE)
def _inverse(m, y, t, bias, slope, first, last, ah, aw, mh, mw, th, tw, r, rows, c, columns, oh, ow, start, stop):
    """Pixels of y = A^T m A for every tile; the first part adds the bias, others add to y, the last one activates."""
    channels = y.shape[3]
    for n in range(start, stop):
        for i in range(th * tw):
            tile, p0, q0 = (n - start) * th * tw + i, i // tw * mh, i % tw * mw
            for b in range(4):
                m0, m1, m2, m3 = m[b, tile], m[4 + b, tile], m[8 + b, tile], m[12 + b, tile]
                for p in range(mh):
                    o, a0, a1, a2, a3 = (4 * p + b) * WIDE, ah[p, 0], ah[p, 1], ah[p, 2], ah[p, 3]
                    for k in range(channels):
                        t[o + k] = a0 * m0[k] + a1 * m1[k] + a2 * m2[k] + a3 * m3[k]
            for p in range(min(mh, oh - p0)):
                for q in range(min(mw, ow - q0)):
                    target, o = y[n, r + rows * (p0 + p), c + columns * (q0 + q)], 4 * p * WIDE
                    a0, a1, a2, a3 = aw[q, 0], aw[q, 1], aw[q, 2], aw[q, 3]
                    for k in range(channels):
                        v = a0 * t[o + k] + a1 * t[o + WIDE + k] + a2 * t[o + 2 * WIDE + k] + a3 * t[o + 3 * WIDE + k]
                        v += bias[k] if first else target[k]
                        low = v * slope if slope != f32(0) else f32(0)
                        target[k] = low if last and v < f32(0) else v


@kernel(const(4), out(3), out(1), const(1), *(const(2),) * 2, *(INDEX,) * 8, *PIECE)
def _adjoint(dy, d, t, nothing, ah, aw, mh, mw, th, tw, r, rows, c, columns, start, stop):
    """d[:, i] = A dy A^T of every tile i of images start to stop: what `_inverse` makes of pixels, turned around."""
    _, height, width, channels = dy.shape
    for n in range(start, stop):
        for i in range(th * tw):
            tile, p0, q0 = (n - start) * th * tw + i, i // tw * mh, i % tw * mw
            for q in range(3):
                w = c + columns * (q0 + q)
                inside, h = q < mw and w < width, r + rows * p0
                d0 = dy[n, h, w] if inside and h < height else nothing
                d1 = dy[n, h + rows, w] if inside and h + rows < height else nothing
                d2 = dy[n, h + 2 * rows, w] if inside and mh == 3 and h + 2 * rows < height else nothing
                for a in range(4):
                    o, a0, a1, a2 = (4 * a + q) * WIDE, ah[0, a], ah[1, a], ah[2, a]
                    for k in range(channels):
                        t[o + k] = a0 * d0[k] + a1 * d1[k] + a2 * d2[k]
            for a in range(4):
                for b in range(4):
                    target, o, a0, a1, a2 = d[4 * a + b, tile], 4 * a * WIDE, aw[0, b], aw[1, b], aw[2, b]
                    for k in range(channels):
                        target[k] = a0 * t[o + k] + a1 * t[o + WIDE + k] + a2 * t[o + 2 * WIDE + k]


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
    tiles = max(row.tiles * column.tiles for row, column, *_ in parts)
    step = max(1, BLOCK // (16 * tiles * channels))
    return [(a, min(a + step, stop)) for a in range(start, stop, step)]


def _weights(w, row, column):
    """U = G w G^T of a part's taps, flat: 16 times (A, B), each in blocks of LANES columns."""
    taps, (a, b) = w[list(row.taps)][:, list(column.taps)], w.shape[2:]
    u = np.tensordot(G[len(column.taps)], taps, (1, 1))  # (4, taps, A, B)
    u = np.tensordot(G[len(row.taps)], u, (1, 1)).reshape(16, a, b // LANES, LANES)
    return np.ascontiguousarray(u.transpose(0, 2, 1, 3)).reshape(-1)


def _geometry(row, column):
    return row.outputs, column.outputs, row.tiles, column.tiles


def _rooms(pieces, parts, *channels):
    """Flat buffers for 16 times (tiles, C) of a block's largest part, for every C, and for `t` of the transforms."""
    images, tiles = max(q - p for p, q in pieces), max(row.tiles * column.tiles for row, column, *_ in parts)
    return buffers(*(16 * up(images * tiles, ROWS) * c for c in channels), 16 * WIDE)


def correlate(x, w, y, rows, cols, bias, slope):
    """Fill the pixels of y that the parts `rows` x `cols` make together, bias and activation included."""
    a, b = w.shape[2:]
    parts = [(row, column, _weights(w, row, column)) for row in rows for column in cols]
    nothing = np.zeros(a, f32)

    def piece(start, stop):
        pieces = _blocks(start, stop, parts, max(a, b))
        v_room, m_room, t = _rooms(pieces, parts, a, b)
        for p, q in pieces:
            for i, (row, column, u) in enumerate(parts):
                sizes, tiles = _geometry(row, column), up((q - p) * row.tiles * column.tiles, ROWS)
                v, m = v_room[: 16 * tiles * a].reshape(16, tiles, a), m_room[: 16 * tiles * b].reshape(16, tiles, b)
                _transform(x, v, t, nothing, row.step, column.step, row.start, column.start, *sizes, p, q)
                _multiply(v_room, u, m_room, tiles, a, b)
                ends, matrices = (i == 0, i == len(parts) - 1), (AT[row.outputs], AT[column.outputs])
                places = (*row.place, *column.place, row.count, column.count)
                _inverse(m, y, t, bias, slope, *ends, *matrices, *sizes, *places, p, q)

    if len(x):
        share(piece, len(x))


def weight_gradient(x, y, taps, rows, cols):
    """(KH, KW, A, B), by the parts of the correlation that makes y from x: dw = G^T [(A y A^T) * (B^T x B)] G."""
    a, b = x.shape[3], y.shape[3]
    parts = [(row, column) for row in rows for column in cols]
    nothing = np.zeros(max(a, b), f32)

    def piece(start, stop):
        totals = np.zeros((len(parts), 16 * a * b), f32)
        pieces = _blocks(start, stop, parts, max(a, b))
        v_room, d_room, t = _rooms(pieces, parts, a, b)
        for p, q in pieces:
            for (row, column), total in zip(parts, totals):
                sizes, tiles = _geometry(row, column), (q - p) * row.tiles * column.tiles
                v, d = v_room[: 16 * tiles * a].reshape(16, tiles, a), d_room[: 16 * tiles * b].reshape(16, tiles, b)
                _transform(x, v, t, nothing, row.step, column.step, row.start, column.start, *sizes, p, q)
                matrices, places = (AT[row.outputs], AT[column.outputs]), (*row.place, *column.place)
                _adjoint(y, d, t, nothing, *matrices, *sizes, *places, p, q)
                _multiply_backward(v_room, d_room, total, tiles, a, b)
        return totals

    sums = share(piece, len(x))
    dw = np.empty((*taps, a, b), f32)
    for (row, column), total in zip(parts, sum(sums[1:], sums[0])):
        g = np.tensordot(G[len(row.taps)].T, total.reshape(4, 4, a, b), (1, 0))  # (taps, 4, A, B)
        dw[np.ix_(row.taps, column.taps)] = np.tensordot(G[len(column.taps)].T, g, (1, 1)).swapaxes(0, 1)
    return dw
