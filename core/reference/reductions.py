"""Sums, means, maxima and minima over axes. A sum's gradient is broadcast; ties share a maximum's gradient.

# why: docs/kernels/others.md
"""

import numpy as np

from core.arrays import array_module, total
from core.engine import Op


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


def _sum_backward(saved, dy, needs_input_grad, *, axis, keepdims):
    shape, axes = saved
    return (array_module(dy).broadcast_to(_keep(dy, shape, axes), shape),)


def _count(shape, axes):
    return int(np.prod([shape[a] for a in axes]))


def _mean(x, *, axis, keepdims):
    y, (shape, axes) = _sum(x, axis=axis, keepdims=keepdims)
    xp = array_module(x)
    dtype = y.dtype if y.dtype.kind == "f" else np.float32
    return xp.asarray(y / xp.asarray(_count(shape, axes), dtype)).astype(dtype), (shape, axes)


def _mean_backward(saved, dy, needs_input_grad, *, axis, keepdims):
    shape, axes = saved
    return _sum_backward(saved, dy / max(_count(shape, axes), 1), needs_input_grad, axis=axis, keepdims=keepdims)


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

    def backward(saved, dy, needs_input_grad, *, axis, keepdims):
        winners, axes = saved  # ties share the gradient equally, as torch's amax
        return (_keep(dy, winners.shape, axes) * winners / winners.sum(axis=axes, keepdims=True).astype(dy.dtype),)

    return Op(name, forward, backward)


REDUCTIONS = {
    "sum": Op("sum", _sum, _sum_backward),
    "mean": Op("mean", _mean, _mean_backward),
    "max": _extreme("max"),
    "min": _extreme("min"),
}
