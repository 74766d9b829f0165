"""Matrix products: matmul with NumPy's batching rules, and linear with its bias and activation.

# why: docs/kernels/others.md
"""

import math

from core.arrays import array_module, total, unbroadcast
from core.engine import Op
from core.reference.pointwise import activate, activate_backward


def _matmul(x, y):
    if not x.ndim or not y.ndim or x.shape[-1] != y.shape[-min(y.ndim, 2)]:
        raise ValueError(f"matmul: shapes {x.shape} and {y.shape} do not multiply: the inner lengths differ")
    try:
        return array_module(x).asarray(x @ y), (x, y)
    except ValueError:
        raise ValueError(
            f"matmul: shapes {x.shape} and {y.shape} do not multiply: the batches do not broadcast"
        ) from None


def _matmul_backward(saved, dy, needs_input_grad):
    x, y = saved
    a, b = x.reshape(1, -1) if x.ndim == 1 else x, y.reshape(-1, 1) if y.ndim == 1 else y  # vectors as matrices
    if x.ndim == 1:
        dy = dy[..., None, :] if y.ndim > 1 else dy[..., None]
    if y.ndim == 1:
        dy = dy[..., None]
    dx = unbroadcast(dy @ b.swapaxes(-1, -2), a.shape).reshape(x.shape) if needs_input_grad[0] else None
    dy = unbroadcast(a.swapaxes(-1, -2) @ dy, b.shape).reshape(y.shape) if needs_input_grad[1] else None
    return dx, dy


def _linear(x, w, b, *, act, negative_slope):
    y = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ w.T  # (rows, in) @ (in, out)
    if b is not None:
        y += b
    y, activated = activate(act, y.reshape(*x.shape[:-1], len(w)), negative_slope)
    return y, (x, w, activated)


def _linear_backward(saved, dy, needs_input_grad, *, act, negative_slope):
    x, w, activated = saved
    dy = activate_backward(act, activated, dy, negative_slope)
    rows = math.prod(x.shape[:-1])
    dy = dy.reshape(rows, len(w))
    dx = (dy @ w).reshape(x.shape) if needs_input_grad[0] else None
    dw = dy.T @ x.reshape(rows, x.shape[-1]) if needs_input_grad[1] else None
    return dx, dw, total(dy, 0) if needs_input_grad[2] else None  # (..., in), (out, in), (out,)


matmul = Op("matmul", _matmul, _matmul_backward)
linear = Op("linear", _linear, _linear_backward)
