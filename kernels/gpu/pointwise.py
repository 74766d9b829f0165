"""Elementwise operations as a table, like the reference's: a function of one element for the value, one a gradient.

    y = f(x, ...) broadcast,    dx = sum over the axes along which x was repeated of g(dy, x, y, ...)

Shapes      any that broadcast
Plan        `mapped` (kernels/gpu/reductions.py) runs any of the functions over any shapes; `unbroadcast` takes the sum
Cost        memory decides: 4 bytes a number read or written in float32. A gradient reads what its formula names, `PASS`
            nothing at all; one that is summed is written and read once more
Precision   float32, rounded once at the end; pow in float64 inside, because exp(y log x) magnifies an error up to 88
            times. sigmoid(-x) stands where 1 - sigmoid(x) would cancel
Versions    gelu's gradient computes erf again: keeping it, as the reference does, would write and read 4 bytes more
Limits      one operand at least has a floating dtype
Source      the gradients are the reference's (core/reference/pointwise.py)
Status      untested on a device: all of it

# why: docs/kernels/others.md
# next: kernels/gpu/reductions.py, which runs these functions over any shapes
"""

import math
from typing import Any, NamedTuple

import numpy as np
import triton
import triton.language as tl

from core.arrays import result_dtype
from core.engine import Op
from kernels.gpu import activations, common, reductions
from kernels.gpu.reductions import mapped, unbroadcast

# --- functions of one element: d is dy, r the result, x and y the inputs ----------------------------------------


@triton.jit
def _sub(x, y):
    return x - y


@triton.jit
def _mul(x, y):
    return x * y


@triton.jit
def _div_y(d, x, y):
    return -1.0 * d * (x / y) / y


@triton.jit
def _pow(x, y):
    """|x|^y by logarithms, with C's rules for signs, zeros, infinities and nan."""
    a = tl.exp(y.to(tl.float64) * tl.log(tl.abs(x).to(tl.float64))).to(tl.float32)
    a = tl.where((y == 0) | (x == 1) | ((x == -1) & (tl.abs(y) == float("inf"))), 1.0, a)
    whole = tl.floor(y) == y
    odd = whole & (tl.floor(y * 0.5) != y * 0.5)
    a = tl.where(odd & (x.to(tl.int32, bitcast=True) < 0), -1.0 * a, a)  # the sign of -0 too
    return tl.where((x < 0) & (x > -float("inf")) & (whole == 0), float("nan"), a)


@triton.jit
def _pow_x(d, x, y):
    return tl.where(y == 0, 0.0, d * y * _pow(x, y - 1.0))


@triton.jit
def _pow_y(d, x, y):
    return tl.where((x == 0) & (y >= 0), 0.0, d * _pow(x, y) * tl.log(x))


@triton.jit
def _maximum_x(d, x, y):
    """The winner gets the gradient, at a tie each gets half; beside nan both get it."""
    return tl.where(x == y, 0.5 * d, tl.where(x < y, 0.0, d))


@triton.jit
def _minimum_x(d, x, y):
    return tl.where(x == y, 0.5 * d, tl.where(x > y, 0.0, d))


@triton.jit
def _where(c, x, y):
    return tl.where(c != 0, x, y)


@triton.jit
def _where_x(d, c):
    return tl.where(c != 0, d, 0.0)


@triton.jit
def _where_y(d, c):
    return tl.where(c != 0, 0.0, d)


@triton.jit
def _neg(x):
    return -1.0 * x  # -x is 0 - x to Triton, which makes +0 of +0


@triton.jit
def _abs(x):
    return tl.abs(x)


@triton.jit
def _abs_x(d, x):
    return d * tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0))


@triton.jit
def _exp(x):
    """2^n exp(x - n log 2): the device's exp multiplies x by 1 / log 2, whose rounding costs 20 ulp at x = 80."""
    n = tl.floor(x * 1.4426950408889634 + 0.5)
    rest = x - n * 0.693359375 + n * 2.12194440e-4  # log 2 in two parts (Cephes); the first product is exact
    return tl.where(tl.abs(x) < 100.0, tl.exp(rest) * 2.0 * tl.exp2(n - 1.0), tl.exp(x))  # n may be 128: 2^n is inf


@triton.jit
def _log(x):
    return tl.log(x)


@triton.jit
def _sqrt(x):
    return tl.sqrt_rn(x)


@triton.jit
def _sqrt_x(d, r):
    return d / (2.0 * r)


@triton.jit
def _tanh_x(d, r):
    return d * ((1.0 - r) * (1.0 + r))


@triton.jit
def _sigmoid_x(d, r):
    return d * r * (1.0 - r)


@triton.jit
def _softplus(x):
    return reductions.maximum(x, 0.0) + common.log1p(tl.exp(-tl.abs(x)))


@triton.jit
def _softplus_x(d, x):
    return d * common.sigmoid(x)


@triton.jit
def _silu_x(d, x):
    return d * activations.silu_derivative(x)


@triton.jit
def _relu_x(d, r):
    return tl.where(r <= 0, 0.0, d)


@triton.jit
def _leaky_relu_x(d, x, negative_slope):
    return d * tl.where(x > 0, 1.0, negative_slope)


@triton.jit
def _gelu_x(d, x):
    return d * activations.gelu_derivative(x)


@triton.jit
def _gelu_tanh_x(d, x):
    return d * activations.gelu_tanh_derivative(x)


@triton.jit
def _clip(x, low, high):
    return reductions.minimum(reductions.maximum(x, low), high)


@triton.jit
def _clip_x(d, x, low, high):
    return tl.where((x >= low) & (x <= high), d, 0.0)


# --- the table ----------------------------------------


class Rule(NamedTuple):
    inputs: str  # a letter each
    value: Any  # the function of the inputs and attributes
    grads: tuple  # per input: (the function, letters of what it reads before the attributes), PASS, or None
    attrs: tuple = ()  # names of the attributes, which are numbers


PASS = ()  # the gradient is dy itself
OPEN = {"low": -math.inf, "high": math.inf}  # what None means

# fmt: off
RULES = {
    "add":        Rule("xy", reductions.add, (PASS, PASS)),
    "sub":        Rule("xy", _sub, (PASS, (_neg, "d"))),
    "mul":        Rule("xy", _mul, ((_mul, "dy"), (_mul, "dx"))),
    "div":        Rule("xy", reductions.divide, ((reductions.divide, "dy"), (_div_y, "dxy"))),
    "pow":        Rule("xy", _pow, ((_pow_x, "dxy"), (_pow_y, "dxy"))),
    "maximum":    Rule("xy", reductions.maximum, ((_maximum_x, "dxy"), (_maximum_x, "dyx"))),
    "minimum":    Rule("xy", reductions.minimum, ((_minimum_x, "dxy"), (_minimum_x, "dyx"))),
    "where":      Rule("cxy", _where, (None, (_where_x, "dc"), (_where_y, "dc"))),
    "neg":        Rule("x", _neg, ((_neg, "d"),)),
    "abs":        Rule("x", _abs, ((_abs_x, "dx"),)),
    "exp":        Rule("x", _exp, ((_mul, "dr"),)),
    "log":        Rule("x", _log, ((reductions.divide, "dx"),)),
    "sqrt":       Rule("x", _sqrt, ((_sqrt_x, "dr"),)),
    "tanh":       Rule("x", activations.tanh, ((_tanh_x, "dr"),)),
    "sigmoid":    Rule("x", common.sigmoid, ((_sigmoid_x, "dr"),)),
    "softplus":   Rule("x", _softplus, ((_softplus_x, "dx"),)),
    "silu":       Rule("x", activations.silu, ((_silu_x, "dx"),)),
    "relu":       Rule("x", activations.relu, ((_relu_x, "dr"),)),
    "leaky_relu": Rule("x", activations.leaky_relu, ((_leaky_relu_x, "dx"),), ("negative_slope",)),
    "gelu":       Rule("x", activations.gelu, ((_gelu_x, "dx"),)),
    "gelu_tanh":  Rule("x", activations.gelu_tanh, ((_gelu_tanh_x, "dx"),)),
    "clip":       Rule("x", _clip, ((_clip_x, "dx"),), ("low", "high")),
}
# fmt: on

# --- the operations ----------------------------------------


def _op(name: str, rule: Rule) -> Op:
    """One row of the table as an operation. It saves what its gradients read: letters of inputs, "r" the result."""
    read = "".join(grad[1] for grad in rule.grads if grad)

    def forward(*xs, **attrs):
        if any(x is None for x in xs):
            raise TypeError(f"{name}: an operand is None, should be a Tensor, an array or a number")
        shapes = tuple(x.shape for x in xs)
        try:
            shape = np.broadcast_shapes(*shapes)
        except ValueError:
            raise ValueError(f"{name}: shapes {' and '.join(map(str, shapes))} do not broadcast") from None
        y = mapped(rule.value, shape, result_dtype(*xs), *xs, *_numbers(rule, attrs))
        return y, (shapes, *(a if letter in read else None for letter, a in zip(rule.inputs + "r", (*xs, y))))

    def backward(saved, dy, needs_input_grad, **attrs):
        shapes, *kept = saved
        arrays, numbers = dict(zip("d" + rule.inputs + "r", (dy, *kept))), _numbers(rule, attrs)

        def gradient(grad, shape):
            if grad == PASS:
                return unbroadcast(dy, shape)
            function, letters = grad
            dtype = dy.dtype if shape == dy.shape else "float32"  # a sum's terms are not rounded
            dx = mapped(function, dy.shape, dtype, *(arrays[letter] for letter in letters), *numbers)
            return unbroadcast(dx, shape)

        return tuple(
            gradient(grad, shape) if need and grad is not None else None
            for need, grad, shape in zip(needs_input_grad, rule.grads, shapes)
        )

    return Op(name, forward, backward, backend="triton")


def _numbers(rule, attrs):
    return [float(OPEN[name] if attrs[name] is None else attrs[name]) for name in rule.attrs]


OPS = {name: _op(name, rule) for name, rule in RULES.items()}
globals().update(OPS)  # each under its own name, for the dispatch table
