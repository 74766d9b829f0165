"""Joining, cutting and repeating."""

from core import check
from core.dispatch import run
from core.functional.arguments import tensor


def concatenate(tensors, axis=0):
    """Join tensors along an axis they already have."""
    if not isinstance(tensors, tuple | list) or not tensors:
        was = "empty" if isinstance(tensors, tuple | list) else check.shown(tensors)
        check.fail(
            "concatenate", "tensors", was, "a list of one tensor or more", TypeError if was != "empty" else ValueError
        )
    tensors = [tensor("concatenate", f"tensors[{i}]", x) for i, x in enumerate(tensors)]
    return run("concatenate", *tensors, axis=check.axis("concatenate", tensors[0], axis))


def split(x, sizes, axis=-1):
    """Cut x along `axis` into a tuple of tensors of the given sizes, which add up to its length."""
    x = tensor("split", "x", x)
    return run("split", x, sizes=check.sizes("split", "sizes", sizes), axis=check.axis("split", x, axis))


def broadcast_to(x, shape):
    """x repeated along axes of length 1 and along new ones in front, as NumPy broadcasts."""
    return run("broadcast_to", x, shape=check.sizes("broadcast_to", "shape", shape))
