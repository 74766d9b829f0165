"""Softmax and the losses."""

from core import check, random
from core.arrays import as_array, compute_dtype, number_beside, result_dtype
from core.functional.arguments import REDUCTIONS, data, tensor
from core.reference.adversarial import KINDS
from core.tensor import Tensor, apply


def softmax(x, axis=-1):
    """exp(x) over its sum along `axis`."""
    return apply("softmax", _along("softmax", x, axis), axis=axis)


def log_softmax(x, axis=-1):
    """log(softmax(x)), computed without taking that logarithm."""
    return apply("log_softmax", _along("log_softmax", x, axis), axis=axis)


def _along(op, x, axis):
    x = tensor(x)
    check.floating(op, x=x.data)
    if not -x.ndim <= axis < x.ndim:
        check.fail(op, "axis", axis, f"in [{-x.ndim}, {x.ndim})")
    return x


def cross_entropy(logits, target, *, ignore_index=-100, label_smoothing=0.0, reduction="mean", z_loss=0.0):
    """Softmax cross entropy: logits (..., V), target (...) integers in [0, V) or ignore_index.

    Ignored targets have loss 0 and do not count in the mean; nothing left to average gives nan, as in torch. z_loss
    times logsumexp(logits)^2 is added to each other loss, to hold logits near 0 (Chowdhery et al. 2022, section 5).
    """
    logits, target = tensor(logits), tensor(target)
    check.floating("cross_entropy", logits=logits.data)
    check.matches("cross_entropy", "target", target.shape, logits.shape[:-1])
    options = _class_loss("cross_entropy", target, logits.shape[-1], ignore_index, label_smoothing, reduction, z_loss)
    return apply("cross_entropy", logits, target, **options)


def linear_cross_entropy(x, w, target, *, ignore_index=-100, label_smoothing=0.0, reduction="mean", z_loss=0.0):
    """cross_entropy(x @ w.T, target) that never holds all logits: x (..., D), w (V, D), target (...)."""
    x, w, target = tensor(x), tensor(w), tensor(target)
    check.floating("linear_cross_entropy", x=x.data, w=w.data)
    check.shaped("linear_cross_entropy", "w", w, 2, "(V, D)")
    check.matches("linear_cross_entropy", "x's last length (D)", x.shape[-1], w.shape[1])
    check.matches("linear_cross_entropy", "target", target.shape, x.shape[:-1])
    options = _class_loss("linear_cross_entropy", target, w.shape[0], ignore_index, label_smoothing, reduction, z_loss)
    return apply("linear_cross_entropy", x, w, target, **options)


def _class_loss(op, target, classes, ignore_index, label_smoothing, reduction, z_loss):
    check.no_gradient(op, "target", target)
    check.ids(op, "target", target.data, classes, ignore_index)
    check.probability(op, "label_smoothing", label_smoothing)
    check.one_of(op, "reduction", reduction, REDUCTIONS)
    check.weight(op, "z_loss", z_loss)
    numbers = {"label_smoothing": label_smoothing, "z_loss": z_loss}
    return {"ignore_index": ignore_index, "reduction": reduction, **numbers}


def bce_with_logits(logits, target, *, reduction="mean"):
    """Binary cross entropy of sigmoid(logits): target a floating array of the same shape, or one constant."""
    logits = tensor(logits)
    check.floating("bce_with_logits", logits=logits.data)
    check.no_gradient("bce_with_logits", "target", target)
    check.one_of("bce_with_logits", "reduction", reduction, REDUCTIONS)
    target = data(target)
    target = Tensor(as_array(target) if hasattr(target, "shape") else number_beside(target, [logits.data]))
    if target.ndim:
        check.matches("bce_with_logits", "target", target.shape, logits.shape)
    return apply("bce_with_logits", logits, target, reduction=reduction)


def discriminator_loss(real, fake, *, kind):
    """What a GAN's discriminator minimises, from logits of real and of generated images, of any shapes.

    kind: "non_saturating" or "minimax" (the same here: Goodfellow et al. 2014), or "hinge" (Lim & Ye 2017).
    """
    real, fake = tensor(real), tensor(fake)
    check.floating("discriminator_loss", real=real.data, fake=fake.data)
    check.one_of("discriminator_loss", "kind", kind, KINDS)
    return apply("discriminator_loss", real, fake, kind=kind)


def generator_loss(fake, *, kind):
    """What a GAN's generator minimises, from logits of its images, of any shape; kind: as in discriminator_loss."""
    fake = tensor(fake)
    check.floating("generator_loss", fake=fake.data)
    check.one_of("generator_loss", "kind", kind, KINDS)
    return apply("generator_loss", fake, kind=kind)


def gaussian_kl(mu, logvar, *, reduction="sum"):
    """KL(N(mu, exp(logvar)) || N(0, 1)), elementwise and then reduced (Kingma & Welling 2014, appendix B)."""
    mu, logvar = tensor(mu), tensor(logvar)
    check.floating("gaussian_kl", mu=mu.data, logvar=logvar.data)
    check.matches("gaussian_kl", "logvar", logvar.shape, mu.shape)
    check.one_of("gaussian_kl", "reduction", reduction, REDUCTIONS)
    return apply("gaussian_kl", mu, logvar, reduction=reduction)


def reparameterize(mu, logvar, *, noise=None):
    """mu + exp(logvar / 2) noise, noise standard normal unless given (Kingma & Welling 2014, section 2.4).

    Noise that is not given is drawn by the operation, again in its backward pass: nothing of its size is kept.
    """
    mu, logvar = tensor(mu), tensor(logvar)
    check.floating("reparameterize", mu=mu.data, logvar=logvar.data)
    check.matches("reparameterize", "logvar", logvar.shape, mu.shape)
    check.no_gradient("reparameterize", "noise", noise)
    if noise is not None:
        check.matches("reparameterize", "noise", noise.shape, mu.shape)
    dtype = compute_dtype(result_dtype(mu.data, logvar.data))
    noise, step, key = random.normal_draw(mu.shape, dtype, data(noise))
    return apply("reparameterize", mu, logvar, noise, step, **key)


def elbo(recon_logits, x, mu, logvar, *, beta=1.0, parts=False):
    """-ELBO to minimise (Kingma & Welling 2014): (Bernoulli reconstruction + beta KL) per image, mean over images.

    recon_logits and x (N, ...), x in [0, 1]; mu and logvar (N, Z); in nats. parts=True gives (-ELBO, reconstruction,
    KL), the latter two without beta.
    """
    recon_logits, mu, logvar = tensor(recon_logits), tensor(mu), tensor(logvar)
    check.floating("elbo", recon_logits=recon_logits.data, mu=mu.data, logvar=logvar.data)
    check.no_gradient("elbo", "x", x)
    check.matches("elbo", "x", x.shape, recon_logits.shape)
    check.matches("elbo", "logvar", logvar.shape, mu.shape)
    if not mu.ndim or not recon_logits.ndim or mu.shape[0] != recon_logits.shape[0]:
        check.fail("elbo", "mu", f"of shape {mu.shape}", f"(N, Z) with N as in recon_logits {recon_logits.shape}")
    outputs = apply("elbo", recon_logits, data(x), mu, logvar, beta)
    return outputs if parts else outputs[0]
