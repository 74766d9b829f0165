"""Layer norm (Ba et al. 2016): every row is normalised over the last axis. x (..., D), w and b (D,) or None.

`add_layer_norm` gives the sum of two branches, one of which may have been dropped, and that sum normalised.

# why: docs/kernels/norms.md
# next: core/reference/batch_norm.py
"""

from core.engine import Op
from core.reference import random
from core.reference.normalise import affine, affine_backward, normalise, normalise_backward


def _layer_norm(x, w, b, *, eps):
    xhat, _, _, rstd = normalise(x, (x.ndim - 1,), eps)
    return affine(xhat, w, b), (xhat, rstd, w)


def _layer_norm_backward(saved, dy, needs_input_grad, *, eps):
    xhat, rstd, w = saved
    g, dw, db = affine_backward(xhat, w, dy, needs_input_grad[1:])
    return normalise_backward(g, xhat, rstd, (dy.ndim - 1,)) if needs_input_grad[0] else None, dw, db


def _add_layer_norm(x, residual, w, b, mask, step, *, eps, dropout_p, seed, draw):
    """r = residual + dropout(x);  (layer_norm(r), r): what every pre-norm block does between two branches."""
    x, dropped = random.dropout.forward(x, mask, step, p=dropout_p, seed=seed, draw=draw)
    r = x + residual
    y, normed = _layer_norm(r, w, b, eps=eps)
    return (y, r), (dropped, normed)


def _add_layer_norm_backward(saved, dys, needs_input_grad, *, eps, dropout_p, seed, draw):
    (dropped, normed), (dy, dr) = saved, dys
    g, dw, db = (None, None, None)
    if dy is not None:
        g, dw, db = _layer_norm_backward(normed, dy, (True, *needs_input_grad[2:4]), eps=eps)
        dr = g if dr is None else g + dr
    dx = random.dropout.backward(dropped, dr, (needs_input_grad[0],), p=dropout_p, seed=seed, draw=draw)[0]
    return dx, dr, dw, db, None, None


layer_norm = Op("layer_norm", _layer_norm, _layer_norm_backward)
add_layer_norm = Op("add_layer_norm", _add_layer_norm, _add_layer_norm_backward)
