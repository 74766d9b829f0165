"""Elementwise operations that are worth a loop of their own: the exponential in them is what NumPy would wait for.

    gelu   y = x Phi(x),   dx = dy (Phi(x) + x phi(x)),   Phi(x) = (1 + erf(x / sqrt 2)) / 2,   phi = Phi'

Shapes      any, n elements in C order
Plan        a piece of the elements for each thread, one pass, 4n bytes in and 4n out; backward 8n in and 4n out
Precision   float32; erf by a rational fit, 5 units of the last place at worst

# next: kernels/cpu/matmul.py, where gelu follows a product while it is in cache
"""

import numpy as np

from core.op import Op
from core.threads import share
from kernels.cpu.common import PIECE, const, erf, exp, f32, floats, inline, kernel, out

GRAIN = 1 << 14  # elements below which a second thread costs more than it brings


def elementwise(loop, *inputs):
    """loop(*inputs, y, start, stop), shared out over all elements; the inputs have one shape, which is y's."""
    inputs = [floats(x) for x in inputs]
    y = np.empty_like(inputs[0])
    flat = [x.reshape(-1) for x in (*inputs, y)]
    share(lambda start, stop: loop(*flat, start, stop), y.size, GRAIN)
    return y


@inline
def gelu_of(x):
    """x Phi(x)"""
    return x * (f32(0.5) + f32(0.5) * erf(x * f32(0.70710678)))


@inline
def gelu_slope(x):
    """Phi(x) + x phi(x)"""
    phi = f32(0.39894228) * exp(f32(-0.5) * x * x)
    return f32(0.5) + f32(0.5) * erf(x * f32(0.70710678)) + x * phi


@kernel(const(1), out(1), *PIECE)
def _gelu(x, y, start, stop):
    x, y = x[start:stop], y[start:stop]
    for i in range(x.size):
        y[i] = gelu_of(x[i])


@kernel(const(1), const(1), out(1), *PIECE)
def _gelu_backward(dy, x, dx, start, stop):
    dy, x, dx = dy[start:stop], x[start:stop], dx[start:stop]
    for i in range(x.size):
        dx[i] = dy[i] * gelu_slope(x[i])


gelu = Op(
    "gelu",
    lambda x: (elementwise(_gelu, x), (x,)),
    lambda saved, dy, needs: (elementwise(_gelu_backward, dy, *saved),),
    backend="numba",
)
