"""Elementwise operations that are worth a loop of their own: the exponential in them is what NumPy would wait for.

    gelu         y = x Phi(x),        dx = dy (Phi(x) + x phi(x)),   Phi(x) = (1 + erf(x / sqrt 2)) / 2,   phi = Phi'
    gelu_tanh    y = x s(u(x)),       dx = dy (s + x s(u) s(-u) u'(x)),   u = 2 sqrt(2 / pi) (x + 0.044715 x^3)
    silu         y = x s(x),          dx = dy (s + x s(x) s(-x)),   s(x) = 1 / (1 + exp(-x))
    tanh         y = tanh x,          dx = dy (1 - y)(1 + y)
    sigmoid      y = s(x),            dx = dy y (1 - y)
    softplus     y = log(1 + e^x),    dx = dy s(x)
    relu         y = max(x, 0),       dx = dy where y > 0
    leaky_relu   y = x or slope x,    dx = dy or slope dy

Shapes      any, n elements in C order
Plan        a piece of the elements for each thread, one pass, 4n bytes in and 4n out; backward 8n in and 4n out
Precision   float32; erf by a rational fit, 7 units of the last place at worst; exp, tanh and log1p of common.py
Versions    NumPy, one core of a Zen 5, 10^5 elements: 0.3 to 8 ns an element forward and 0.3 to 18 backward; these
            take 0.1 to 0.5 (softplus 0.9). exp, log, sums and products are as fast there, and have no kernel

# why: docs/kernels/others.md
# next: kernels/cpu/activations.py, the same at the end of a convolution
"""

import numpy as np

from core.engine import Op
from core.reference.pointwise import TANH_GELU
from core.runtime.threads import share
from kernels.cpu.common import PIECE, REAL, const, erf, exp, f32, floats, inline, kernel, log1p, out
from kernels.cpu.common import sigmoid as sigmoid_of
from kernels.cpu.common import tanh as tanh_of

GRAIN = 1 << 17  # elements below which a second thread costs more than it brings


def elementwise(loop, *inputs, numbers=()):
    """y by loop(*inputs, *numbers, y, start, stop), shared out over all elements; the inputs have y's shape."""
    inputs = [floats(x) for x in inputs]
    y = np.empty_like(inputs[0])
    flat = *(x.reshape(-1) for x in inputs), *numbers, y.reshape(-1)
    share(lambda start, stop: loop(*flat, start, stop), y.size, GRAIN)
    return y


@inline
def gelu_of(x):
    """x Phi(x)"""
    return x * (f32(0.5) + f32(0.5) * erf(x * f32(0.70710678)))


@inline
def gelu_derivative(x):
    """Phi(x) + x phi(x)"""
    phi = f32(0.39894228) * exp(f32(-0.5) * x * x)
    return f32(0.5) + f32(0.5) * erf(x * f32(0.70710678)) + x * phi


@inline
def silu_derivative(x):
    """s + x s(x) s(-x): both sigmoids from one exponential, so that neither is 1 less the other."""
    e = exp(-abs(x))
    near, far = f32(1) / (f32(1) + e), e / (f32(1) + e)
    return (near if x >= f32(0) else far) + x * near * far


@inline
def gelu_tanh_of(x):
    """x s(u)"""
    return x * sigmoid_of(f32(2 * TANH_GELU[0]) * (x + f32(TANH_GELU[1]) * x * x * x))


@inline
def gelu_tanh_derivative(x):
    """s + x s(u) s(-u) u'"""
    u = f32(2 * TANH_GELU[0]) * (x + f32(TANH_GELU[1]) * x * x * x)
    e = exp(-abs(u))
    near, far = f32(1) / (f32(1) + e), e / (f32(1) + e)
    inner = f32(2 * TANH_GELU[0]) * (f32(1) + f32(3 * TANH_GELU[1]) * x * x)
    return (near if u >= f32(0) else far) + x * near * far * inner


@kernel(const(1), out(1), *PIECE)
def _gelu(x, y, start, stop):
    x, y = x[start:stop], y[start:stop]
    for i in range(x.size):
        y[i] = gelu_of(x[i])


@kernel(const(1), const(1), out(1), *PIECE)
def _gelu_backward(dy, x, dx, start, stop):
    dy, x, dx = dy[start:stop], x[start:stop], dx[start:stop]
    for i in range(x.size):
        dx[i] = dy[i] * gelu_derivative(x[i])


@kernel(const(1), out(1), *PIECE)
def _gelu_tanh(x, y, start, stop):
    x, y = x[start:stop], y[start:stop]
    for i in range(x.size):
        y[i] = gelu_tanh_of(x[i])


@kernel(const(1), const(1), out(1), *PIECE)
def _gelu_tanh_backward(dy, x, dx, start, stop):
    dy, x, dx = dy[start:stop], x[start:stop], dx[start:stop]
    for i in range(x.size):
        dx[i] = dy[i] * gelu_tanh_derivative(x[i])


@kernel(const(1), out(1), *PIECE)
def _silu(x, y, start, stop):
    x, y = x[start:stop], y[start:stop]
    for i in range(x.size):
        y[i] = x[i] * sigmoid_of(x[i])


@kernel(const(1), const(1), out(1), *PIECE)
def _silu_backward(dy, x, dx, start, stop):
    dy, x, dx = dy[start:stop], x[start:stop], dx[start:stop]
    for i in range(x.size):
        dx[i] = dy[i] * silu_derivative(x[i])


@kernel(const(1), out(1), *PIECE)
def _tanh(x, y, start, stop):
    x, y = x[start:stop], y[start:stop]
    for i in range(x.size):
        y[i] = tanh_of(x[i])


@kernel(const(1), const(1), out(1), *PIECE)
def _tanh_backward(dy, y, dx, start, stop):
    dy, y, dx = dy[start:stop], y[start:stop], dx[start:stop]
    for i in range(y.size):
        dx[i] = dy[i] * ((f32(1) - y[i]) * (f32(1) + y[i]))


@kernel(const(1), out(1), *PIECE)
def _sigmoid(x, y, start, stop):
    x, y = x[start:stop], y[start:stop]
    for i in range(x.size):
        y[i] = sigmoid_of(x[i])


@kernel(const(1), const(1), out(1), *PIECE)
def _sigmoid_backward(dy, y, dx, start, stop):
    dy, y, dx = dy[start:stop], y[start:stop], dx[start:stop]
    for i in range(y.size):
        dx[i] = dy[i] * y[i] * (f32(1) - y[i])


@kernel(const(1), out(1), *PIECE)
def _softplus(x, y, start, stop):
    x, y = x[start:stop], y[start:stop]
    for i in range(x.size):
        y[i] = max(x[i], f32(0)) + log1p(exp(-abs(x[i])))


@kernel(const(1), const(1), out(1), *PIECE)
def _softplus_backward(dy, x, dx, start, stop):
    dy, x, dx = dy[start:stop], x[start:stop], dx[start:stop]
    for i in range(x.size):
        dx[i] = dy[i] * sigmoid_of(x[i])


@kernel(const(1), const(1), out(1), *PIECE)
def _relu(dy, y, dx, start, stop):
    """dy where y is positive (or nan), 0 elsewhere; of x and itself, relu."""
    dy, y, dx = dy[start:stop], y[start:stop], dx[start:stop]
    for i in range(y.size):
        dx[i] = f32(0) if y[i] <= f32(0) else dy[i]


@kernel(const(1), const(1), REAL, out(1), *PIECE)
def _leaky_relu(dy, x, slope, dx, start, stop):
    """dy, or slope * dy where x is not positive; of x and itself, leaky_relu."""
    dy, x, dx = dy[start:stop], x[start:stop], dx[start:stop]
    for i in range(x.size):
        dx[i] = dy[i] * (f32(1) if x[i] > f32(0) else slope)


def _op(name, loop, back, saves_y=False):
    """An operation of one input, which keeps x or y for its way back."""

    def forward(x):
        y = elementwise(loop, x)
        return y, (y if saves_y else x,)

    return Op(name, forward, lambda saved, dy, needs_input_grad: (elementwise(back, dy, *saved),), backend="numba")


gelu = _op("gelu", _gelu, _gelu_backward)
gelu_tanh = _op("gelu_tanh", _gelu_tanh, _gelu_tanh_backward)
silu = _op("silu", _silu, _silu_backward)
softplus = _op("softplus", _softplus, _softplus_backward)
tanh = _op("tanh", _tanh, _tanh_backward, saves_y=True)
sigmoid = _op("sigmoid", _sigmoid, _sigmoid_backward, saves_y=True)
relu = Op(
    "relu",
    lambda x: (elementwise(_relu, x, x), (x,)),
    lambda saved, dy, needs_input_grad: (elementwise(_relu, dy, *saved),),
    backend="numba",
)
leaky_relu = Op(
    "leaky_relu",
    lambda x, negative_slope: (elementwise(_leaky_relu, x, x, numbers=(f32(negative_slope),)), (x,)),
    lambda saved, dy, needs_input_grad, negative_slope: (
        elementwise(_leaky_relu, dy, *saved, numbers=(f32(negative_slope),)),
    ),
    backend="numba",
)
