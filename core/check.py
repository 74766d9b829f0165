"""Errors that name the operation, the argument, what it was and what it should be."""

import numpy as np

from core.arrays import INTEGERS, NUMBERS, is_float

SHOWN = 200  # characters of a wrong value in a message
MOST = float(np.finfo(np.float32).max)  # the largest number that an option can be
LARGE = 2**31  # no size or count of ours reaches it, and kernels hold them in 64 bits


def fail(op, argument, was, should, error=ValueError):
    raise error(f"{op}: {argument} is {was}, should be {should}")


def shown(value) -> str:
    """`value`, or what an exception says, as a message can hold it: one line, and not a long one."""
    line = " ".join((str if isinstance(value, Exception) else repr)(value).split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."


def shaped(op, argument, x, ndim, letters):
    """`x` has `ndim` dimensions; `letters` say which, as "(N, H, W, C)"."""
    if x.ndim != ndim:
        fail(op, argument, f"of shape {x.shape}", f"{ndim}-dimensional, {letters}")


def last(op, argument, x, letters):
    """The length of the last axis, which there must be; `letters` say what it is, as "(..., D)"."""
    if not x.ndim:
        fail(op, argument, "0-dimensional", letters)
    return x.shape[-1]


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
    if not isinstance(value, str | None) or value not in choices:
        fail(op, argument, shown(value), f"one of {', '.join(repr(c) for c in choices)}")


def flag(op, argument, value):
    if not isinstance(value, bool | np.bool_):
        fail(op, argument, shown(value), "True or False", TypeError)


def real_dtype(op, argument, value, kinds="fiub"):
    """What NumPy calls a dtype, of real numbers."""
    try:
        dtype = np.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or value is None or dtype.kind not in kinds:
        fail(
            op, argument, shown(value), f"a {'floating dtype' if kinds == 'f' else 'dtype of real numbers'}", TypeError
        )
    return dtype


def mapping(op, argument, value):
    if not isinstance(value, dict):
        fail(op, argument, f"a {type(value).__name__}", "a dict of arrays", TypeError)


def shape(op, value):
    """A shape: an integer, or a tuple of them."""
    return sizes(op, "shape", (value,) if isinstance(value, INTEGERS) else value)


# --- numbers ----------------------------------------


def number(op, argument, x, low=-MOST, high=MOST, without_high=False):
    """A number in [low, high], or in [low, high)."""
    if not isinstance(x, NUMBERS) or isinstance(x, bool) or not low <= x <= high or (without_high and x == high):
        bounds = f"in [{low}, {high}{')' if without_high else ']'}" if high < MOST else f"of at least {low}, and finite"
        fail(op, argument, shown(x), f"a number {bounds}" if low > -MOST else "a finite number that float32 can hold")


def probability(op, argument, p):
    number(op, argument, p, 0, 1)


def integer_in(op, argument, value, low, high):
    """An integer in [low, high)."""
    if not isinstance(value, INTEGERS) or isinstance(value, bool) or not low <= value < high:
        fail(op, argument, shown(value), f"an integer in [{low}, {high})")


def count(op, argument, value, least=1, most=LARGE - 1):
    """How many of something, or how large: an integer from `least` to what 32 bits hold, unless told otherwise."""
    if not isinstance(value, INTEGERS) or isinstance(value, bool) or not least <= value <= most:
        fail(op, argument, shown(value), f"an integer >= {least} (and at most {most})")


def axis(op, x, value):
    """One axis of x."""
    if not isinstance(value, INTEGERS) or isinstance(value, bool) or not -x.ndim <= value < x.ndim:
        fail(op, "axis", shown(value), f"in [{-x.ndim}, {x.ndim}) for shape {x.shape}")
    return int(value)


def axes(op, x, value):
    """None, an axis or a tuple of different ones, as None or a tuple."""
    if value is None:
        return None
    found = tuple(axis(op, x, a) for a in (value if isinstance(value, tuple | list) else (value,)))
    if len({a % x.ndim for a in found}) < len(found):
        fail(op, "axis", shown(value), "different axes")
    return found


def pair(op, argument, value, least):
    """An integer or a pair of integers, each at least `least`, as a pair."""
    both = (value, value) if isinstance(value, INTEGERS) else value
    good = isinstance(both, tuple | list) and len(both) == 2
    if not good or not all(isinstance(v, INTEGERS) and not isinstance(v, bool) and least <= v < LARGE for v in both):
        fail(op, argument, shown(value), f"an integer >= {least} or a pair of them (each below 2^31)")
    return int(both[0]), int(both[1])


def sizes(op, argument, value, least=0):
    """A tuple of integers, each at least `least`."""
    if not isinstance(value, tuple | list) or not all(isinstance(v, INTEGERS) and v >= least for v in value):
        fail(op, argument, shown(value), f"a tuple of integers, each at least {least}")
    return tuple(map(int, value))


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
