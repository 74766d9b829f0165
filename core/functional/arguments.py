"""Tensors from what a caller may pass, and the checks that several functions share."""

from core import check, random
from core.arrays import as_array
from core.tensor import Tensor

REDUCTIONS = ("mean", "sum", "none")


def tensor(x):
    """Arguments may be Tensors or arrays."""
    return x if isinstance(x, Tensor) or x is None else Tensor(x)


def data(x):
    return x.data if isinstance(x, Tensor) else x


def bias_of(op, b, n):
    """A bias is a vector of the result's channels."""
    if b is not None:
        check.matches(op, "b", b.shape, (n,))


def dropout_of(op, x, p, mask, argument="dropout_p"):
    """(mask or None, step or None, key) for an operation that drops elements of x."""
    check.probability(op, argument, p)
    check.floating(op, x=x.data)
    check.no_gradient(op, "mask", mask)
    if mask is not None:
        mask = as_array(data(mask))
        if mask.dtype != bool:
            check.fail(op, "mask", f"of dtype {mask.dtype}", "boolean", TypeError)
        check.matches(op, "mask", mask.shape, x.shape)
    return random.dropout_draw(x.shape, p, mask)
