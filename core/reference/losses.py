"""Softmax and the losses, each with its gradient written out.

cross entropy of one row z with target t, label smoothing s:   L = lse(z) - (1 - s) z_t - s mean(z)
                                                               dL/dz = softmax(z) - (1 - s) onehot(t) - s / V
z-loss c, added to it (Chowdhery et al. 2022, section 5):      L = c lse(z)^2,    dL/dz = 2 c lse(z) softmax(z)
binary cross entropy with logits:                              L = max(x, 0) - x t + log(1 + exp(-|x|))
                                                               dL/dx = sigmoid(x) - t
Gaussian KL to the standard normal (Kingma & Welling 2014, appendix B), l the log variance:
                                                               L = -1/2 sum(1 + l - mu^2 - exp(l))

# why: docs/kernels/losses.md
# next: core/reference/random.py
"""

from core.arrays import array_module, total
from core.engine import Op
from core.reference import random
from core.reference.pointwise import _sigmoid

CHUNK = 1 << 22  # logits held at once by linear_cross_entropy (16 MB of float32)


# --- softmax ----------------------------------------


def _softmax(x, *, axis):
    if not x.size:
        return x.copy(), (x,)
    y = array_module(x).exp(x - x.max(axis, keepdims=True))
    y /= y.sum(axis, keepdims=True)
    return y, (y,)


def _softmax_backward(saved, dy, needs, *, axis):
    (y,) = saved
    return (y * (dy - (dy * y).sum(axis, keepdims=True)),)


def _log_softmax(x, *, axis):
    if not x.size:
        return x.copy(), (x,)
    y = x - x.max(axis, keepdims=True)
    y -= array_module(x).log(array_module(x).exp(y).sum(axis, keepdims=True))
    return y, (y,)


def _log_softmax_backward(saved, dy, needs, *, axis):
    (y,) = saved
    return (dy - array_module(y).exp(y) * dy.sum(axis, keepdims=True),)


softmax = Op("softmax", _softmax, _softmax_backward)
log_softmax = Op("log_softmax", _log_softmax, _log_softmax_backward)


# --- reductions of a loss ----------------------------------------


def _reduce(losses, reduction, count):
    """'none' keeps the losses, 'sum' adds them, 'mean' divides by `count` (no element at all gives nan)."""
    if reduction == "none":
        return losses
    xp = array_module(losses)
    return xp.asarray(total(losses) / (count if reduction == "mean" else 1)).astype(losses.dtype)


def _scale(dy, reduction, count):
    """What each element's own gradient is multiplied by."""
    return dy / array_module(dy).asarray(count).astype(dy.dtype) if reduction == "mean" else dy


# --- cross entropy ----------------------------------------


def _rows(logits, target, smoothing, ignore_index, z_loss=0.0):
    """(losses (n,), lse (n, 2)) of logits (n, V) and target (n,); ignored rows have loss 0."""
    xp = array_module(logits)
    top = logits.max(1)  # (n,)
    z = logits - top[:, None]
    rest = xp.log(xp.exp(z).sum(1))
    lse = xp.stack([top, rest], 1)  # (n, 2): their sum is the log-sum-exp, kept apart to lose no digits
    kept = target != ignore_index
    picked = xp.take_along_axis(z, xp.where(kept, target, 0)[:, None], 1)[:, 0]
    losses = rest - (picked if smoothing == 0 else (1 - smoothing) * picked + smoothing * z.mean(1))
    if z_loss:
        losses += z_loss * (top + rest) ** 2
    return xp.where(kept, losses, 0), lse


def _rows_backward(logits, target, lse, scale, smoothing, ignore_index, z_loss):
    """Gradient (n, V); scale is a scalar or (n,)."""
    xp = array_module(logits)
    kept = target != ignore_index
    d = xp.exp(logits - lse[:, :1] - lse[:, 1:])
    if z_loss:
        d *= 1 + 2 * z_loss * lse.sum(1, keepdims=True)
    if smoothing:
        d -= smoothing / logits.shape[1]
    d[xp.arange(len(d)), xp.where(kept, target, 0)] -= 1 - smoothing
    d *= xp.where(kept, scale, 0)[:, None]
    return d


def _cross_entropy(logits, target, *, ignore_index, label_smoothing, reduction, z_loss):
    flat, t = logits.reshape(-1, logits.shape[-1]), target.reshape(-1)
    losses, lse = _rows(flat, t, label_smoothing, ignore_index, z_loss)
    count = (t != ignore_index).sum()
    return _reduce(losses.reshape(target.shape), reduction, count), (logits, target, lse, count)


def _cross_entropy_backward(saved, dy, needs, *, ignore_index, label_smoothing, reduction, z_loss):
    logits, target, lse, count = saved
    scale = _scale(dy, reduction, count).reshape(-1)
    flat = logits.reshape(-1, logits.shape[-1])
    d = _rows_backward(flat, target.reshape(-1), lse, scale, label_smoothing, ignore_index, z_loss)
    return d.reshape(logits.shape), None


def _chunks(n, v):
    step = max(1, CHUNK // max(v, 1))
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def _linear_cross_entropy(x, w, target, *, ignore_index, label_smoothing, reduction, z_loss):
    """cross_entropy(x @ w.T, target), a chunk of rows at a time; only the log-sum-exp of each row is kept."""
    xp = array_module(x)
    flat, t = x.reshape(target.size, x.shape[-1]), target.reshape(-1)
    losses, lse = xp.zeros(len(t), x.dtype), xp.zeros((len(t), 2), x.dtype)
    for part in _chunks(len(t), len(w)):
        losses[part], lse[part] = _rows(flat[part] @ w.T, t[part], label_smoothing, ignore_index, z_loss)
    count = (t != ignore_index).sum()
    return _reduce(losses.reshape(target.shape), reduction, count), (x, w, target, lse, count)


def _linear_cross_entropy_backward(saved, dy, needs, *, ignore_index, label_smoothing, reduction, z_loss):
    x, w, target, lse, count = saved
    xp = array_module(x)
    flat, t = x.reshape(target.size, x.shape[-1]), target.reshape(-1)
    scale = xp.broadcast_to(_scale(dy, reduction, count).reshape(-1), t.shape)
    dx, dw = xp.empty_like(flat), xp.zeros_like(w)
    for part in _chunks(len(t), len(w)):
        d = _rows_backward(flat[part] @ w.T, t[part], lse[part], scale[part], label_smoothing, ignore_index, z_loss)
        if needs[0]:
            dx[part] = d @ w
        if needs[1]:
            dw += d.T @ flat[part]
    return dx.reshape(x.shape) if needs[0] else None, dw if needs[1] else None, None


cross_entropy = Op("cross_entropy", _cross_entropy, _cross_entropy_backward)
linear_cross_entropy = Op("linear_cross_entropy", _linear_cross_entropy, _linear_cross_entropy_backward)


# --- binary cross entropy, KL, ELBO ----------------------------------------


def _bce(x, target):
    """max(x, 0) - x t + log(1 + exp(-|x|)), elementwise."""
    xp = array_module(x)
    return (xp.maximum(x, 0) - x * target) + xp.log1p(xp.exp(-abs(x)))


def _bce_with_logits(x, target, *, reduction):
    return _reduce(_bce(x, target), reduction, x.size), (x, target)


def _bce_with_logits_backward(saved, dy, needs, *, reduction):
    x, target = saved
    return (_sigmoid(array_module(x), x) - target) * _scale(dy, reduction, x.size), None


def _kl(mu, logvar):
    """(mu^2 + exp(logvar) - 1 - logvar) / 2. Near the prior the last three nearly cancel, to logvar^2 / 2: exp leaves
    an error of eps, expm1 one of eps |logvar|, which is less than torch's formula has, but not all digits."""
    return 0.5 * (mu * mu + (array_module(mu).expm1(logvar) - logvar))


def _kl_slopes(mu, logvar):
    return mu, 0.5 * array_module(mu).expm1(logvar)


def _gaussian_kl(mu, logvar, *, reduction):
    return _reduce(_kl(mu, logvar), reduction, mu.size), (mu, logvar)


def _gaussian_kl_backward(saved, dy, needs, *, reduction):
    mu, logvar = saved
    dmu, dlogvar = _kl_slopes(mu, logvar)
    scale = _scale(dy, reduction, mu.size)
    return dmu * scale, dlogvar * scale


def _reparameterize(mu, logvar, noise, step, *, seed, draw):
    """mu + exp(logvar / 2) noise; the noise may be given, else it is drawn, and drawn again backward: a copy of the
    step is all that is kept for that."""
    std = array_module(mu).exp(0.5 * logvar)
    step = None if step is None else step.copy()
    return mu + std * _noise(mu, noise, step, seed, draw), (logvar, noise, step)


def _reparameterize_backward(saved, dz, needs, *, seed, draw):
    logvar, noise, step = saved
    dlogvar = None
    if needs[1]:
        dlogvar = 0.5 * dz * array_module(dz).exp(0.5 * logvar) * _noise(dz, noise, step, seed, draw)
    return dz if needs[0] else None, dlogvar, None, None


def _noise(x, noise, step, seed, draw):
    return random.normal(x.shape, seed, draw, step, x.dtype) if noise is None else noise


def _elbo(recon, x, mu, logvar, beta):
    """(-ELBO, reconstruction, KL): each summed per image and averaged over the images; -ELBO = rec + beta KL."""
    xp, n = array_module(recon), len(recon)
    rec = xp.asarray(total(_bce(recon, x)) / n).astype(recon.dtype)
    kl = xp.asarray(total(_kl(mu, logvar)) / n).astype(mu.dtype)
    return (rec + beta * kl, rec, kl), (recon, x, mu, logvar, beta)


def _elbo_backward(saved, dys, needs):
    recon, x, mu, logvar, beta = saved
    n = len(recon)
    dloss, drec, dkl = (0 if d is None else d for d in dys)
    scale_rec, scale_kl = (dloss + drec) / n, (dloss * beta + dkl) / n
    drecon = (_sigmoid(array_module(recon), recon) - x) * scale_rec if needs[0] else None
    dmu, dlogvar = _kl_slopes(mu, logvar)
    return drecon, None, dmu * scale_kl, dlogvar * scale_kl, None


bce_with_logits = Op("bce_with_logits", _bce_with_logits, _bce_with_logits_backward)
gaussian_kl = Op("gaussian_kl", _gaussian_kl, _gaussian_kl_backward)
reparameterize = Op("reparameterize", _reparameterize, _reparameterize_backward)
elbo = Op("elbo", _elbo, _elbo_backward)
