"""Tensors from what a caller may pass, and the checks that several functions share."""

from core import check, random
from core.arrays import as_array
from core.engine import Tensor
from core.reference.pointwise import ACTIVATIONS

REDUCTIONS = ("mean", "sum", "none")


def tensor(op, argument, x):
    """Arguments may be Tensors or arrays."""
    if isinstance(x, Tensor):
        return x
    if x is None:
        check.fail(op, argument, "None", "a Tensor or an array", TypeError)
    return Tensor(as_array(x, f"{op}: {argument}"))


def optional(op, argument, x):
    return None if x is None else tensor(op, argument, x)


def fixed(op, argument, x, dtype=None):
    """The array of an argument that gets no gradient, or None; a mask's `dtype` is bool."""
    if x is None:
        return None
    check.no_gradient(op, argument, x)
    x = tensor(op, argument, x).data
    if dtype is not None and x.dtype != dtype:
        check.fail(op, argument, f"of dtype {x.dtype}", "boolean", TypeError)
    return x


def bias_of(op, b, n):
    """A bias is a vector of the result's channels."""
    if b is not None:
        check.matches(op, "b", b.shape, (n,))


def activation(op, act, negative_slope):
    """The options of a fused activation."""
    check.one_of(op, "act", act, ACTIVATIONS)
    check.number(op, "negative_slope", negative_slope)
    return {"act": act, "negative_slope": negative_slope}


def dropout_of(op, x, p, mask, argument="dropout_p"):
    """(mask or None, step or None, key) for an operation that drops elements of x."""
    check.probability(op, argument, p)
    check.floating(op, x=x.data)
    mask = fixed(op, "mask", mask, bool)
    if mask is not None:
        check.matches(op, "mask", mask.shape, x.shape)
    return random.dropout_draw(x.shape, p, mask)


def norm_arguments(op, x, w, b, eps, names=("w", "b")):
    """x (..., D), and w and b (D,) or None, which `names` name."""
    x, w, b = tensor(op, "x", x), optional(op, names[0], w), optional(op, names[1], b)
    check.floating(op, x=x.data)
    check.last(op, "x", x, "(..., D)")
    check.number(op, "eps", eps, 0)
    for name, v in zip(names, (w, b)):
        if v is not None:
            check.floating(op, **{name: v.data})
            check.matches(op, name, v.shape, x.shape[-1:])
    return x, w, b


def gaussian(op, mu, logvar):
    """Two tensors of one shape."""
    mu, logvar = tensor(op, "mu", mu), tensor(op, "logvar", logvar)
    check.floating(op, mu=mu.data, logvar=logvar.data)
    check.matches(op, "logvar", logvar.shape, mu.shape)
    return mu, logvar
