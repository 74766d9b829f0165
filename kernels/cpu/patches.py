"""What both convolutions are made of on a CPU: packing patches, multiplying them, and finishing the pixels.

    correlate         y[n, r + R p] = act(b + sum over taps i of x[n, s p + d i - before] @ w[i])     (rows and columns)
    weight_gradient   dw[i] = sum over n, p of x[n, s p + d i - before]^T y[n, p]

Shapes      x (N, H, W, A), w (KH, KW, A, B), y (N, OH, OW, B); (r, R) says where the pixels go: a phase of a
            transposed convolution fills every R-th
Plan        images are shared out over threads; each packs a block of them into (pixels, KH KW A), which BLAS multiplies
            by (KH KW A, B) while it is in cache; one loop adds the bias, activates and puts the pixels in place. Few
            output channels (128 -> 1): multiply first, (pixels, A) @ (A, KH KW B), then gather and add
Cost        2 pixels KH KW A B flops; a packed number is written and read once
Precision   float32. A weight gradient adds blocks of ROWS pixels one after the other, then the threads' sums in order

# next: kernels/cpu/conv.py, the two operations
"""

import numpy as np

from core.reference.conv import span
from core.threads import share
from kernels.cpu.common import INDEX, PIECE, REAL, const, f32, kernel, out

BLOCK = 1 << 19  # packed numbers at once (2 MB)
ROWS = 256  # pixels whose products one block of a weight gradient adds up, if it has several images


@kernel(const(3), out(6), *(INDEX,) * 6, *PIECE)
def _pack(x, patches, sh, sw, dh, dw, top, left, start, stop):
    """patches[n - start, p, q, i, j, a] = x[n, p sh + i dh - top, (q sw + j dw - left, a)], zero outside the image.

    x is (N, H, W A): the KW A numbers of a patch's row lie side by side in it, unless the kernel is dilated."""
    _, height, width = x.shape
    _, oh, ow, kh, kw, a = patches.shape
    rows = patches.reshape(-1, kw * a)
    step, run = (max(kw, 1), kw * a) if dw == 1 else (1, a)  # taps and numbers that are copied at once
    for n in range(start, stop):
        for p in range(oh):
            for q in range(ow):
                for i in range(kh):
                    target = rows[(((n - start) * oh + p) * ow + q) * kh + i]
                    h = p * sh + i * dh - top
                    for j in range(0, kw, step):
                        first = (q * sw + j * dw - left) * a
                        low, high = max(-first, 0), min(width - first, run)
                        if h < 0 or h >= height or low >= high:
                            target[j * a : j * a + run] = f32(0)
                            continue
                        target[j * a : j * a + low] = f32(0)
                        target[j * a + low : j * a + high] = x[n, h, first + low : first + high]
                        target[j * a + high : j * a + run] = f32(0)


@kernel(const(4), const(1), REAL, out(4), *(INDEX,) * 4, *PIECE)
def _finish(pixels, bias, slope, y, r, rows, c, columns, start, stop):
    """y[n, r + rows p, c + columns q] = pixels[n - start, p, q] + bias, times `slope` where that is negative."""
    _, oh, ow, channels = pixels.shape
    for n in range(start, stop):
        for p in range(oh):
            for q in range(ow):
                source, target = pixels[n - start, p, q], y[n, r + rows * p, c + columns * q]
                for k in range(channels):
                    v = source[k] + bias[k]
                    low = v * slope if slope != f32(0) else f32(0)
                    target[k] = low if v < f32(0) else v


@kernel(const(6), const(1), REAL, out(4), *(INDEX,) * 6, *PIECE)
def _gather(products, bias, slope, y, sh, sw, dh, dw, top, left, start, stop):
    """y[n, p, q] = bias + the sum over taps of products[n - start, p sh + i dh - top, q sw + j dw - left, i, j]."""
    _, height, width, kh, kw, channels = products.shape
    _, oh, ow, _ = y.shape
    for n in range(start, stop):
        for p in range(oh):
            for q in range(ow):
                for k in range(channels):
                    v = bias[k]
                    for i in range(kh):
                        h = p * sh + i * dh - top
                        if h < 0 or h >= height:
                            continue
                        for j in range(kw):
                            w = q * sw + j * dw - left
                            if w >= 0 and w < width:
                                v += products[n - start, h, w, i, j, k]
                    low = v * slope if slope != f32(0) else f32(0)
                    y[n, p, q, k] = low if v < f32(0) else v


def blocks(start, stop, elements, rows=0, most=0):
    """Pieces (a, b) of range(start, stop) whose packed patches, `elements` an image, stay within BLOCK."""
    step = max(1, BLOCK // max(elements, 1))
    if most:
        step = max(1, min(step, most // max(rows, 1)))
    return [(a, min(a + step, stop)) for a in range(start, stop, step)]


def correlate(x, w, y, place, stride, dilation, before, bias, slope):
    """The correlation above into y; place is ((r, R), (c, C)), and slope is the activation's below zero."""
    (kh, kw, a, b), (n, h, width, _) = w.shape, x.shape
    (r, rows), (c, columns) = place
    oh, ow = len(range(r, y.shape[1], rows)), len(range(c, y.shape[2], columns))
    geometry = (*stride, *dilation, *before)
    flat, matrix = (
        x.reshape(n, h, width * a),
        np.ascontiguousarray(w).reshape(kh * kw * a, b),
    )  # (N, H, W A), (KH KW A, B)

    def piece(start, stop):
        pieces = blocks(start, stop, oh * ow * kh * kw * a)
        most = max(q - p for p, q in pieces)
        patches, pixels = np.empty((most, oh, ow, kh, kw, a), f32), np.empty((most, oh, ow, b), f32)
        for p, q in pieces:
            _pack(flat, patches, *geometry, p, q)
            matrix_of = patches[: q - p].reshape((q - p) * oh * ow, kh * kw * a)
            np.matmul(matrix_of, matrix, out=pixels[: q - p].reshape(-1, b))
            _finish(pixels, bias, slope, y, r, rows, c, columns, p, q)

    if n and y.size:
        share(piece, n)


def correlate_narrow(x, w, y, stride, dilation, before, bias, slope):
    """The same for few output channels: packing would move KH KW A numbers a pixel for little arithmetic."""
    (kh, kw, a, b), (_, h, width, _) = w.shape, x.shape
    matrix = np.ascontiguousarray(w.transpose(2, 0, 1, 3)).reshape(a, -1)  # (A, KH KW B)

    def piece(start, stop):
        for p, q in blocks(start, stop, h * width * kh * kw * b):
            products = (x[p:q].reshape(-1, a) @ matrix).reshape(q - p, h, width, kh, kw, b)
            _gather(products, bias, slope, y, *stride, *dilation, *before, p, q)

    if y.size:
        share(piece, len(x))


def weight_gradient(x, y, taps, stride, dilation, before):
    """(KH, KW, A, B): for every tap, the sum over pixels of x's value times y's."""
    (n, oh, ow, b), a = y.shape, x.shape[3]
    row = taps[0] * taps[1] * a
    flat = x.reshape(n, x.shape[1], x.shape[2] * a)

    def piece(start, stop):
        total, product = np.zeros((row, b), f32), np.empty((row, b), f32)
        pieces = blocks(start, stop, oh * ow * row, oh * ow, ROWS)
        patches = np.empty((max((q - p for p, q in pieces), default=0), oh, ow, *taps, a), f32)
        for p, q in pieces:
            _pack(flat, patches, *stride, *dilation, *before, p, q)
            np.matmul(patches[: q - p].reshape((q - p) * oh * ow, row).T, y[p:q].reshape(-1, b), out=product)
            total += product
        return total

    parts = share(piece, n)
    return sum(parts[1:], parts[0]).reshape(*taps, a, b)


def weight_gradient_narrow(x, y, taps, dilation, padding):
    """Few output channels at stride 1: the same sum with the roles exchanged, so that the narrow array is packed.

    x[h + D i - P] y[h] = x[h'] y[h' - D i + P]: a correlation of y around each pixel of x, taps in reverse."""
    before = tuple(r - 1 - p for r, p in zip(span(taps, dilation), padding))
    dw = weight_gradient(y, x, taps, (1, 1), dilation, before)  # (KH, KW, B, A), reversed
    return np.ascontiguousarray(dw[::-1, ::-1].transpose(0, 1, 3, 2))
