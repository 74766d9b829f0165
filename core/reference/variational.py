"""The losses of a VAE: binary cross entropy with logits, the KL of a Gaussian to the standard normal, and -ELBO.

binary cross entropy with logits:                              L = max(x, 0) - x t + log(1 + exp(-|x|))
                                                               dL/dx = sigmoid(x) - t
Gaussian KL to the standard normal (Kingma & Welling 2014, appendix B), l the log variance:
                                                               L = -1/2 sum(1 + l - mu^2 - exp(l))

# why: docs/kernels/losses.md
# next: core/reference/reparameterize.py
"""

from core.arrays import array_module, total
from core.engine import Op
from core.reference.losses import gradient_scale, reduce_losses
from core.reference.pointwise import _sigmoid


def _bce(x, target):
    """max(x, 0) - x t + log(1 + exp(-|x|)), elementwise."""
    xp = array_module(x)
    return (xp.maximum(x, 0) - x * target) + xp.log1p(xp.exp(-abs(x)))


def _bce_with_logits(x, target, *, reduction):
    return reduce_losses(_bce(x, target), reduction, x.size), (x, target)


def _bce_with_logits_backward(saved, dy, needs_input_grad, *, reduction):
    x, target = saved
    return (_sigmoid(array_module(x), x) - target) * gradient_scale(dy, reduction, x.size), None


def _kl(mu, logvar):
    """(mu^2 + exp(logvar) - 1 - logvar) / 2. Near the prior the last three nearly cancel, to logvar^2 / 2: exp leaves
    an error of eps, expm1 one of eps |logvar|, which is less than torch's formula has, but not all digits."""
    return 0.5 * (mu * mu + (array_module(mu).expm1(logvar) - logvar))


def _kl_derivatives(mu, logvar):
    return mu, 0.5 * array_module(mu).expm1(logvar)


def _gaussian_kl(mu, logvar, *, reduction):
    return reduce_losses(_kl(mu, logvar), reduction, mu.size), (mu, logvar)


def _gaussian_kl_backward(saved, dy, needs_input_grad, *, reduction):
    mu, logvar = saved
    dmu, dlogvar = _kl_derivatives(mu, logvar)
    scale = gradient_scale(dy, reduction, mu.size)
    return dmu * scale, dlogvar * scale


def _elbo(recon, x, mu, logvar, beta):
    """(-ELBO, reconstruction, KL): each summed per image and averaged over the images; -ELBO = rec + beta KL."""
    xp, n = array_module(recon), len(recon)
    rec = xp.asarray(total(_bce(recon, x)) / n).astype(recon.dtype)
    kl = xp.asarray(total(_kl(mu, logvar)) / n).astype(mu.dtype)
    return (rec + beta * kl, rec, kl), (recon, x, mu, logvar, beta)


def _elbo_backward(saved, dys, needs_input_grad):
    recon, x, mu, logvar, beta = saved
    n = len(recon)
    dloss, drec, dkl = (0 if d is None else d for d in dys)
    scale_rec, scale_kl = (dloss + drec) / n, (dloss * beta + dkl) / n
    drecon = (_sigmoid(array_module(recon), recon) - x) * scale_rec if needs_input_grad[0] else None
    dmu, dlogvar = _kl_derivatives(mu, logvar)
    return drecon, None, dmu * scale_kl, dlogvar * scale_kl, None


bce_with_logits = Op("bce_with_logits", _bce_with_logits, _bce_with_logits_backward)
gaussian_kl = Op("gaussian_kl", _gaussian_kl, _gaussian_kl_backward)
elbo = Op("elbo", _elbo, _elbo_backward)
