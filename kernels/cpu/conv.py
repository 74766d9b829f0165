"""conv2d and conv_transpose2d on a CPU: made of the same three functions as in the reference.

    conv2d             y = correlate(x, w)              dx = correlate_transpose(dy, w)    dw = weight_gradient(x, dy)
    conv_transpose2d   y = correlate_transpose(x, w)    dx = correlate(dy, w)              dw = weight_gradient(dy, x)

Shapes      conv2d x (N, H, W, Cin), w (KH, KW, Cin, Cout); conv_transpose2d w (KH, KW, Cout, Cin)
Plan        `correlate_transpose` is the phase decomposition: output pixels with equal residues mod S see the same taps,
            so that each of the S S residues is a correlation of stride 1 with some of the taps (kernels/cpu/direct.py)
Precision   float32; the bias gradient adds in float64
Limits      activations that their result tells apart: none, relu, tanh, leaky_relu with a negative_slope >= 0.
            The result is all that the backward pass needs of them, and it is kept anyway

# why: docs/kernels/convolution.md; docs/kernels/cpu.md
# next: kernels/cpu/direct.py, the convolution itself
"""

from itertools import product

import numpy as np

from core.engine import Op
from core.reference.conv import phase, span, transposed_size
from kernels.cpu import direct, direct_backward, narrow, winograd
from kernels.cpu.activations import activation_backward, negative_slope_of, tanh_loop
from kernels.cpu.common import f32, floats
from kernels.cpu.direct import Axis
from kernels.cpu.pointwise import elementwise

LINEAR = f32(1)  # the slope of no activation


def _axes(taps, stride, dilation, before, count):
    """The rows and the columns of a correlation."""
    return tuple(
        Axis(tuple(range(k)), s, d, -p, (0, 1), n) for k, s, d, p, n in zip(taps, stride, dilation, before, count)
    )


def correlate(x, w, y, stride, dilation, before, bias=None, negative_slope=LINEAR):
    """Fill y (N, U, V, B) from x (N, H, W, A) and w (KH, KW, A, B)."""
    bias = np.zeros(w.shape[3], f32) if bias is None else bias
    part = _axes(w.shape[:2], stride, dilation, before, y.shape[1:3])
    if 4 * w.shape[3] <= w.shape[2]:
        narrow.correlate(x, w, y, stride, dilation, before, bias, negative_slope)
    elif short := winograd.parts(*part, x.shape[1:3], w.shape[2:]):
        winograd.correlate(x, w, y, short, bias, negative_slope)
    else:
        direct.correlate(x, w, y, [part], bias, negative_slope)
    return y


def correlate_transpose(y, w, x, stride, dilation, padding, bias=None, negative_slope=LINEAR):
    """Fill x (N, H, W, A) with the adjoint of `correlate`: y (N, U, V, B), w (KH, KW, A, B)."""
    bias, turned = np.zeros(w.shape[2], f32) if bias is None else bias, w.transpose(0, 1, 3, 2)  # (KH, KW, B, A)
    if 4 * w.shape[2] <= w.shape[3]:
        narrow.correlate_transpose(y, w, x, stride, dilation, padding, bias, negative_slope)
        return x
    rows, cols = ([_phase(y, w, x, axis, r, stride, dilation, padding) for r in range(stride[axis])] for axis in (0, 1))
    rest = []
    for part in product(rows, cols):
        if short := winograd.parts(*part, y.shape[1:3], w.shape[2:]):
            winograd.correlate(y, turned, x, short, bias, negative_slope)
        else:
            rest.append(part)
    if rest:
        direct.correlate(y, turned, x, rest, bias, negative_slope)
    return x


def _phase(y, w, x, axis, r, stride, dilation, padding):
    """One axis of the correlation of stride 1 that makes the output pixels r, r + stride, ..."""
    size, stride = x.shape[1 + axis], stride[axis]
    taps, spacing, (before, _) = phase(r, w.shape[axis], stride, dilation[axis], padding[axis], y.shape[1 + axis], size)
    return Axis(tuple(taps), 1, spacing, -before, (r, stride), len(range(r, size, stride)))


def weight_gradient(x, y, taps, stride, dilation, padding):
    """(KH, KW, A, B) of the correlation that makes y (N, U, V, B) from x (N, H, W, A)."""
    if 4 * y.shape[3] <= x.shape[3] and stride == (1, 1):
        return narrow.weight_gradient(x, y, taps, dilation, padding)
    part = _axes(taps, stride, dilation, padding, y.shape[1:3])
    if short := winograd.parts(*part, x.shape[1:3], (x.shape[3], y.shape[3])):
        return winograd.weight_gradient(x, y, taps, short)
    return direct_backward.weight_gradient(x, y, *part)


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
    correlate(x, w, y, stride, dilation, padding, b, negative_slope_of(act, negative_slope))
    y = _activated(y, act)
    return y, (x, w, y if act else None)


def _conv2d_backward(saved, dy, needs_input_grad, *, stride, padding, dilation, act, negative_slope):
    x, w, y = saved
    dz, db = activation_backward(act, y, dy, negative_slope, needs_input_grad[2])
    dx = correlate_transpose(dz, w, np.empty_like(x), stride, dilation, padding) if needs_input_grad[0] else None
    return dx, weight_gradient(x, dz, w.shape[:2], stride, dilation, padding) if needs_input_grad[1] else None, db


def _conv_transpose2d(x, w, b, *, stride, padding, output_padding, dilation, act, negative_slope):
    x, w, b = floats(x), floats(w), floats(b)
    size = transposed_size(x.shape[1:3], w.shape[:2], stride, padding, output_padding, dilation)
    y = np.empty((len(x), *size, w.shape[2]), f32)
    y = _activated(
        correlate_transpose(x, w, y, stride, dilation, padding, b, negative_slope_of(act, negative_slope)), act
    )
    return y, (x, w, y if act else None)


def _conv_transpose2d_backward(
    saved, dy, needs_input_grad, *, stride, padding, output_padding, dilation, act, negative_slope
):
    x, w, y = saved
    dz, db = activation_backward(act, y, dy, negative_slope, needs_input_grad[2])
    dx = correlate(dz, w, np.empty_like(x), stride, dilation, padding) if needs_input_grad[0] else None
    return dx, weight_gradient(dz, x, w.shape[:2], stride, dilation, padding) if needs_input_grad[1] else None, db


conv2d = Op("conv2d", _conv2d, _conv2d_backward, backend="numba")
conv_transpose2d = Op("conv_transpose2d", _conv_transpose2d, _conv_transpose2d_backward, backend="numba")
