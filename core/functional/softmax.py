"""Softmax and its logarithm."""

from core import check
from core.dispatch import run
from core.functional.arguments import tensor


def softmax(x, axis=-1):
    """exp(x) over its sum along `axis`."""
    return _along("softmax", x, axis)


def log_softmax(x, axis=-1):
    """log(softmax(x)), computed without taking that logarithm."""
    return _along("log_softmax", x, axis)


def _along(op, x, axis):
    x = tensor(op, "x", x)
    check.floating(op, x=x.data)
    return run(op, x, axis=check.axis(op, x, axis))
