"""Binary cross entropy with logits, the Gaussian's divergence from the prior, and the loss of a VAE, which is both.

    bce_with_logits   l = max(x, 0) - x t + log(1 + exp(-|x|))          dx = sigmoid(x) - t
    gaussian_kl       l = (mu^2 + exp(v) - 1 - v) / 2, v = logvar        dmu = mu,  dv = (exp(v) - 1) / 2
    elbo              loss = rec + beta kl, where rec and kl are sums of the first two over the number of images

Shapes      bce x any shape, n elements; t the same shape, or one number; mu and logvar the same shape.
            elbo: recon, the logits of pixels, and x (N, ...), mu and logvar (N, Z), beta one number
Plan        a piece of the elements for each thread, one pass; the losses of BLOCK elements lie in a tile that stays in
            cache until they are added up, unless all are wanted. Backward from the inputs, a block of gradients
            and then their multiplication by dy. elbo: a loop over pixels, a loop over latents, both ways
Cost        of n float32 elements: bce 4n bytes (8n with an array of targets), backward 8n (12n); kl 8n and 16n. An
            exponential and a logarithm each decide, not memory
Precision   float32, in float64 from block to block; the logarithm of 1 + e is taken of e, which keeps its digits where
            the network is sure and right; a series those of exp(v) - 1 - v where the posterior is near the prior
Versions    added up in the loop itself, any order allowed, the compiler also rearranges the exponential's own remainder
            and loses digits: hence the tile. Keeping exp(-|x|) for the backward pass moves more than it saves
Limits      none
Source      Kingma & Welling 2014, appendix B; the stable bce is torch's

# why: docs/kernels/losses.md
# next: kernels/cpu/reparameterize.py
"""

import numpy as np

from core.engine import Op
from core.runtime.threads import share
from kernels.cpu.common import DOUBLE, PIECE, const, exp, f32, floats, inline, kernel, log_near, out, sigmoid
from kernels.cpu.lanes import LANES, add_product, added_up, fill, load_part

BLOCK = 1024  # elements that stay in cache from one loop to the next; so many losses are added up in float32
GRAIN = 1 << 16  # elements below which a second thread costs more than it brings


@inline
def sum_of(x):
    total = fill(f32(0))
    for c in range(0, x.size, LANES):
        total = add_product(total, f32(1), load_part(x, c, x.size - c, f32(0)))
    return added_up(total)


@inline
def multiply(y, scale):
    """y *= scale, which has an element for each of y, or one for all."""
    if scale.size == y.size:
        for i in range(y.size):
            y[i] *= scale[i]
    else:
        for i in range(y.size):
            y[i] *= scale[0]


# --- binary cross entropy ----------------------------------------


@inline
def bce(x, t):
    """max(x, 0) - x t + log(1 + exp(-|x|)), the logarithm without rounding 1 + e, which is 1 or 2 times 1 + m."""
    e = exp(-abs(x))
    near = e < f32(0.41421356)
    m = e if near else f32(0.5) * e - f32(0.5)
    return (max(x, f32(0)) - x * t) + log_near(m, f32(0) if near else f32(1))


@kernel(const(1), const(1), out(1), out(1, DOUBLE), *PIECE, _nrt=False)
def _bce(x, t, losses, total, start, stop):
    """Losses and their sum; where there is no room for all losses those of a block replace the last one's."""
    for first in range(start, stop, BLOCK):
        last = min(stop, first + BLOCK)
        part, to = x[first:last], losses[first:last] if losses.size == x.size else losses[: last - first]
        if t.size == x.size:
            targets = t[first:last]
            for i in range(part.size):
                to[i] = bce(part[i], targets[i])
        else:
            for i in range(part.size):
                to[i] = bce(part[i], t[0])
        total[0] += sum_of(to)


@kernel(const(1), const(1), const(1), out(1), *PIECE, _nrt=False)
def _bce_derivatives(x, t, scale, dx, start, stop):
    """(sigmoid(x) - t) scale; t and scale have an element for each of x, or one for all."""
    for first in range(start, stop, BLOCK):
        last = min(stop, first + BLOCK)
        part, to = x[first:last], dx[first:last]
        if t.size == x.size:
            targets = t[first:last]
            for i in range(part.size):
                to[i] = sigmoid(part[i]) - targets[i]
        else:
            for i in range(part.size):
                to[i] = sigmoid(part[i]) - t[0]
        multiply(to, scale[first:last] if scale.size == x.size else scale)


# --- divergence from the prior ----------------------------------------


@inline
def beyond(v):
    """exp(v) - 1 - v: near zero, where it cancels, by v^2/2 (1 + v/3 (1 + v/4 (...)))."""
    s = f32(1) + v * f32(1 / 11)
    s = f32(1) + v * s * f32(1 / 10)
    s = f32(1) + v * s * f32(1 / 9)
    s = f32(1) + v * s * f32(1 / 8)
    s = f32(1) + v * s * f32(1 / 7)
    s = f32(1) + v * s * f32(1 / 6)
    s = f32(1) + v * s * f32(1 / 5)
    s = f32(1) + v * s * f32(1 / 4)
    s = f32(1) + v * s * f32(1 / 3)
    return f32(0.5) * v * v * s if abs(v) < f32(1) else exp(v) - f32(1) - v


@kernel(const(1), const(1), out(1), out(1, DOUBLE), *PIECE, _nrt=False)
def _kl(mu, logvar, losses, total, start, stop):
    """As _bce."""
    for first in range(start, stop, BLOCK):
        last = min(stop, first + BLOCK)
        m, v = mu[first:last], logvar[first:last]
        to = losses[first:last] if losses.size == mu.size else losses[: last - first]
        for i in range(m.size):
            to[i] = f32(0.5) * (m[i] * m[i] + beyond(v[i]))
        total[0] += sum_of(to)


@kernel(const(1), const(1), const(1), out(1), out(1), *PIECE, _nrt=False)
def _kl_derivatives(mu, logvar, scale, dmu, dlogvar, start, stop):
    """mu scale and (exp(logvar) - 1) / 2 scale, as _bce_slopes."""
    for first in range(start, stop, BLOCK):
        last = min(stop, first + BLOCK)
        m, v, to_m, to_v = mu[first:last], logvar[first:last], dmu[first:last], dlogvar[first:last]
        for i in range(m.size):
            to_m[i] = m[i]
            to_v[i] = f32(0.5) * (beyond(v[i]) + v[i])
        scales = scale[first:last] if scale.size == mu.size else scale
        multiply(to_m, scales)
        multiply(to_v, scales)


# --- on the host ----------------------------------------


def _flat(*arrays):
    return [floats(x).reshape(-1) for x in arrays]


def _summed(loop, a, b):
    """The sum of loop's losses, in float64."""

    def piece(start, stop):
        total = np.zeros(1)
        loop(a, b, np.empty(BLOCK, f32), total, start, stop)
        return total[0]

    return sum(share(piece, a.size, GRAIN))


def _reduced(loop, x, y, reduction):
    """Losses of x and y as `reduction` wants them."""
    a, b = _flat(x, y)
    if reduction == "none":
        losses = np.empty(x.shape, f32)
        share(lambda start, stop: loop(a, b, losses.reshape(-1), np.zeros(1), start, stop), a.size, GRAIN)
        return losses
    count = x.size if reduction == "mean" else 1
    return np.asarray(_summed(loop, a, b) / count if count else np.nan, f32)  # the mean of nothing is nan


def _scale(dy, reduction, count):
    """What each element's own gradient is multiplied by: one number, or one for each."""
    return _flat(dy / f32(count or 1) if reduction == "mean" else dy)[0]


def _derivatives(loop, x, y, scale, results):
    """Fill new arrays of x's shape, as many as `results`."""
    arrays = [np.empty(x.shape, f32) for _ in range(results)]
    flat = [*_flat(x, y), scale, *(a.reshape(-1) for a in arrays)]
    share(lambda start, stop: loop(*flat, start, stop), x.size, GRAIN)
    return arrays


def _bce_forward(x, target, *, reduction):
    return _reduced(_bce, x, target, reduction), (x, target)


def _bce_backward(saved, dy, needs_input_grad, *, reduction):
    x, target = saved
    return *_derivatives(_bce_derivatives, x, target, _scale(dy, reduction, x.size), 1), None


def _kl_forward(mu, logvar, *, reduction):
    return _reduced(_kl, mu, logvar, reduction), (mu, logvar)


def _kl_backward(saved, dy, needs_input_grad, *, reduction):
    mu, logvar = saved
    return tuple(_derivatives(_kl_derivatives, mu, logvar, _scale(dy, reduction, mu.size), 2))


def _elbo(recon, x, mu, logvar, beta):
    n = len(recon) or np.nan  # the mean of nothing is nan
    rec = np.asarray(_summed(_bce, *_flat(recon, x)) / n, f32)
    kl = np.asarray(_summed(_kl, *_flat(mu, logvar)) / n, f32)
    return (np.asarray(rec + f32(beta) * kl, f32), rec, kl), (recon, x, mu, logvar, beta)


def _elbo_backward(saved, dys, needs_input_grad):
    recon, x, mu, logvar, beta = saved
    dloss, drec, dkl = (f32(0) if d is None else f32(d) for d in dys)
    n = f32(len(recon) or 1)
    scale_rec, scale_kl = np.atleast_1d((dloss + drec) / n), np.atleast_1d((dloss * f32(beta) + dkl) / n)
    drecon = _derivatives(_bce_derivatives, recon, x, scale_rec, 1)[0] if needs_input_grad[0] else None
    dmu, dlogvar = (
        _derivatives(_kl_derivatives, mu, logvar, scale_kl, 2)
        if needs_input_grad[2] or needs_input_grad[3]
        else (None, None)
    )
    return drecon, None, dmu, dlogvar, None


bce_with_logits = Op("bce_with_logits", _bce_forward, _bce_backward, backend="numba")
gaussian_kl = Op("gaussian_kl", _kl_forward, _kl_backward, backend="numba")
elbo = Op("elbo", _elbo, _elbo_backward, backend="numba")
