"""Softmax and its logarithm along an axis, the largest element taken off first so that no exponential overflows.

# why: docs/kernels/losses.md
# next: core/reference/cross_entropy.py
"""

from core.arrays import array_module
from core.engine import Op


def _softmax(x, *, axis):
    if not x.size:
        return x.copy(), (x,)
    y = array_module(x).exp(x - x.max(axis, keepdims=True))
    y /= y.sum(axis, keepdims=True)
    return y, (y,)


def _softmax_backward(saved, dy, needs_input_grad, *, axis):
    (y,) = saved
    return (y * (dy - (dy * y).sum(axis, keepdims=True)),)


def _log_softmax(x, *, axis):
    if not x.size:
        return x.copy(), (x,)
    y = x - x.max(axis, keepdims=True)
    y -= array_module(x).log(array_module(x).exp(y).sum(axis, keepdims=True))
    return y, (y,)


def _log_softmax_backward(saved, dy, needs_input_grad, *, axis):
    (y,) = saved
    return (dy - array_module(y).exp(y) * dy.sum(axis, keepdims=True),)


softmax = Op("softmax", _softmax, _softmax_backward)
log_softmax = Op("log_softmax", _log_softmax, _log_softmax_backward)
