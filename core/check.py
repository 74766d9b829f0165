"""Errors that name the operation, the argument, what it was and what it should be."""

import numbers

import numpy as np

from core.arrays import is_float


def fail(op, argument, was, should, error=ValueError):
    raise error(f"{op}: {argument} is {was}, should be {should}")


def shaped(op, argument, x, ndim, letters):
    """`x` has `ndim` dimensions; `letters` say which, as "(N, H, W, C)"."""
    if x.ndim != ndim:
        fail(op, argument, f"of shape {x.shape}", f"{ndim}-dimensional, {letters}")


def matches(op, argument, was, should):
    """A shape, or one length, is the one it has to be."""
    if was != should:
        fail(op, argument, f"of shape {was}" if isinstance(was, tuple) else was, should)


def floating(op, **arrays):
    for name, x in arrays.items():
        if x is not None and not is_float(x):
            fail(op, name, f"of dtype {x.dtype}", "floating", TypeError)


def integer(op, argument, x):
    if x.dtype.kind not in "iu":
        fail(op, argument, f"of dtype {x.dtype}", "integer", TypeError)


def no_gradient(op, argument, x):
    if getattr(x, "requires_grad", False):
        fail(op, argument, "a tensor that requires a gradient", "one that does not: it gets none", TypeError)


def one_of(op, argument, value, choices):
    if value not in choices:
        fail(op, argument, repr(value), f"one of {', '.join(repr(c) for c in choices)}")


def probability(op, argument, p):
    if not isinstance(p, int | float | np.floating) or not 0 <= p <= 1:
        fail(op, argument, repr(p), "a number in [0, 1]")


def weight(op, argument, x):
    if not isinstance(x, int | float | np.floating) or not 0 <= x < np.inf:
        fail(op, argument, repr(x), "a finite number of at least 0")


def pair(op, argument, value, least):
    """An integer or a pair of integers, each at least `least`, as a pair."""
    both = (value, value) if isinstance(value, numbers.Integral) else value
    good = isinstance(both, tuple | list) and len(both) == 2
    if not good or not all(isinstance(v, numbers.Integral) and not isinstance(v, bool) and v >= least for v in both):
        fail(op, argument, repr(value), f"an integer >= {least} or a pair of them")
    return int(both[0]), int(both[1])


def ids(op, argument, x, limit, ignore=None):
    """Host ids lie in [0, limit). On a GPU a look would wait for the device: there `feed` has checked the batch."""
    integer(op, argument, x)
    if not hasattr(x, "__array_interface__") or not x.size:
        return
    bad = (x < 0) | (x >= limit)
    if ignore is not None:
        bad &= x != ignore
    if bad.any():
        fail(op, argument, f"{int(x[bad].flat[0])} somewhere", f"in [0, {limit})", IndexError)
