"""Matrix products with their sums in registers, for sizes at which BLAS has not yet got going.

    y[i, j] (+)= sum_c a[i, c] b[c, j]            a, b, y in flat arrays, at any offset and stride

Shapes      a (M, K) at steps `a_row`, `a_column`, so that it may be read transposed; b (K, N) in blocks of LANES
            columns, whose rows are `b_row` and which are `b_block` apart; y (M, N), rows `y_row` apart. M is padded to
            a multiple of ROWS and N of LANES: what lies there is read and written
Plan        ROWS by LANES sums stay in registers while c runs: one vector of b is loaded and ROWS numbers of a, each of
            which multiplies it. 32 lanes are two AVX-512 registers (16 sums in 32 registers), 8 are one of AVX
Precision   float32, DEPTH terms after another and then these sums
Versions    one core of a Zen 5 (peak 240 GF/s), in cache, M, N, K between 32 and 256: OpenBLAS 62 to 95 GF/s. Plain
            loops, four rows by four terms unrolled, which LLVM makes vectors of: 38 to 87, since the sums go through
            memory at every fourth term. This: 205 to 227

# why: docs/kernels/cpu.md
# next: kernels/cpu/matmul.py, which is made of such products
"""

import numpy as np

from kernels.cpu.common import f32, inline
from kernels.cpu.lanes import LANES, add_product, fill, load, number, routine, store, up

ROWS = 8
DEPTH = 256  # terms of a sum that stay in registers: then b's block stays in cache, and rounding errors stay small


@routine
def product(a, a_row, a_column, b, b_row, b_block, y, y_row, M, N, K, add):
    """y = a b, or y += a b: see the file's head."""
    for k in range(0, max(K, 1), DEPTH):
        depth, more = min(DEPTH, K - k), add or k > 0
        for start in range(0, N, LANES):
            j = start // LANES * b_block + k * b_row
            for i in range(0, M, ROWS):
                _tile(
                    a, i * a_row + k * a_column, a_row, a_column, b, j, b_row, y, i * y_row + start, y_row, depth, more
                )


@inline
def _tile(a, i, a_row, a_column, b, j, b_row, y, o, y_row, K, add):
    """ROWS rows of LANES columns, from a[i], b[j] and y[o] on."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = fill(f32(0))
    for _ in range(K):
        v = load(b, j)
        s0 = add_product(s0, a[i], v)
        s1 = add_product(s1, a[i + a_row], v)
        s2 = add_product(s2, a[i + 2 * a_row], v)
        s3 = add_product(s3, a[i + 3 * a_row], v)
        s4 = add_product(s4, a[i + 4 * a_row], v)
        s5 = add_product(s5, a[i + 5 * a_row], v)
        s6 = add_product(s6, a[i + 6 * a_row], v)
        s7 = add_product(s7, a[i + 7 * a_row], v)
        i, j = i + a_column, j + b_row
    _put_all(y, o, y_row, s0, s1, s2, s3, s4, s5, s6, s7, add)


@inline
def _put_all(y, o, y_row, s0, s1, s2, s3, s4, s5, s6, s7, add):
    """ROWS sums into their rows of y."""
    _put(y, o, s0, add)
    _put(y, o + y_row, s1, add)
    _put(y, o + 2 * y_row, s2, add)
    _put(y, o + 3 * y_row, s3, add)
    _put(y, o + 4 * y_row, s4, add)
    _put(y, o + 5 * y_row, s5, add)
    _put(y, o + 6 * y_row, s6, add)
    _put(y, o + 7 * y_row, s7, add)


@inline
def run_sums(a, rows, i, step, b, j, b_row, runs, first, last):
    """ROWS by LANES sums over runs (p, q, n): of a[i + rows[r] + p + step t] b[j + q + b_row t] for t < n."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = fill(f32(0))
    i0, i1, i2, i3, i4, i5, i6, i7 = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
    for r in range(first, last):
        c, o = i + runs[r, 0], j + runs[r, 1]
        for _ in range(runs[r, 2]):
            v = load(b, o)
            s0 = add_product(s0, number(a, i0, c), v)
            s1 = add_product(s1, number(a, i1, c), v)
            s2 = add_product(s2, number(a, i2, c), v)
            s3 = add_product(s3, number(a, i3, c), v)
            s4 = add_product(s4, number(a, i4, c), v)
            s5 = add_product(s5, number(a, i5, c), v)
            s6 = add_product(s6, number(a, i6, c), v)
            s7 = add_product(s7, number(a, i7, c), v)
            c, o = c + step, o + b_row
    return s0, s1, s2, s3, s4, s5, s6, s7


@inline
def _put(y, o, s, add):
    """y = s or y += s"""
    store(y, o, add_product(load(y, o), f32(1), s) if add else s)


# --- buffers ----------------------------------------


def buffers(*sizes):
    """Flat float32 arrays of at least these sizes, each at the start of a cache line, with nothing in them yet."""
    whole = np.empty(sum(up(n, 16) for n in sizes) + 16, f32)
    start, parts = -whole.ctypes.data % 64 // 4, []
    for n in sizes:
        parts.append(whole[start : start + n])
        start += up(n, 16)
    return parts


# --- rows into tiles, and back ----------------------------------------


@routine
def pack(x, step, rows, columns, y, width):
    """The rows of x, `step` apart, into y, `width` apart: zeros up to there and in rows up to a multiple of ROWS."""
    for r in range(rows):
        from_, to = x[r * step : r * step + columns], y[r * width : (r + 1) * width]
        for c in range(columns):
            to[c] = from_[c]
        to[columns:] = 0
    y[rows * width : up(rows, ROWS) * width] = 0


@routine
def turn(x, step, rows, columns, scale, y):
    """x^T scale, x's rows `step` apart, in blocks of LANES of them, a column after the other: what `product` takes."""
    for first in range(0, rows, LANES):
        for r in range(first, first + LANES):
            block = y[first * columns + r - first : (first + LANES) * columns]
            if r < rows:
                row = x[r * step : r * step + columns]
                for c in range(columns):
                    block[c * LANES] = row[c] * scale
            else:
                for c in range(columns):
                    block[c * LANES] = 0


@routine
def unpack(x, width, rows, columns, scale, y, step):
    """y's rows, `step` apart, from those of x times scale."""
    for r in range(rows):
        row, to = x[r * width : r * width + columns], y[r * step : r * step + columns]
        for c in range(columns):
            to[c] = row[c] * scale
