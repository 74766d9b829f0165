"""Activations at the end of a fused operation: what they make of negative numbers, and their way back.

    negative_slope_of     relu and leaky_relu, as the number that negative values are multiplied by
    activation_backward   dz = dy act'(z) and the bias gradient, the sum of dz over all but the last axis, in one pass

relu, leaky_relu and tanh are told apart from their result y, which is kept anyway; gelu needs its argument z.
A negative_slope below zero would hide the sign of z: the operations' limits refuse it.

# next: kernels/cpu/lanes.py, vectors by name
"""

import math

import numpy as np

from core.arrays import total
from core.runtime.threads import share
from kernels.cpu.common import DOUBLE, INDEX, PIECE, REAL, const, f32, floats, kernel, out, tanh
from kernels.cpu.pointwise import gelu_derivative

ACTS = ("relu", "leaky_relu", "tanh", "gelu")
RELU, LEAKY, TANH, GELU = range(4)
ROWS = 64  # rows below which a second thread costs more than it brings


def negative_slope_of(act, negative_slope):
    """What `act` multiplies negative numbers by."""
    return f32({"relu": 0.0, "leaky_relu": negative_slope}.get(act, 1.0))


@kernel(const(1), out(1), *PIECE)
def tanh_loop(x, y, start, stop):
    x, y = x[start:stop], y[start:stop]
    for i in range(x.size):
        y[i] = tanh(x[i])


@kernel(const(2), const(2), INDEX, REAL, out(2), out(1, DOUBLE), *PIECE)
def _backward(dy, y, act, negative_slope, dz, db, start, stop):
    for i in range(start, stop):
        if act == RELU:
            for k in range(dy.shape[1]):
                dz[i, k] = f32(0) if y[i, k] <= f32(0) else dy[i, k]
        elif act == LEAKY:
            for k in range(dy.shape[1]):
                dz[i, k] = dy[i, k] if y[i, k] > f32(0) else dy[i, k] * negative_slope
        elif act == TANH:
            for k in range(dy.shape[1]):
                dz[i, k] = dy[i, k] * ((f32(1) - y[i, k]) * (f32(1) + y[i, k]))
        else:
            for k in range(dy.shape[1]):
                dz[i, k] = dy[i, k] * gelu_derivative(y[i, k])
        for k in range(dy.shape[1]):
            db[k] += dz[i, k]


def activation_backward(act, y, dy, negative_slope, wants_bias):
    """(dz, bias gradient or None); y is the activation's result, or its argument for gelu."""
    dy = floats(dy)
    if act is None:
        return dy, total(dy, tuple(range(dy.ndim - 1))) if wants_bias else None
    channels, dz = dy.shape[-1], np.empty_like(dy)
    rows, kept, result = (a.reshape(math.prod(dy.shape[:-1]), channels) for a in (dy, y, dz))

    def piece(start, stop):
        db = np.zeros(channels)
        _backward(rows, kept, ACTS.index(act), f32(negative_slope), result, db, start, stop)
        return db

    parts = share(piece, len(rows), ROWS)
    return dz, sum(parts[1:], parts[0]).astype(f32) if wants_bias else None
