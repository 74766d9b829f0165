"""Elementwise functions."""

from core import check
from core.arrays import NUMBERS
from core.dispatch import run
from core.functional.arguments import tensor


def relu(x):
    """max(x, 0), any shape; the gradient at 0 is 0."""
    return run("relu", x)


def leaky_relu(x, negative_slope=0.01):
    """x where x > 0, else negative_slope x (Maas et al. 2013)."""
    check.number("leaky_relu", "negative_slope", negative_slope)
    return run("leaky_relu", x, negative_slope=float(negative_slope))


def gelu(x, approximate="none"):
    """x times the normal distribution function (Hendrycks & Gimpel 2016); approximate="tanh" is their second form."""
    check.one_of("gelu", "approximate", approximate, ("none", "tanh"))
    return run("gelu" if approximate == "none" else "gelu_tanh", x)


def tanh(x):
    return run("tanh", x)


def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow."""
    return run("sigmoid", x)


def silu(x):
    """x sigmoid(x) (Elfwing et al. 2017)."""
    return run("silu", x)


def softplus(x):
    """log(1 + exp(x)), without overflow."""
    return run("softplus", x)


def exp(x):
    return run("exp", x)


def log(x):
    return run("log", x)


def sqrt(x):
    return run("sqrt", x)


def abs(x):
    return run("abs", x)


def maximum(x, y):
    """The larger of two, broadcast; a tie gives half the gradient to each."""
    return run("maximum", x, y)


def minimum(x, y):
    """The smaller of two, broadcast; a tie gives half the gradient to each."""
    return run("minimum", x, y)


def clip(x, low=None, high=None):
    """x limited to [low, high]; the gradient is 0 outside."""
    if low is None and high is None:
        check.fail("clip", "low", "None as high is", "a number where high is None")
    for name, bound in (("low", low), ("high", high)):
        if bound is not None and (not isinstance(bound, NUMBERS) or bound != bound):
            check.fail("clip", name, check.shown(bound), "a number or None")
    return run("clip", x, low=low, high=high)


def where(condition, x, y):
    """x where the boolean `condition` holds, else y, broadcast."""
    condition = tensor("where", "condition", condition)
    if condition.dtype != bool:
        check.fail("where", "condition", f"of dtype {condition.dtype}", "boolean", TypeError)
    return run("where", condition, x, y)
