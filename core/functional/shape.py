"""Joining, cutting, repeating and looking up; matrix products."""

from core import check
from core.functional.arguments import bias_of, tensor
from core.reference.pointwise import ACTIVATIONS
from core.tensor import apply


def concatenate(tensors, axis=0):
    """Join tensors along an axis they already have."""
    tensors = tuple(tensors)
    if not tensors:
        check.fail("concatenate", "tensors", "empty", "one tensor or more")
    return apply("concatenate", *tensors, axis=axis)


def split(x, sizes, axis=-1):
    """Cut x along `axis` into a tuple of tensors of the given sizes, which add up to its length."""
    return apply("split", x, sizes=tuple(sizes), axis=axis)


def broadcast_to(x, shape):
    return apply("broadcast_to", x, shape=tuple(shape))


def matmul(x, y):
    """Matrix product with NumPy's rules for vectors and batches."""
    return apply("matmul", x, y)


def linear(x, w, b=None, *, act=None):
    """act(x @ w.T + b): x (..., in), w (out, in), b (out,) -> (..., out). `act`: see ACTIVATIONS."""
    x, w, b = tensor(x), tensor(w), tensor(b)
    check.one_of("linear", "act", act, ACTIVATIONS)
    check.floating("linear", x=x.data, w=w.data, b=b.data if b is not None else None)
    check.shaped("linear", "w", w, 2, "(out, in)")
    if not x.ndim or x.shape[-1] != w.shape[1]:
        check.fail("linear", "x", f"of shape {x.shape}", f"(..., {w.shape[1]}) to match w {w.shape}")
    bias_of("linear", b, w.shape[0])
    return apply("linear", x, w, b, act=act, negative_slope=0.01)


def embedding(ids, w):
    """Rows of a table: ids (...) integers in [0, V), w (V, D) -> (..., D)."""
    ids, w = tensor(ids), tensor(w)
    check.shaped("embedding", "w", w, 2, "(V, D)")
    check.ids("embedding", "ids", ids.data, w.shape[0])
    return apply("embedding", ids, w)
