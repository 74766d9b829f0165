"""Elementwise functions."""

from core import check
from core.arrays import NUMBERS
from core.functional.arguments import tensor
from core.tensor import apply


def relu(x):
    """max(x, 0), any shape; the gradient at 0 is 0."""
    return apply("relu", x)


def leaky_relu(x, negative_slope=0.01):
    """x where x > 0, else negative_slope x (Maas et al. 2013)."""
    check.number("leaky_relu", "negative_slope", negative_slope)
    return apply("leaky_relu", x, negative_slope=float(negative_slope))


def gelu(x, approximate="none"):
    """x times the normal distribution function (Hendrycks & Gimpel 2016); approximate="tanh" is their second form."""
    check.one_of("gelu", "approximate", approximate, ("none", "tanh"))
    return apply("gelu" if approximate == "none" else "gelu_tanh", x)


def tanh(x):
    return apply("tanh", x)


def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow."""
    return apply("sigmoid", x)


def silu(x):
    """x sigmoid(x) (Elfwing et al. 2017)."""
    return apply("silu", x)


def softplus(x):
    """log(1 + exp(x)), without overflow."""
    return apply("softplus", x)


def exp(x):
    return apply("exp", x)


def log(x):
    return apply("log", x)


def sqrt(x):
    return apply("sqrt", x)


def abs(x):
    return apply("abs", x)


def maximum(x, y):
    """The larger of two, broadcast; a tie gives half the gradient to each."""
    return apply("maximum", x, y)


def minimum(x, y):
    """The smaller of two, broadcast; a tie gives half the gradient to each."""
    return apply("minimum", x, y)


def clip(x, low=None, high=None):
    """x limited to [low, high]; the gradient is 0 outside."""
    if low is None and high is None:
        check.fail("clip", "low", "None as high is", "a number where high is None")
    for name, bound in (("low", low), ("high", high)):
        if bound is not None and (not isinstance(bound, NUMBERS) or bound != bound):
            check.fail("clip", name, check.shown(bound), "a number or None")
    return apply("clip", x, low=low, high=high)


def where(condition, x, y):
    """x where the boolean `condition` holds, else y, broadcast."""
    condition = tensor("where", "condition", condition)
    if condition.dtype != bool:
        check.fail("where", "condition", f"of dtype {condition.dtype}", "boolean", TypeError)
    return apply("where", condition, x, y)
