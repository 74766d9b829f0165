"""Batch norm (Ioffe & Szegedy 2015): every channel is normalised over all axes but the last. x (..., C) -> (..., C).

w is the same for all that is averaged, so that in the gradient mean(g) = w db / n and mean(g x^) = w dw / n.

# why: docs/kernels/norms.md
# next: core/reference/group_norm.py
"""

import math

from core.arrays import array_module, total
from core.engine import Op
from core.reference import random
from core.reference.normalise import affine, affine_backward, normalise, reciprocal_deviation
from core.reference.pointwise import activate, activate_backward


def _batch_norm(x, w, b, mask, step, *, eps, act, negative_slope, dropout_p, seed, draw):
    """Training: normalise by the batch, then activate, then drop. Returns (y, mean, biased variance)."""
    xhat, mean, var, rstd = normalise(x, tuple(range(x.ndim - 1)), eps)
    y, activated = activate(act, affine(xhat, w, b), negative_slope)
    y, dropped = random.dropout.forward(y, mask, step, p=dropout_p, seed=seed, draw=draw)
    return (y, mean.reshape(-1), var.reshape(-1)), (xhat, rstd, w, activated, dropped)


def _batch_norm_backward(saved, dys, needs_input_grad, *, eps, act, negative_slope, dropout_p, seed, draw):
    xhat, rstd, w, activated, dropped = saved
    dy = random.dropout.backward(dropped, dys[0], (True,), p=dropout_p, seed=seed, draw=draw)[0]
    dy = activate_backward(act, activated, dy, negative_slope)
    product = dy * xhat
    axes = tuple(range(dy.ndim - 1))
    db, dw = total(dy, axes), total(product, axes)  # (C,): w times them are the sums that dx needs too
    dx = None
    if needs_input_grad[0]:
        n = dy.size // max(dy.shape[-1], 1)
        dx = dy - db / n
        dx -= array_module(dy).multiply(xhat, dw / n, out=product)
        dx *= rstd if w is None else rstd * w
    return dx, dw if needs_input_grad[1] else None, db if needs_input_grad[2] else None, None, None


def _ranks_mean(x, group):
    """(C,) mean over all axes but the last and over the ranks, summed in float64."""
    xp = array_module(x)
    mean = x.sum(axis=tuple(range(x.ndim - 1)), dtype=xp.float64)
    group.sum_(mean)
    return mean / (group.size * max(math.prod(x.shape[:-1]), 1))


def _sync_batch_norm(x, w, b, mask, step, *, eps, act, negative_slope, dropout_p, seed, draw, group):
    """The same over the x of all ranks of `group`, each with its own: a mean over the batch is one over all ranks."""
    mean = _ranks_mean(x, group)
    xhat = x - mean.astype(x.dtype)
    var = _ranks_mean(xhat * xhat, group)
    rstd = reciprocal_deviation(var, eps).astype(x.dtype)
    xhat *= rstd
    y, activated = activate(act, affine(xhat, w, b), negative_slope)
    y, dropped = random.dropout.forward(y, mask, step, p=dropout_p, seed=seed, draw=draw)
    return (y, mean.astype(x.dtype), var.astype(x.dtype)), (xhat, rstd, w, activated, dropped)


def _sync_batch_norm_backward(saved, dys, needs_input_grad, *, eps, act, negative_slope, dropout_p, seed, draw, group):
    """dw and db are this rank's own: they are summed with all other gradients."""
    xhat, rstd, w, activated, dropped = saved
    dy = random.dropout.backward(dropped, dys[0], (True,), p=dropout_p, seed=seed, draw=draw)[0]
    g, dw, db = affine_backward(xhat, w, activate_backward(act, activated, dy, negative_slope), needs_input_grad[1:3])
    dx = g - _ranks_mean(g, group).astype(g.dtype)
    dx -= xhat * _ranks_mean(g * xhat, group).astype(g.dtype)
    dx *= rstd
    return dx, dw, db, None, None


def _batch_norm_eval(x, mean, var, w, b, *, eps, act, negative_slope):
    rstd = reciprocal_deviation(var, eps)
    xhat = (x - mean) * rstd
    y, activated = activate(act, affine(xhat, w, b), negative_slope)
    return y, (xhat, rstd, w, activated)


def _batch_norm_eval_backward(saved, dy, needs_input_grad, *, eps, act, negative_slope):
    xhat, rstd, w, activated = saved
    dy = activate_backward(act, activated, dy, negative_slope)
    g, dw, db = affine_backward(xhat, w, dy, needs_input_grad[3:])
    return g * rstd if needs_input_grad[0] else None, None, None, dw, db


def running_stats_(running_mean, running_var, mean, var, *, momentum, count):
    """Move the running statistics by `momentum` towards the batch's; the variance kept is the unbiased one."""
    for running, now in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
        running *= 1 - momentum
        running += now.astype(running.dtype) * momentum


batch_norm = Op("batch_norm", _batch_norm, _batch_norm_backward)
sync_batch_norm = Op("sync_batch_norm", _sync_batch_norm, _sync_batch_norm_backward)
batch_norm_eval = Op("batch_norm_eval", _batch_norm_eval, _batch_norm_eval_backward)
