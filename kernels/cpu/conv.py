"""conv2d and conv_transpose2d on a CPU: a triangle of correlate, spread and weight gradient, as in the reference.

    conv2d             y = correlate(x, w)    dx = spread(dy, w)       dw = weight_gradient(x, dy)
    conv_transpose2d   y = spread(x, w)       dx = correlate(dy, w)    dw = weight_gradient(dy, x)

Shapes      conv2d x (N, H, W, Cin), w (KH, KW, Cin, Cout); conv_transpose2d w (KH, KW, Cout, Cin)
Plan        `spread` is the phase decomposition: output pixels with equal residues mod S see the same taps, so that each
            of the S S residues is a correlation of stride 1 with some of the taps (kernels/cpu/patches.py)
Precision   float32; the bias gradient adds in float64
Limits      activations that their result tells apart: none, relu, tanh, leaky_relu with a slope that is not negative.
            The result is all that the backward pass needs of them, and it is kept anyway

# next: kernels/cpu/patches.py
"""

import numpy as np

from core.op import Op
from core.reference.conv import phase, span, transposed_size
from kernels.cpu import narrow, patches, winograd
from kernels.cpu.activations import activation_backward, slope_of, tanh_loop
from kernels.cpu.common import f32, floats
from kernels.cpu.pointwise import elementwise

LINEAR = f32(1)  # the slope of no activation


def correlation_parts(k, stride, before, count):
    """The taps of a correlation along one axis, cut up for winograd.py: by residues mod stride, and then if long."""
    residues = range(min(stride, k))
    return [a for i in residues for a in winograd.cut(range(i, k, stride), stride, i - before, (0, 1), count)]


def correlate(x, w, y, stride, dilation, before, bias=None, slope=LINEAR):
    """Fill y (N, OH, OW, B) from x (N, H, W, A) and w (KH, KW, A, B)."""
    bias = np.zeros(w.shape[3], f32) if bias is None else bias
    rows, cols = map(correlation_parts, w.shape[:2], stride, before, y.shape[1:3])
    if 4 * w.shape[3] <= w.shape[2]:
        narrow.correlate(x, w, y, stride, dilation, before, bias, slope)
    elif dilation == (1, 1) and winograd.worthwhile(rows, cols, w.shape[2:]):
        winograd.correlate(x, w, y, rows, cols, bias, slope)
    else:
        patches.correlate(x, w, y, ((0, 1), (0, 1)), stride, dilation, before, bias, slope)
    return y


def spread(y, w, x, stride, dilation, padding, bias=None, slope=LINEAR):
    """Fill x (N, H, W, A) with the adjoint of `correlate`: y (N, OH, OW, B), w (KH, KW, A, B)."""
    bias, turned = np.zeros(w.shape[2], f32) if bias is None else bias, w.transpose(0, 1, 3, 2)  # (KH, KW, B, A)
    if 4 * w.shape[2] <= w.shape[3]:
        narrow.spread(y, w, x, stride, dilation, padding, bias, slope)
        return x
    phases = [[_phase(y, w, x, axis, r, stride, dilation, padding) for r in range(stride[axis])] for axis in (0, 1)]
    for (rows, dh, top), place_h in phases[0]:
        for (cols, dw, left), place_w in phases[1]:
            count = [len(range(r, size, s)) for (r, s), size in zip((place_h, place_w), x.shape[1:3])]
            parts = [
                winograd.cut(taps, 1, -before, place, n)
                for taps, before, place, n in zip((rows, cols), (top, left), (place_h, place_w), count)
            ]
            if (dh, dw) == (1, 1) and winograd.worthwhile(*parts, w.shape[2:]):
                winograd.correlate(y, turned, x, *parts, bias, slope)
            else:
                part = turned[rows][:, cols]  # no taps where stride > kernel
                patches.correlate(y, part, x, (place_h, place_w), (1, 1), (dh, dw), (top, left), bias, slope)
    return x


def _phase(y, w, x, axis, r, stride, dilation, padding):
    """((taps, their spacing, zeros before the first pixel), (r, stride)) of the output pixels r, r + stride, ..."""
    sizes = y.shape[1 + axis], x.shape[1 + axis]
    taps, spacing, (before, _) = phase(r, w.shape[axis], stride[axis], dilation[axis], padding[axis], *sizes)
    return (taps, spacing, before), (r, stride[axis])


def weight_gradient(x, y, taps, stride, dilation, padding):
    """(KH, KW, A, B) of the correlation that makes y (N, OH, OW, B) from x (N, H, W, A)."""
    if 4 * y.shape[3] <= x.shape[3] and stride == (1, 1):
        return narrow.weight_gradient(x, y, taps, dilation, padding)
    rows, cols = map(correlation_parts, taps, stride, padding, y.shape[1:3])
    if dilation == (1, 1) and winograd.worthwhile(rows, cols, (x.shape[3], y.shape[3])):
        return winograd.weight_gradient(x, y, taps, rows, cols)
    return patches.weight_gradient(x, y, taps, stride, dilation, padding)


# --- the two operations ----------------------------------------


def _activated(y, act):
    """tanh, if that is the activation; the others were done with the bias."""
    return elementwise(tanh_loop, y) if act == "tanh" else y


def _conv2d(x, w, b, *, stride, padding, dilation, act, negative_slope):
    x, w, b = floats(x), floats(w), floats(b)
    size = tuple(
        (n + 2 * p - r) // s + 1 for n, p, r, s in zip(x.shape[1:3], padding, span(w.shape[:2], dilation), stride)
    )
    y = np.empty((len(x), *size, w.shape[3]), f32)
    correlate(x, w, y, stride, dilation, padding, b, slope_of(act, negative_slope))
    y = _activated(y, act)
    return y, (x, w, y if act else None)


def _conv2d_backward(saved, dy, needs, *, stride, padding, dilation, act, negative_slope):
    x, w, y = saved
    dz, db = activation_backward(act, y, dy, negative_slope, needs[2])
    dx = spread(dz, w, np.empty_like(x), stride, dilation, padding) if needs[0] else None
    return dx, weight_gradient(x, dz, w.shape[:2], stride, dilation, padding) if needs[1] else None, db


def _conv_transpose2d(x, w, b, *, stride, padding, output_padding, dilation, act, negative_slope):
    x, w, b = floats(x), floats(w), floats(b)
    size = transposed_size(x.shape[1:3], w.shape[:2], stride, padding, output_padding, dilation)
    y = np.empty((len(x), *size, w.shape[2]), f32)
    y = _activated(spread(x, w, y, stride, dilation, padding, b, slope_of(act, negative_slope)), act)
    return y, (x, w, y if act else None)


def _conv_transpose2d_backward(saved, dy, needs, *, stride, padding, output_padding, dilation, act, negative_slope):
    x, w, y = saved
    dz, db = activation_backward(act, y, dy, negative_slope, needs[2])
    dx = correlate(dz, w, np.empty_like(x), stride, dilation, padding) if needs[0] else None
    return dx, weight_gradient(dz, x, w.shape[:2], stride, dilation, padding) if needs[1] else None, db


conv2d = Op("conv2d", _conv2d, _conv2d_backward, backend="numba")
conv_transpose2d = Op("conv_transpose2d", _conv_transpose2d, _conv_transpose2d_backward, backend="numba")
