"""Operations that move or add up numbers: reshape, transpose, indexing, joining, splitting, reductions, enlarging,
embedding.

# why: docs/kernels/others.md
"""

import numpy as np

from core.arrays import array_module, is_cupy, total, unbroadcast
from core.engine import Op

# --- moves: the gradient is the reverse move ----------------------------------------


def _reshape(x, *, shape):
    try:
        return x.reshape(shape), (x.shape,)
    except ValueError:
        raise ValueError(f"reshape: shape is {shape}, should hold the {x.size} elements of {x.shape}") from None


def _transpose(x, *, axes):
    if sorted(a + x.ndim if a < 0 else a for a in axes) != list(range(x.ndim)):
        raise ValueError(f"transpose: axes is {axes}, should be a permutation of {tuple(range(x.ndim))}")
    return x.transpose(axes), ()


def _transpose_backward(saved, dy, needs, *, axes):
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


def _getitem_backward(saved, dy, needs, *, index):
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


def _concatenate_backward(saved, dy, needs, *, axis):
    return tuple(_parts(dy, saved[0], axis))


def _split(x, *, sizes, axis):
    if sum(sizes) != x.shape[axis]:
        raise ValueError(f"split: sizes is {sizes}, should add up to {x.shape[axis]}, the length of axis {axis}")
    return tuple(_parts(x, sizes, axis)), (x.shape, sizes)


def _split_backward(saved, dys, needs, *, sizes, axis):
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
    "reshape": Op("reshape", _reshape, lambda saved, dy, needs, shape: (dy.reshape(saved[0]),)),
    "transpose": Op("transpose", _transpose, _transpose_backward),
    "broadcast_to": Op("broadcast_to", _broadcast_to, lambda saved, dy, needs, shape: (unbroadcast(dy, saved[0]),)),
    "getitem": Op("getitem", _getitem, _getitem_backward),
    "concatenate": Op("concatenate", _concatenate, _concatenate_backward),
    "split": Op("split", _split, _split_backward),
    "astype": Op(
        "astype", lambda x, dtype: (x.astype(dtype), (x.dtype,)), lambda saved, dy, needs, dtype: (dy.astype(saved[0]),)
    ),
}

# --- reductions ----------------------------------------


def _axes(x, axis):
    """The axes of a reduction, not negative; None is all of them."""
    return tuple(range(x.ndim)) if axis is None else tuple(a % x.ndim for a in axis)


def _keep(dy, shape, axes):
    """`dy` with the reduced axes put back as ones."""
    return dy.reshape(tuple(1 if i in axes else n for i, n in enumerate(shape)))


def _sum(x, *, axis, keepdims):
    axes = _axes(x, axis)
    y = total(x, axes, keepdims) if x.dtype.kind == "f" else x.sum(axis=axes, keepdims=keepdims)
    return array_module(x).asarray(y), (x.shape, axes)


def _sum_backward(saved, dy, needs, *, axis, keepdims):
    shape, axes = saved
    return (array_module(dy).broadcast_to(_keep(dy, shape, axes), shape),)


def _count(shape, axes):
    return int(np.prod([shape[a] for a in axes]))


def _mean(x, *, axis, keepdims):
    y, (shape, axes) = _sum(x, axis=axis, keepdims=keepdims)
    xp = array_module(x)
    dtype = y.dtype if y.dtype.kind == "f" else np.float32
    return xp.asarray(y / xp.asarray(_count(shape, axes), dtype)).astype(dtype), (shape, axes)


def _mean_backward(saved, dy, needs, *, axis, keepdims):
    shape, axes = saved
    return _sum_backward(saved, dy / max(_count(shape, axes), 1), needs, axis=axis, keepdims=keepdims)


def _extreme(name):
    def forward(x, *, axis, keepdims):
        axes = _axes(x, axis)
        for a in axes:
            if not x.shape[a]:
                raise ValueError(f"{name}: shape is {x.shape}, should not be empty along axis {a}")
        kept = getattr(x, name)(axis=axes, keepdims=True)
        winners = x == kept
        y = kept if keepdims else kept.reshape(tuple(n for i, n in enumerate(x.shape) if i not in axes))
        return array_module(x).asarray(y), (winners, axes)

    def backward(saved, dy, needs, *, axis, keepdims):
        winners, axes = saved  # ties share the gradient equally, as torch's amax
        return (_keep(dy, winners.shape, axes) * winners / winners.sum(axis=axes, keepdims=True).astype(dy.dtype),)

    return Op(name, forward, backward)


REDUCTIONS = {
    "sum": Op("sum", _sum, _sum_backward),
    "mean": Op("mean", _mean, _mean_backward),
    "max": _extreme("max"),
    "min": _extreme("min"),
}

# --- enlarging an image: each pixel becomes a block of equal ones ----------------------------------------


def _upsample_nearest(x, *, scale):
    n, height, width, channels = x.shape
    y = array_module(x).empty((n, height, scale[0], width, scale[1], channels), x.dtype)
    y[...] = x[:, :, None, :, None]
    return y.reshape(n, height * scale[0], width * scale[1], channels), ()


def _upsample_nearest_backward(saved, dy, needs, *, scale):
    n, height, width, channels = dy.shape
    blocks = dy.reshape(n, height // scale[0], scale[0], width // scale[1], scale[1], channels)
    return (total(blocks, (2, 4)),)


upsample_nearest = Op("upsample_nearest", _upsample_nearest, _upsample_nearest_backward)

# --- embedding: rows of a table ----------------------------------------


def _embedding(ids, w):
    return w[ids], (ids, w.shape)  # (..., D)


def _embedding_backward(saved, dy, needs):
    """Rows that were used several times add up in float64: sort the ids, then sum each run.

    CuPy would take differences of a running sum for that, and one nan would reach every row that follows: there each
    row is added where it belongs, in an order that is not fixed."""
    (ids, shape), xp = saved, array_module(dy)
    flat = ids.reshape(-1)
    rows = dy.reshape(flat.size, shape[1])
    if is_cupy(dy):
        dw = xp.zeros(shape, xp.float64)
        xp.add.at(dw, flat, rows)
        return None, dw.astype(dy.dtype)
    dw = xp.zeros(shape, dy.dtype)
    if flat.size:
        order = xp.argsort(flat, kind="stable")
        used, starts = xp.unique(flat[order], return_index=True)
        dw[used] = xp.add.reduceat(rows[order], starts, axis=0, dtype=xp.float64)
    return None, dw


embedding = Op("embedding", _embedding, _embedding_backward)


def cache_(buffer, x, length):
    """Append `x` (B, h, T, d) to a key or value cache (B, h, Tmax, d) that already holds `length` tokens."""
    buffer[:, :, length : length + x.shape[2]] = x
