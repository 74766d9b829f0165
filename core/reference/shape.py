"""Operations that move numbers and compute none: reshape, transpose, indexing, joining, splitting, another dtype.

The gradient of each is the reverse move.

# why: docs/kernels/others.md
"""

import numpy as np

from core.arrays import array_module, unbroadcast
from core.engine import Op


def _reshape(x, *, shape):
    try:
        return x.reshape(shape), (x.shape,)
    except ValueError:
        raise ValueError(f"reshape: shape is {shape}, should hold the {x.size} elements of {x.shape}") from None


def _transpose(x, *, axes):
    if sorted(a + x.ndim if a < 0 else a for a in axes) != list(range(x.ndim)):
        raise ValueError(f"transpose: axes is {axes}, should be a permutation of {tuple(range(x.ndim))}")
    return x.transpose(axes), ()


def _transpose_backward(saved, dy, needs_input_grad, *, axes):
    return (dy.transpose(tuple(int(i) for i in np.argsort([a % dy.ndim for a in axes]))),)


def _broadcast_to(x, *, shape):
    xp = array_module(x)
    try:
        return xp.broadcast_to(x, shape), (x.shape,)
    except ValueError:
        raise ValueError(f"broadcast_to: shape is {shape}, should be one that {x.shape} broadcasts to") from None


def _getitem(x, *, index):
    try:
        return array_module(x).asarray(x[index]), (x.shape,)
    except IndexError as error:
        raise IndexError(f"getitem: index {index} does not fit shape {x.shape}: {error}") from None


def _getitem_backward(saved, dy, needs_input_grad, *, index):
    (shape,), xp = saved, array_module(dy)
    dx = xp.zeros(shape, dy.dtype)
    if all(isinstance(i, int | slice | type(None) | type(Ellipsis)) for i in index):
        dx[index] = dy  # basic indexing names each element at most once
    else:
        xp.add.at(dx, index, dy)
    return (dx,)


def _concatenate(*xs, axis):
    try:
        y = array_module(*xs).concatenate(xs, axis=axis)
    except ValueError:
        raise ValueError(f"concatenate: shapes {[x.shape for x in xs]} do not join along axis {axis}") from None
    return y, (tuple(x.shape[axis] for x in xs),)


def _concatenate_backward(saved, dy, needs_input_grad, *, axis):
    return tuple(_parts(dy, saved[0], axis))


def _split(x, *, sizes, axis):
    if sum(sizes) != x.shape[axis]:
        raise ValueError(f"split: sizes is {sizes}, should add up to {x.shape[axis]}, the length of axis {axis}")
    return tuple(_parts(x, sizes, axis)), (x.shape, sizes)


def _split_backward(saved, dys, needs_input_grad, *, sizes, axis):
    shape, sizes = saved
    known = next(d for d in dys if d is not None)
    xp = array_module(known)
    dx = xp.zeros(shape, known.dtype)
    for part, d in zip(_parts(dx, sizes, axis), dys):
        if d is not None:
            part[...] = d
    return (dx,)


def _parts(x, sizes, axis):
    """Views of `x` cut along `axis` into pieces of the given sizes."""
    start, lead = 0, (slice(None),) * (axis % x.ndim)
    for size in sizes:
        yield x[(*lead, slice(start, start + size))]
        start += size


MOVES = {
    "reshape": Op("reshape", _reshape, lambda saved, dy, needs_input_grad, shape: (dy.reshape(saved[0]),)),
    "transpose": Op("transpose", _transpose, _transpose_backward),
    "broadcast_to": Op(
        "broadcast_to", _broadcast_to, lambda saved, dy, needs_input_grad, shape: (unbroadcast(dy, saved[0]),)
    ),
    "getitem": Op("getitem", _getitem, _getitem_backward),
    "concatenate": Op("concatenate", _concatenate, _concatenate_backward),
    "split": Op("split", _split, _split_backward),
    "astype": Op(
        "astype",
        lambda x, dtype: (x.astype(dtype), (x.dtype,)),
        lambda saved, dy, needs_input_grad, dtype: (dy.astype(saved[0]),),
    ),
}
