"""Joining, cutting, repeating, enlarging and looking up; matrix products."""

from core import check
from core.dispatch import run
from core.functional.arguments import activation, bias_of, optional, tensor


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


def upsample_nearest(x, scale=2):
    """Each pixel as a block of `scale` equal ones: x (N, H, W, C) -> (N, scale H, scale W, C); an integer or a pair."""
    op = "upsample_nearest"
    x = tensor(op, "x", x)
    check.floating(op, x=x.data)
    check.shaped(op, "x", x, 4, "(N, H, W, C)")
    return run(op, x, scale=check.pair(op, "scale", scale, 1))


def matmul(x, y):
    """Matrix product with NumPy's rules for vectors and batches."""
    return run("matmul", x, y)


def linear(x, w, b=None, *, act=None):
    """act(x @ w.T + b): x (..., in), w (out, in), b (out,) -> (..., out). `act`: see ACTIVATIONS."""
    op = "linear"
    x, w, b = tensor(op, "x", x), tensor(op, "w", w), optional(op, "b", b)
    check.floating(op, x=x.data, w=w.data, b=b.data if b is not None else None)
    check.shaped(op, "w", w, 2, "(out, in)")
    if not x.ndim or x.shape[-1] != w.shape[1]:
        check.fail(op, "x", f"of shape {x.shape}", f"(..., {w.shape[1]}) to match w {w.shape}")
    bias_of(op, b, w.shape[0])
    return run(op, x, w, b, **activation(op, act, 0.01))


def embedding(ids, w):
    """Rows of a table: ids (...) integers in [0, V), w (V, D) -> (..., D)."""
    ids, w = tensor("embedding", "ids", ids), tensor("embedding", "w", w)
    check.shaped("embedding", "w", w, 2, "(V, D)")
    check.floating("embedding", w=w.data)
    check.ids("embedding", "ids", ids.data, w.shape[0])
    return run("embedding", ids, w)


def timestep_embedding(t, dim, *, max_period=10000.0):
    """Cosines, then sines of t at dim / 2 wavelengths from 2 pi to 2 pi max_period: t (N,) numbers -> (N, dim)."""
    op = "timestep_embedding"
    t = tensor(op, "t", t)
    if t.dtype == bool:
        check.fail(op, "t", "boolean", "integer or floating", TypeError)
    check.shaped(op, "t", t, 1, "(N,)")
    check.count(op, "dim", dim, 2)
    if dim % 2:
        check.fail(op, "dim", dim, "even: half are cosines, half sines")
    check.number(op, "max_period", max_period, 1)
    return run(op, t, dim=int(dim), max_period=float(max_period))
