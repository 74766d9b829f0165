"""Normalisation: layer norm (Ba et al. 2016) over the last axis, batch norm (Ioffe & Szegedy 2015) over all others,
group norm (Wu & He 2018) over all but the first and the channels of one group.

With x^ = (x - mean) / sqrt(var + eps) and y = x^ w + b, all have the same input gradient, the means being taken over
the axes that were normalised:

    g = dy w;   dx = rstd (g - mean(g) - x^ mean(g x^))

In batch norm w is the same for all that is averaged, so that mean(g) = w db / n and mean(g x^) = w dw / n.
The variance always comes from centred values, never from E[x^2] - E[x]^2, which cancels.

# why: docs/kernels/norms.md
# next: core/reference/losses.py
"""

import math

from core.arrays import array_module, total
from core.engine import Op
from core.reference import random
from core.reference.pointwise import activate, activate_backward


def _mean(x, axes):
    n = 1
    for a in axes:
        n *= x.shape[a]
    return total(x, axes, keepdims=True) / array_module(x).asarray(n, x.dtype)


def _rstd(var, eps):
    """1 / sqrt(var + eps), rounded once: what is off here is off in a whole row or channel."""
    xp = array_module(var)
    return (1 / xp.sqrt(var.astype(xp.float64) + eps)).astype(var.dtype)


def _normalise(x, axes, eps):
    """(x^, mean, var, rstd) over `axes`, all with those axes kept as ones."""
    mean = _mean(x, axes)
    centred = x - mean
    var = _mean(centred * centred, axes)
    rstd = _rstd(var, eps)
    centred *= rstd
    return centred, mean, var, rstd


def _affine(xhat, w, b):
    y = xhat.copy() if w is None else xhat * w
    if b is not None:
        y += b
    return y


def _normalise_backward(g, xhat, rstd, axes):
    dx = g - _mean(g, axes)
    dx -= xhat * _mean(g * xhat, axes)
    dx *= rstd
    return dx


def _affine_backward(xhat, w, dy, needs):
    """(gradient of x^, dw, db), for weights over the last axis."""
    leading = tuple(range(dy.ndim - 1))
    dw = total(dy * xhat, leading) if needs[0] else None
    db = total(dy, leading) if needs[1] else None
    return dy if w is None else dy * w, dw, db


# --- layer norm ----------------------------------------


def _layer_norm(x, w, b, *, eps):
    xhat, _, _, rstd = _normalise(x, (x.ndim - 1,), eps)
    return _affine(xhat, w, b), (xhat, rstd, w)


def _layer_norm_backward(saved, dy, needs, *, eps):
    xhat, rstd, w = saved
    g, dw, db = _affine_backward(xhat, w, dy, needs[1:])
    return _normalise_backward(g, xhat, rstd, (dy.ndim - 1,)) if needs[0] else None, dw, db


def _add_layer_norm(x, residual, w, b, mask, step, *, eps, dropout_p, seed, draw):
    """r = residual + dropout(x);  (layer_norm(r), r): what every pre-norm block does between two branches."""
    x, dropped = random.dropout.forward(x, mask, step, p=dropout_p, seed=seed, draw=draw)
    r = x + residual
    y, normed = _layer_norm(r, w, b, eps=eps)
    return (y, r), (dropped, normed)


def _add_layer_norm_backward(saved, dys, needs, *, eps, dropout_p, seed, draw):
    (dropped, normed), (dy, dr) = saved, dys
    g, dw, db = (None, None, None)
    if dy is not None:
        g, dw, db = _layer_norm_backward(normed, dy, (True, *needs[2:4]), eps=eps)
        dr = g if dr is None else g + dr
    dx = random.dropout.backward(dropped, dr, (needs[0],), p=dropout_p, seed=seed, draw=draw)[0]
    return dx, dr, dw, db, None, None


# --- group norm ----------------------------------------


def _grouped(x, groups):
    """x (N, ..., C) as (N, P, G, C / G), P pixels."""
    channels = x.shape[-1]
    return x.reshape(len(x), math.prod(x.shape[1:-1]), groups, channels // groups)


def _group_norm(x, w, b, *, num_groups, eps, act):
    """Normalise each image and group of channels over pixels and channels, then activate."""
    xhat, _, _, rstd = _normalise(_grouped(x, num_groups), (1, 3), eps)
    xhat = xhat.reshape(x.shape)
    y, activated = activate(act, _affine(xhat, w, b))
    return y, (xhat, rstd, w, activated)


def _group_norm_backward(saved, dy, needs, *, num_groups, eps, act):
    xhat, rstd, w, activated = saved
    g, dw, db = _affine_backward(xhat, w, activate_backward(act, activated, dy), needs[1:])
    dx = None
    if needs[0]:
        dx = _normalise_backward(_grouped(g, num_groups), _grouped(xhat, num_groups), rstd, (1, 3)).reshape(dy.shape)
    return dx, dw, db


# --- batch norm ----------------------------------------


def _batch_norm(x, w, b, mask, step, *, eps, act, negative_slope, dropout_p, seed, draw):
    """Training: normalise by the batch, then activate, then drop. Returns (y, mean, biased variance)."""
    xhat, mean, var, rstd = _normalise(x, tuple(range(x.ndim - 1)), eps)
    y, activated = activate(act, _affine(xhat, w, b), negative_slope)
    y, dropped = random.dropout.forward(y, mask, step, p=dropout_p, seed=seed, draw=draw)
    return (y, mean.reshape(-1), var.reshape(-1)), (xhat, rstd, w, activated, dropped)


def _batch_norm_backward(saved, dys, needs, *, eps, act, negative_slope, dropout_p, seed, draw):
    xhat, rstd, w, activated, dropped = saved
    dy = random.dropout.backward(dropped, dys[0], (True,), p=dropout_p, seed=seed, draw=draw)[0]
    dy = activate_backward(act, activated, dy, negative_slope)
    product = dy * xhat
    axes = tuple(range(dy.ndim - 1))
    db, dw = total(dy, axes), total(product, axes)  # (C,): w times them are the sums that dx needs too
    dx = None
    if needs[0]:
        n = dy.size // max(dy.shape[-1], 1)
        dx = dy - db / n
        dx -= array_module(dy).multiply(xhat, dw / n, out=product)
        dx *= rstd if w is None else rstd * w
    return dx, dw if needs[1] else None, db if needs[2] else None, None, None


# The same over the x of all ranks of `world`, each with its own: what is a mean over the batch is one over all ranks.


def _ranks_mean(x, world):
    """(C,) mean over all axes but the last and over the ranks, summed in float64."""
    xp = array_module(x)
    mean = x.sum(axis=tuple(range(x.ndim - 1)), dtype=xp.float64)
    world.sum_(mean)
    return mean / (world.size * max(math.prod(x.shape[:-1]), 1))


def _sync_batch_norm(x, w, b, mask, step, *, eps, act, negative_slope, dropout_p, seed, draw, world):
    mean = _ranks_mean(x, world)
    xhat = x - mean.astype(x.dtype)
    var = _ranks_mean(xhat * xhat, world)
    rstd = _rstd(var, eps).astype(x.dtype)
    xhat *= rstd
    y, activated = activate(act, _affine(xhat, w, b), negative_slope)
    y, dropped = random.dropout.forward(y, mask, step, p=dropout_p, seed=seed, draw=draw)
    return (y, mean.astype(x.dtype), var.astype(x.dtype)), (xhat, rstd, w, activated, dropped)


def _sync_batch_norm_backward(saved, dys, needs, *, eps, act, negative_slope, dropout_p, seed, draw, world):
    """dw and db are this rank's own: they are summed with all other gradients."""
    xhat, rstd, w, activated, dropped = saved
    dy = random.dropout.backward(dropped, dys[0], (True,), p=dropout_p, seed=seed, draw=draw)[0]
    g, dw, db = _affine_backward(xhat, w, activate_backward(act, activated, dy, negative_slope), needs[1:3])
    dx = g - _ranks_mean(g, world).astype(g.dtype)
    dx -= xhat * _ranks_mean(g * xhat, world).astype(g.dtype)
    dx *= rstd
    return dx, dw, db, None, None


def _batch_norm_eval(x, mean, var, w, b, *, eps, act, negative_slope):
    rstd = _rstd(var, eps)
    xhat = (x - mean) * rstd
    y, activated = activate(act, _affine(xhat, w, b), negative_slope)
    return y, (xhat, rstd, w, activated)


def _batch_norm_eval_backward(saved, dy, needs, *, eps, act, negative_slope):
    xhat, rstd, w, activated = saved
    dy = activate_backward(act, activated, dy, negative_slope)
    g, dw, db = _affine_backward(xhat, w, dy, needs[3:])
    return g * rstd if needs[0] else None, None, None, dw, db


def running_stats_(running_mean, running_var, mean, var, *, momentum, count):
    """Move the running statistics by `momentum` towards the batch's; the variance kept is the unbiased one."""
    for running, now in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
        running *= 1 - momentum
        running += now.astype(running.dtype) * momentum


layer_norm = Op("layer_norm", _layer_norm, _layer_norm_backward)
add_layer_norm = Op("add_layer_norm", _add_layer_norm, _add_layer_norm_backward)
group_norm = Op("group_norm", _group_norm, _group_norm_backward)
batch_norm = Op("batch_norm", _batch_norm, _batch_norm_backward)
sync_batch_norm = Op("sync_batch_norm", _sync_batch_norm, _sync_batch_norm_backward)
batch_norm_eval = Op("batch_norm_eval", _batch_norm_eval, _batch_norm_eval_backward)
