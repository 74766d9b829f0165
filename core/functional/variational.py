"""The losses of a VAE."""

from core import check
from core.arrays import NUMBERS, number_beside
from core.dispatch import run
from core.functional.arguments import REDUCTIONS, fixed, gaussian, tensor


def bce_with_logits(logits, target, *, reduction="mean"):
    """Binary cross entropy of sigmoid(logits): target a floating array of the same shape, or one constant."""
    op = "bce_with_logits"
    logits = tensor(op, "logits", logits)
    check.floating(op, logits=logits.data)
    check.one_of(op, "reduction", reduction, REDUCTIONS)
    if isinstance(target, NUMBERS) and not hasattr(target, "shape"):
        check.number(op, "target", target)
        target = number_beside(target, [logits.data])
    target = fixed(op, "target", target)
    if target is None:
        check.fail(op, "target", "None", "a Tensor, an array or a number", TypeError)
    if target.ndim:
        check.matches(op, "target", target.shape, logits.shape)
    return run(op, logits, target, reduction=reduction)


def gaussian_kl(mu, logvar, *, reduction="sum"):
    """KL(N(mu, exp(logvar)) || N(0, 1)), elementwise and then reduced (Kingma & Welling 2014, appendix B)."""
    mu, logvar = gaussian("gaussian_kl", mu, logvar)
    check.one_of("gaussian_kl", "reduction", reduction, REDUCTIONS)
    return run("gaussian_kl", mu, logvar, reduction=reduction)


def elbo(recon_logits, x, mu, logvar, *, beta=1.0, parts=False):
    """-ELBO to minimise (Kingma & Welling 2014): (Bernoulli reconstruction + beta KL) per image, mean over images.

    recon_logits and x (N, ...), x in [0, 1]; mu and logvar (N, Z); in nats. parts=True gives (-ELBO, reconstruction,
    KL), the latter two without beta.
    """
    recon_logits, (mu, logvar) = tensor("elbo", "recon_logits", recon_logits), gaussian("elbo", mu, logvar)
    check.no_gradient("elbo", "x", x)
    check.no_gradient("elbo", "beta", beta)
    x = tensor("elbo", "x", x)
    check.floating("elbo", recon_logits=recon_logits.data, x=x.data)
    check.matches("elbo", "x", x.shape, recon_logits.shape)
    if isinstance(beta, NUMBERS) or not hasattr(beta, "shape"):
        check.number("elbo", "beta", beta)
    else:  # a trainer keeps it on the device
        check.matches("elbo", "beta", beta.shape, ())
    check.flag("elbo", "parts", parts)
    if not mu.ndim or not recon_logits.ndim or mu.shape[0] != recon_logits.shape[0]:
        check.fail("elbo", "mu", f"of shape {mu.shape}", f"(N, Z) with N as in recon_logits {recon_logits.shape}")
    outputs = run("elbo", recon_logits, x, mu, logvar, beta)
    return outputs if parts else outputs[0]
