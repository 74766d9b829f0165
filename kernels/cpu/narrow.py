"""Convolutions to few channels (128 -> 1): multiply first, then gather what belongs to each pixel and add it up.

    correlate              y[n, p] = sum over taps i of z[n, s p + d i - before, i]        z[n, h, i] = x[n, h] @ w[i]
    correlate_transpose    x[n, h] = sum over taps i of z[n, (h + before - d i) / s, i]    z[n, p, i] = y[n, p] @ w[i]^T

where the second sum takes the taps for which the division leaves no remainder: the adjoint of the first.

Shapes      x (N, H, W, A), w (KH, KW, A, B), y (N, U, V, B); B, or A in the transpose, is small
Plan        images are shared out over threads; of a block of them BLAS makes z, one loop reads it
Cost        2 pixels KH KW A B flops, and KH KW B numbers a pixel written and read: a matrix of patches has KH KW A

# why: docs/kernels/convolution.md; docs/kernels/cpu.md
# next: kernels/cpu/winograd.py, for many
"""

import numpy as np

from core.reference.conv import span
from core.runtime.threads import share
from kernels.cpu import direct_backward
from kernels.cpu.common import INDEX, PIECE, REAL, const, f32, kernel, out
from kernels.cpu.direct import Axis

BLOCK = 1 << 17  # numbers of z at once (512 KB)


@kernel(const(6), const(1), REAL, out(4), *(INDEX,) * 6, *PIECE)
def _gather(z, bias, negative_slope, y, sh, sw, dh, dw, top, left, start, stop):
    """y[n, p, q] = act(bias + the sum over taps of z[n - start, p sh + i dh - top, q sw + j dw - left, i, j])."""
    _, height, width, kh, kw, channels = z.shape
    for n in range(start, stop):
        for p in range(y.shape[1]):
            for q in range(y.shape[2]):
                for k in range(channels):
                    v = bias[k]
                    for i in range(kh):
                        h = p * sh + i * dh - top
                        if h < 0 or h >= height:
                            continue
                        for j in range(kw):
                            w = q * sw + j * dw - left
                            if w >= 0 and w < width:
                                v += z[n - start, h, w, i, j, k]
                    low = v * negative_slope if negative_slope != f32(0) else f32(0)
                    y[n, p, q, k] = low if v < f32(0) else v


@kernel(const(6), const(1), REAL, out(4), *(INDEX,) * 6, *PIECE)
def _gather_back(z, bias, negative_slope, x, sh, sw, dh, dw, top, left, start, stop):
    """x[n, h, w] = act(bias + the sum over taps of z[n - start, (h + top - i dh) / sh, (w + ...) / sw, i, j])."""
    _, height, width, kh, kw, channels = z.shape
    for n in range(start, stop):
        for h in range(x.shape[1]):
            for w in range(x.shape[2]):
                for k in range(channels):
                    v = bias[k]
                    for i in range(kh):
                        p = h + top - i * dh
                        if p < 0 or p % sh or p >= height * sh:
                            continue
                        for j in range(kw):
                            q = w + left - j * dw
                            if q >= 0 and q % sw == 0 and q < width * sw:
                                v += z[n - start, p // sh, q // sw, i, j, k]
                    low = v * negative_slope if negative_slope != f32(0) else f32(0)
                    x[n, h, w, k] = low if v < f32(0) else v


def _multiply_and_gather(gather, x, matrix, taps, y, geometry, bias, negative_slope):
    """`gather` of the products of x's pixels (N H W, A) with a matrix (A, KH KW B), a block of images at a time."""
    (n, h, w, a), channels = x.shape, y.shape[3]
    step = max(1, BLOCK // max(h * w * matrix.shape[1], 1))

    def piece(start, stop):
        for p in range(start, stop, step):
            q = min(p + step, stop)
            z = (x[p:q].reshape((q - p) * h * w, a) @ matrix).reshape(q - p, h, w, *taps, channels)
            gather(z, bias, negative_slope, y, *geometry, p, q)

    if n and y.size:
        share(piece, n)


def correlate(x, w, y, stride, dilation, before, bias, negative_slope):
    matrix = np.ascontiguousarray(w.transpose(2, 0, 1, 3)).reshape(w.shape[2], -1)  # (A, KH KW B)
    _multiply_and_gather(_gather, x, matrix, w.shape[:2], y, (*stride, *dilation, *before), bias, negative_slope)


def correlate_transpose(y, w, x, stride, dilation, before, bias, negative_slope):
    matrix = np.ascontiguousarray(w.transpose(3, 0, 1, 2)).reshape(w.shape[3], -1)  # (B, KH KW A)
    _multiply_and_gather(_gather_back, y, matrix, w.shape[:2], x, (*stride, *dilation, *before), bias, negative_slope)


def weight_gradient(x, y, taps, dilation, padding):
    """(KH, KW, A, B) at stride 1: the same sum with the roles exchanged, so that y is what the taps move over.

    x[h + D i - P] y[h] = x[h'] y[h' - D i + P]: a correlation of y around each pixel of x, taps in reverse."""
    row, col = (
        Axis(tuple(range(k)), 1, d, p + 1 - r, (0, 1), size)
        for k, d, p, r, size in zip(taps, dilation, padding, span(taps, dilation), x.shape[1:3])
    )
    dw = direct_backward.weight_gradient(y, x, row, col)  # (KH, KW, B, A), reversed
    return np.ascontiguousarray(dw[::-1, ::-1].transpose(0, 1, 3, 2))
