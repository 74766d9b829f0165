"""Elementwise operations, as a table: the value, then one gradient rule per input.

A rule gets `xp`, then `dy`, the result `y` and the inputs (None where `saves` leaves them out), then the attributes.
Rules know nothing of broadcasting or dtypes: `_op` broadcasts forward and applies `unbroadcast` once for all of them.

# why: docs/kernels/others.md
# next: core/table.py, who computes each operation
"""

from collections.abc import Callable
from typing import NamedTuple

from core.arrays import array_module, is_cupy, is_float, unbroadcast
from core.engine import Op


class Rule(NamedTuple):
    value: Callable  # (xp, *inputs, **attrs) -> y
    grads: tuple  # per input: (xp, dy, y, *inputs, **attrs) -> gradient, or None for an input without one
    saves: str = ""  # what the gradients read: "x" the inputs, "y" the result


# erf(x) = x P(x^2) / Q(x^2) on [-3.95, 3.95], beyond which float32 is +-1: a least-squares fit of degrees 5 and 5 to
# SciPy's values at 4,000 Chebyshev points. The fit errs by 2e-8, its evaluation in float32 by up to 4 ulp.
ERF_P = (1.12837915, 0.191117375, 0.0528173593, 0.00378961021, 0.000284276390, 0.00000202916426)
ERF_Q = (1.0, 0.502706104, 0.114379992, 0.0150176169, 0.00116625731, 0.0000378443414)


def erf(x):
    """The error function: SciPy's in float64; in float32 the fit above, which is several times faster."""
    if x.dtype == "float32":
        xp = array_module(x)
        x = xp.clip(x, -3.95, 3.95)
        u = x * x
        return xp.clip(x * _horner(xp, ERF_P, u) / _horner(xp, ERF_Q, u), -1, 1)
    if is_cupy(x):
        from cupyx.scipy.special import erf as special_erf
    else:
        from scipy.special import erf as special_erf
    return special_erf(x)


def _horner(xp, coefficients, u):
    """The polynomial with these coefficients, lowest first."""
    y = xp.full_like(u, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        y *= u
        y += c
    return y


def _sigmoid(xp, x):
    e = xp.exp(-abs(x))  # never overflows
    return xp.where(x >= 0, 1, e) / (1 + e)


def _tanh(xp, x):
    """Rounded once: the gradient 1 - y^2 magnifies y's error where y is near 1, and NumPy's float32 has 1.4 ulp."""
    return xp.tanh(x.astype(xp.float64)).astype(x.dtype)


def _leaky_relu(xp, x, negative_slope):
    y = xp.minimum(x, 0) * negative_slope  # where() would say the same, ten times slower on unpredictable signs
    y += xp.maximum(x, 0)
    return y


def _leaky_relu_dx(xp, dy, y, x, negative_slope):
    positive = (x > 0).astype(dy.dtype)
    derivative = (1 - positive) * negative_slope
    derivative += positive  # exactly 1 or negative_slope
    return dy * derivative


def _softplus(xp, x):
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-abs(x)))


def _pow_x(xp, dy, z, x, y):
    return xp.where(y == 0, 0, dy * y * x ** xp.where(y == 0, 1, y - 1))


def _pow_y(xp, dy, z, x, y):
    return xp.where((x == 0) & (y >= 0), 0, dy * z * xp.log(x))


def _share(xp, dy, mine, other, won):
    """max and min give the gradient to the winner, and half to each at a tie, as torch does."""
    return xp.where(mine == other, 0.5 * dy, xp.where(won, dy, 0))  # not dy * mask: inf * 0 is nan


def _clip_dx(xp, dy, y, x, *, low, high):
    inside = xp.ones(x.shape, bool)
    if low is not None:
        inside &= x >= low
    if high is not None:
        inside &= x <= high
    return xp.where(inside, dy, 0)


TANH_GELU = (0.7978845608028654, 0.044715)  # sqrt(2/pi), and the cubic's coefficient (Hendrycks & Gimpel 2016)


def _gelu_tanh(xp, x):
    a, b = TANH_GELU
    return x * _sigmoid(xp, 2 * a * (x + b * x * x * x))


def _gelu_tanh_dx(xp, dy, y, x):
    a, b = TANH_GELU
    u = 2 * a * (x + b * x * x * x)
    s = _sigmoid(xp, u)
    return dy * (s + x * s * _sigmoid(xp, -u) * (2 * a * (1 + 3 * b * x * x)))


# fmt: off
RULES = {
    # two inputs
    "add":        Rule(lambda xp, x, y: x + y, (lambda xp, dy, z, x, y: dy, lambda xp, dy, z, x, y: dy)),
    "sub":        Rule(lambda xp, x, y: x - y, (lambda xp, dy, z, x, y: dy, lambda xp, dy, z, x, y: -dy)),
    "mul":        Rule(lambda xp, x, y: x * y, (lambda xp, dy, z, x, y: dy * y, lambda xp, dy, z, x, y: dy * x), "x"),
    "div":        Rule(lambda xp, x, y: x / y,
                       (lambda xp, dy, z, x, y: dy / y, lambda xp, dy, z, x, y: -dy * z / y), "xy"),
    "pow":        Rule(lambda xp, x, y: x ** y, (_pow_x, _pow_y), "xy"),
    "maximum":    Rule(lambda xp, x, y: xp.maximum(x, y),
                       (lambda xp, dy, z, x, y: _share(xp, dy, x, y, ~(x < y)),
                        lambda xp, dy, z, x, y: _share(xp, dy, y, x, ~(y < x))), "x"),
    "minimum":    Rule(lambda xp, x, y: xp.minimum(x, y),
                       (lambda xp, dy, z, x, y: _share(xp, dy, x, y, ~(x > y)),
                        lambda xp, dy, z, x, y: _share(xp, dy, y, x, ~(y > x))), "x"),
    "where":      Rule(lambda xp, c, x, y: xp.where(c, x, y),
                       (None, lambda xp, dy, z, c, x, y: xp.where(c, dy, 0),
                        lambda xp, dy, z, c, x, y: xp.where(c, 0, dy)), "x"),
    # one input
    "neg":        Rule(lambda xp, x: -x, (lambda xp, dy, y, x: -dy,)),
    "abs":        Rule(lambda xp, x: abs(x), (lambda xp, dy, y, x: dy * xp.sign(xp.nan_to_num(x)),), "x"),
    "exp":        Rule(lambda xp, x: xp.exp(x), (lambda xp, dy, y, x: dy * y,), "y"),
    "log":        Rule(lambda xp, x: xp.log(x), (lambda xp, dy, y, x: dy / x,), "x"),
    "sqrt":       Rule(lambda xp, x: xp.sqrt(x), (lambda xp, dy, y, x: dy / (2 * y),), "y"),
    "tanh":       Rule(_tanh, (lambda xp, dy, y, x: dy * ((1 - y) * (1 + y)),), "y"),
    "sigmoid":    Rule(_sigmoid, (lambda xp, dy, y, x: dy * y * (1 - y),), "y"),
    "softplus":   Rule(_softplus, (lambda xp, dy, y, x: dy * _sigmoid(xp, x),), "x"),
    "silu":       Rule(lambda xp, x: x * _sigmoid(xp, x),
                       (lambda xp, dy, y, x: dy * _sigmoid(xp, x) * (1 + x * _sigmoid(xp, -x)),), "x"),
    "relu":       Rule(lambda xp, x: xp.maximum(x, 0), (lambda xp, dy, y, x: xp.where(y <= 0, 0, dy),), "y"),
    "leaky_relu": Rule(_leaky_relu, (_leaky_relu_dx,), "x"),
    "gelu_tanh":  Rule(_gelu_tanh, (_gelu_tanh_dx,), "x"),
    "clip":       Rule(lambda xp, x, low, high: xp.clip(x, low, high), (_clip_dx,), "x"),
}
# fmt: on

FLOAT_FUNCTIONS = {"div", "exp", "log", "sqrt", "tanh", "sigmoid", "softplus", "silu", "gelu", "gelu_tanh"}


def _op(name: str, rule: Rule) -> Op:
    """One row of the table as an operation."""

    def forward(*xs, **attrs):
        xp = array_module(*xs)
        if name in FLOAT_FUNCTIONS and not any(is_float(x) for x in xs):
            xs = tuple(x.astype(xp.float32) for x in xs)  # a bare integer operand becomes float32
        shapes = tuple(x.shape for x in xs)
        try:
            y = xp.asarray(rule.value(xp, *xs, **attrs))
        except ValueError as error:
            if "power" in str(error):
                raise ValueError(f"{name}: {error}") from None
            raise ValueError(f"{name}: shapes {' and '.join(map(str, shapes))} do not broadcast") from None
        except OverflowError:
            raise ValueError(f"{name}: an option is {attrs}, should be in what dtype {xs[0].dtype} can hold") from None
        except TypeError:
            dtypes = " and ".join(str(x.dtype) for x in xs)
            raise TypeError(
                f"{name}: an operand is of dtype {dtypes}, should be a number that {name} is defined for"
            ) from None
        if is_float(y) and not any(is_float(x) for x in xs):
            y = y.astype(xp.float32)
        return y, (shapes, y if "y" in rule.saves else None, xs if "x" in rule.saves else (None,) * len(xs))

    def backward(saved, dy, needs_input_grad, **attrs):
        shapes, y, xs = saved
        xp = array_module(dy)
        return tuple(
            unbroadcast(xp.asarray(grad(xp, dy, y, *xs, **attrs)), shape) if need and grad is not None else None
            for need, grad, shape in zip(needs_input_grad, rule.grads, shapes)
        )

    return Op(name, forward, backward)


# GELU (Hendrycks & Gimpel 2016): x times the normal distribution function. It saves that factor, since erf is dear.


def _gelu_forward(x):
    x = x if is_float(x) else x.astype("float32")
    cdf = 0.5 * (1 + erf(x * 0.7071067811865476))
    return x * cdf, (x, cdf)


def _gelu_backward(saved, dy, needs_input_grad):
    x, cdf = saved
    derivative = array_module(x).exp(-0.5 * x * x)  # the normal density, times sqrt(2 pi)
    derivative *= x * 0.3989422804014327
    derivative += cdf
    return (dy * derivative,)


OPS = {name: _op(name, rule) for name, rule in RULES.items()}
OPS["gelu"] = Op("gelu", _gelu_forward, _gelu_backward)

# --- the activation at the end of a fused operation ----------------------------------------

ACTIVATIONS = (None, "relu", "leaky_relu", "gelu", "gelu_tanh", "tanh")


def activate(act, x, negative_slope=0.01):
    """(act(x), saved), as the last step of linear, conv2d, conv_transpose2d and the norms."""
    if act is None:
        return x, ()
    return OPS[act].forward(x, **_derivative(act, negative_slope))


def activate_backward(act, saved, dy, negative_slope=0.01):
    return dy if act is None else OPS[act].backward(saved, dy, (True,), **_derivative(act, negative_slope))[0]


def _derivative(act, negative_slope):
    return {"negative_slope": negative_slope} if act == "leaky_relu" else {}
