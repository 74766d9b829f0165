"""The activations at the end of fused kernels (linear, conv2d, conv_transpose2d, the norms), and their derivatives.

`activate` is the value. `slope` is its derivative from what the forward pass keeps, as the reference keeps it: the
result for relu and tanh, the input for the others (`KEEPS_INPUT`). One exception: of leaky_relu with a positive slope
conv.py keeps the result, whose sign is the input's. kernels/gpu/pointwise.py uses the same functions.

# next: kernels/gpu/pointwise.py
"""

import triton
import triton.language as tl

from kernels.gpu.common import sigmoid

KEEPS_INPUT = ("leaky_relu", "gelu", "gelu_tanh")  # the others' derivatives follow from the result, leaky_relu's may


@triton.jit
def tanh(x):
    """Near zero a polynomial in x^2, where 1 - 2e / (1 + e) with e = exp(-2|x|) would cancel. Beyond, that form rounds
    once where tanh is near 1: the slope 1 - y^2 magnifies what y is wrong there."""
    a = tl.abs(x)
    e = tl.exp(-2.0 * a)
    far = 1.0 - 2.0 * e / (1.0 + e)
    u = x * x
    p = -5.70498872745e-3 * u + 2.06390887954e-2  # Cephes' tanhf, |x| < 0.625
    p = p * u - 5.37397155531e-2
    p = p * u + 1.33314422036e-1
    p = p * u - 3.33332819422e-1
    return tl.where(a < 0.625, x + x * u * p, tl.where(x < 0, -far, far))


@triton.jit
def relu(x):
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def leaky_relu(x, negative_slope):
    return tl.where(x > 0, x, x * negative_slope)


@triton.jit
def gelu(x):
    """x times the normal distribution function."""
    return x * (0.5 * (1.0 + tl.erf(x * 0.7071067811865476)))


@triton.jit
def gelu_derivative(x):
    """The distribution function plus x times the density."""
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit
def gelu_tanh(x):
    """x / 2 (1 + tanh(u / 2)) = x sigmoid(u), u = 2 sqrt(2 / pi) (x + 0.044715 x^3)."""
    return x * sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def gelu_tanh_derivative(x):
    """sigmoid(u) + x sigmoid(u) sigmoid(-u) du/dx; 1 - sigmoid(u) in place of sigmoid(-u) would cancel."""
    u = 1.5957691216057308 * (x + 0.044715 * x * x * x)
    s = sigmoid(u)
    return s + x * s * sigmoid(-u) * (1.5957691216057308 * (1.0 + 0.134145 * x * x))


@triton.jit
def silu(x):
    return x * sigmoid(x)


@triton.jit
def silu_derivative(x):
    return sigmoid(x) * (1.0 + x * sigmoid(-x))


@triton.jit
def activate(x, negative_slope, ACT: tl.constexpr):
    """act(x) of a float32 block; ACT is a name or None."""
    if ACT == "relu":
        x = relu(x)
    elif ACT == "leaky_relu":
        x = leaky_relu(x, negative_slope)
    elif ACT == "gelu":
        x = gelu(x)
    elif ACT == "gelu_tanh":
        x = gelu_tanh(x)
    elif ACT == "silu":
        x = silu(x)
    elif ACT == "tanh":
        x = tanh(x)
    return x


@triton.jit
def slope(kept, negative_slope, ACT: tl.constexpr):
    """act'(x) of a float32 block, from the kept input or result."""
    if ACT == "relu":
        d = tl.where(kept <= 0, 0.0, 1.0)  # as the reference: a nan lets dy pass
    elif ACT == "leaky_relu":
        d = tl.where(kept > 0, 1.0, negative_slope)
    elif ACT == "gelu":
        d = gelu_derivative(kept)
    elif ACT == "gelu_tanh":
        d = gelu_tanh_derivative(kept)
    elif ACT == "silu":
        d = silu_derivative(kept)
    elif ACT == "tanh":
        d = (1.0 - kept) * (1.0 + kept)
    else:
        d = tl.full(kept.shape, 1.0, tl.float32)
    return d
