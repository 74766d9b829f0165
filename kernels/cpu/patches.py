"""Convolution as a matrix product whose left matrix is never made: its elements are found through two tables.

    correlate         y[n, r + R p] = act(b + sum over taps i of x[n, s p + d i - before] @ w[i])     (rows and columns)
    weight_gradient   dw[i] = sum over n, p of x[n, s p + d i - before]^T y[n, p]

The matrix of patches has a row for each pixel and a column for each tap and channel. In an image with its border of
zeros the place of an element is a sum, pixels[row] + taps[column], so that a product needs only the two tables of
offsets. The weight gradient multiplies by the same matrix transposed: the tables change places.

Shapes      x (N, H, W, A), w (KH, KW, A, B), y (N, OH, OW, B); (r, R) says where the pixels go: a phase of a
            transposed convolution fills every R-th
Plan        images are shared out over threads, a block of them is copied into its border of zeros and multiplied, and a
            loop adds the bias, activates and puts the pixels in place, all in cache. Few output channels (128 -> 1):
            multiply first, (pixels, A) @ (A, KH KW B), then gather and add
Cost        2 pixels KH KW A B flops, those in the border included
Precision   float32, DEPTH terms after another, then these sums; a weight gradient adds the threads' sums in order
Versions    patches packed side by side and BLAS: 110 to 180 GF/s of 240, and the packing on top

# next: kernels/cpu/lanes.py, the product; kernels/cpu/conv.py, the two operations
"""

import numpy as np
from numba import types

from core.reference.conv import span
from core.threads import share
from kernels.cpu.common import INDEX, PIECE, REAL, const, f32, kernel, out
from kernels.cpu.lanes import LANES, up
from kernels.cpu.tiles import ROWS, buffers, found_tile

DEPTH = 256  # terms of a pixel's sum that stay in registers: then their columns stay in cache
PIXELS = 48  # terms of a weight gradient's sum that do: more round worse than PyTorch's
BLOCK = 1 << 17  # numbers of the images that are worked on at once, borders included (512 KB)
TABLE = const(1, types.int64)


@kernel(const(3), out(3), INDEX, INDEX, *PIECE)
def _border(x, padded, top, left, start, stop):
    """padded[n - start, h] = x[n, h - top] moved by `left`, zero outside the image: rows of W C numbers."""
    _, height, width = x.shape
    size = padded.shape[2]
    low, high = min(max(left, 0), size), min(max(left + width, 0), size)  # what x fills of a row
    for n in range(stop - start):
        for h in range(padded.shape[1]):
            target, inside = padded[n, h], 0 <= h - top < height and low < high
            target[: low if inside else size] = f32(0)
            if inside:
                source, middle = x[start + n, h - top, low - left : high - left], target[low:high]
                for k in range(middle.size):
                    middle[k] = source[k]
                target[high:] = f32(0)


@kernel(const(1), TABLE, TABLE, const(1), INDEX, INDEX, out(1), INDEX, INDEX, INDEX, types.boolean)
def _found_product(a, rows, columns, b, b_row, b_block, y, y_row, n, most, add):
    """y[r, :n] (+)= the sum over c of a[rows[r] + columns[c]] b[c, :n]; rows are a multiple of ROWS, n one of LANES."""
    for k in range(0, columns.size, most):
        depth = min(most, columns.size - k)
        for start in range(0, n, LANES):
            j = start // LANES * b_block + k * b_row
            for i in range(0, rows.size, ROWS):
                found_tile(a, rows[i:], columns[k : k + depth], b, j, b_row, y, i * y_row + start, y_row, add or k > 0)


@kernel(const(4), const(1), REAL, out(4), *(INDEX,) * 4, *PIECE)
def _finish(pixels, bias, slope, y, r, rows, c, columns, start, stop):
    """y[n, r + rows p, c + columns q] = pixels[n - start, p, q] + bias, times `slope` where that is negative."""
    _, oh, ow, _ = pixels.shape
    for n in range(start, stop):
        for p in range(oh):
            for q in range(ow):
                source, target = pixels[n - start, p, q], y[n, r + rows * p, c + columns * q]
                for k in range(target.size):
                    v = source[k] + bias[k]
                    low = v * slope if slope != f32(0) else f32(0)
                    target[k] = low if v < f32(0) else v


def blocks(start, stop, numbers):
    """Pieces (a, b) of range(start, stop) of about BLOCK numbers, `numbers` an image."""
    step = max(1, BLOCK // max(numbers, 1))
    return [(a, min(a + step, stop)) for a in range(start, stop, step)]


def in_columns(b):
    """(K, N) in blocks of LANES columns, the last one filled up with zeros: (N / LANES, K, LANES), flat."""
    k, n = b.shape
    padded = np.zeros((k, up(n, LANES)), f32)
    padded[:, :n] = b
    return np.ascontiguousarray(padded.reshape(k, up(n, LANES) // LANES, LANES).transpose(1, 0, 2)).reshape(-1)


class Patches:
    """The matrix of patches of a block of at most `images` images: where its elements lie."""

    def __init__(self, images, channels, taps, out_size, stride, dilation):
        self.out_size = out_size
        self.size = tuple(s * (n - 1) + r for s, n, r in zip(stride, out_size, span(taps, dilation)))  # with borders
        steps = self.size[0] * self.size[1] * channels, self.size[1] * channels, channels
        along = lambda n, step: np.arange(n, dtype=np.int64) * step
        pixel = along(out_size[0], steps[1] * stride[0])[:, None] + along(out_size[1], steps[2] * stride[1])
        self.pixels = (along(images, steps[0])[:, None] + pixel.reshape(-1)).reshape(-1)  # (images OH OW,)
        tap = along(taps[0], steps[1] * dilation[0])[:, None] + along(taps[1], steps[2] * dilation[1])
        self.taps = (tap.reshape(-1, 1) + along(channels, 1)).reshape(-1)  # (KH KW A,)

    def rows(self, images):
        """The table of the pixels of the first `images`, filled up to a multiple of ROWS by the first pixel."""
        count = images * self.out_size[0] * self.out_size[1]
        return np.concatenate([self.pixels[:count], np.zeros(-count % ROWS, np.int64)])


def correlate(x, w, y, place, stride, dilation, before, bias, slope):
    """The correlation above into y; place is ((r, R), (c, C)), and slope is the activation's below zero."""
    (*taps, a, b), ((r, rows), (c, columns)) = w.shape, place
    out_size = len(range(r, y.shape[1], rows)), len(range(c, y.shape[2], columns))
    matrix, wide = in_columns(w.reshape(taps[0] * taps[1] * a, b)), up(b, LANES)
    count = out_size[0] * out_size[1]

    flat = x.reshape(*x.shape[:2], x.shape[2] * a)  # (N, H, W A)

    def piece(start, stop):
        size = (out_size[0] * stride[0] + taps[0]) * (out_size[1] * stride[1] + taps[1]) * a
        pieces = blocks(start, stop, size)
        images = max(q - p for p, q in pieces)
        patches = Patches(images, a, taps, out_size, stride, dilation)
        padded = np.empty((images, *patches.size, a), f32)
        by_rows = padded.reshape(images, patches.size[0], patches.size[1] * a)
        (pixels,) = buffers(up(images * count, ROWS) * wide)
        for p, q in pieces:
            _border(flat, by_rows, before[0], before[1] * a, p, q)
            table = patches.rows(q - p)
            right = matrix, LANES, len(patches.taps) * LANES  # (KH KW A, B), in columns
            _found_product(padded.reshape(-1), table, patches.taps, *right, pixels, wide, wide, DEPTH, False)
            found = pixels[: (q - p) * count * wide].reshape(q - p, *out_size, wide)
            _finish(found, bias, slope, y, r, rows, c, columns, p, q)

    if len(x) and count and min(taps) and a:
        share(piece, len(x))
    elif y.size:
        _finish(np.zeros((len(x), *out_size, b), f32), bias, slope, y, r, rows, c, columns, 0, len(x))


def weight_gradient(x, y, taps, stride, dilation, before):
    """(KH, KW, A, B): for every tap, the sum over pixels of x's value times y's."""
    (n, *out_size, b), a = y.shape, x.shape[3]
    row, wide, count = taps[0] * taps[1] * a, up(b, LANES), out_size[0] * out_size[1]

    flat = x.reshape(*x.shape[:2], x.shape[2] * a)  # (N, H, W A)

    def piece(start, stop):
        total = np.zeros((up(row, ROWS), wide), f32)
        size = (out_size[0] * stride[0] + taps[0]) * (out_size[1] * stride[1] + taps[1]) * a
        pieces = blocks(start, stop, size)
        images = max((q - p for p, q in pieces), default=0)
        patches = Patches(images, a, taps, out_size, stride, dilation)
        table = np.concatenate([patches.taps, np.zeros(-row % ROWS, np.int64)])
        padded = np.empty((images, *patches.size, a), f32)
        by_rows = padded.reshape(images, patches.size[0], patches.size[1] * a)
        columns = np.zeros((images * count, wide), f32)
        for p, q in pieces:
            _border(flat, by_rows, before[0], before[1] * a, p, q)
            pixels, dy = patches.pixels[: (q - p) * count], y[p:q].reshape(-1, b)
            if b != wide:
                columns[: len(dy), :b] = dy
                dy = columns
            right = dy.reshape(-1), wide, LANES  # (pixels, B)
            _found_product(padded.reshape(-1), table, pixels, *right, total.reshape(-1), wide, wide, PIXELS, True)
        return total

    parts = share(piece, n)
    return np.ascontiguousarray(sum(parts[1:], parts[0])[:row, :b]).reshape(*taps, a, b)
