"""Optimiser steps, in place on the parameters and moments they are given, with PyTorch's semantics.

lr and step are 0-dimensional arrays on the device, so that a captured step reads new values when it is replayed.

    Adam (Kingma & Ba 2015):   m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g^2
                               p -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)
    AdamW (Loshchilov & Hutter 2019) shrinks p by lr * decay first; Adam adds decay * p to g.

`taken`, where it is given, is a flag on the device as well: at 0 every bit stays as it was. Nothing branches on it, and
nothing is multiplied by it either (nan times 0 is nan, and a 0 subtracted may turn -0 into 0): it selects.

# why: docs/kernels/others.md
"""

from core.arrays import array_module


def _before(taken, *state):
    """What a step that is not taken has to put back."""
    return [] if taken is None else [(a, a.copy()) for a in state]


def _select(taken, before):
    for a, old in before:
        a[...] = array_module(a).where(taken != 0, a, old)


def adam_(params, grads, ms, vs, lr, step, taken=None, *, betas, eps, weight_decay, decoupled):
    """One step on lists of parameters; `step` counts this one already. Where a gradient is None nothing moves."""
    b1, b2 = betas
    for p, g, m, v in zip(params, grads, ms, vs):
        if g is None:
            continue
        xp = array_module(p)
        dtype = m.dtype.type
        rate = (lr / (1 - b1**step)).astype(dtype)
        root = xp.sqrt(1 - b2**step).astype(dtype)
        before = _before(taken, p, m, v)
        if weight_decay and decoupled:
            p *= (1 - lr * weight_decay).astype(dtype)
        elif weight_decay:
            g = g + weight_decay * p
        m += (g - m) * dtype(1 - b1)
        v *= dtype(b2)
        v += g * g * dtype(1 - b2)
        p -= rate * m / (xp.sqrt(v) / root + dtype(eps))
        _select(taken, before)


def sgd_(params, grads, buffers, lr, taken=None, *, momentum, weight_decay, nesterov):
    """One step of gradient descent; buffers that start at zero make the first step's momentum g itself, as in torch."""
    for p, g, b in zip(params, grads, buffers):
        if g is None:
            continue
        before = _before(taken, p, b)
        if weight_decay:
            g = g + weight_decay * p
        if momentum:
            b *= momentum
            b += g
            g = g + momentum * b if nesterov else b
        p -= lr.astype(p.dtype) * g
        _select(taken, before)


def ema_(averages, params, taken=None, *, decay):
    """Moving averages of parameters: a += (1 - decay) (p - a)."""
    for a, p in zip(averages, params):
        before = _before(taken, a)
        a += (p - a) * a.dtype.type(1 - decay)
        _select(taken, before)


def clip_grad_norm_(grads, *, max_norm):
    """Scale all gradients in place so that their joint 2-norm is at most max_norm; returns the norm before."""
    xp = array_module(*grads)
    norm = xp.sqrt(sum(xp.square(g.astype(xp.float64)).sum() for g in grads))
    factor = xp.minimum(max_norm / (norm + 1e-6), 1)
    for g in grads:
        g *= factor.astype(g.dtype)
    return norm


def unscale_(grads, scale, good, taken, *, growth, backoff, interval):
    """Divide all gradients by `scale` in place, or make them 0 where one is not finite; `taken` becomes 1, or 0.

    `good` counts the steps taken since the scale last changed: the `interval`-th multiplies it by `growth` (unless that
    overflows), one that is not taken by `backoff`.
    """
    xp = array_module(scale)
    finite = xp.asarray(True)
    for g in grads:
        g *= (1 / scale).astype(g.dtype)
        finite = finite & xp.isfinite(g).all()
    for g in grads:
        g[...] = xp.where(finite, g, 0)
    good[...] = xp.where(finite, good + 1, 0)
    grown = (good >= interval) & xp.isfinite(scale * growth)
    taken[...] = finite
    scale[...] = xp.where(finite, xp.where(grown, scale * growth, scale), scale * backoff)
    good[...] = xp.where(good >= interval, 0, good)
