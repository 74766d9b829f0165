"""Softmax and the losses."""

from core import check, random
from core.arrays import NUMBERS, compute_dtype, number_beside, result_dtype
from core.dispatch import run
from core.functional.arguments import REDUCTIONS, fixed, tensor
from core.reference.adversarial import KINDS


def softmax(x, axis=-1):
    """exp(x) over its sum along `axis`."""
    return _along("softmax", x, axis)


def log_softmax(x, axis=-1):
    """log(softmax(x)), computed without taking that logarithm."""
    return _along("log_softmax", x, axis)


def _along(op, x, axis):
    x = tensor(op, "x", x)
    check.floating(op, x=x.data)
    return run(op, x, axis=check.axis(op, x, axis))


def cross_entropy(logits, target, *, ignore_index=-100, label_smoothing=0.0, reduction="mean", z_loss=0.0):
    """Softmax cross entropy: logits (..., V), target (...) integers in [0, V) or ignore_index.

    Ignored targets have loss 0 and do not count in the mean; nothing left to average gives nan, as in torch. z_loss
    times logsumexp(logits)^2 is added to each other loss, to hold logits near 0 (Chowdhery et al. 2022, section 5).
    """
    op = "cross_entropy"
    logits, target = tensor(op, "logits", logits), tensor(op, "target", target)
    check.floating(op, logits=logits.data)
    classes = check.last(op, "logits", logits, "(..., V)")
    check.matches(op, "target", target.shape, logits.shape[:-1])
    options = _class_loss(op, target, classes, ignore_index, label_smoothing, reduction, z_loss)
    return run(op, logits, target, **options)


def linear_cross_entropy(x, w, target, *, ignore_index=-100, label_smoothing=0.0, reduction="mean", z_loss=0.0):
    """cross_entropy(x @ w.T, target) that never holds all logits: x (..., D), w (V, D), target (...)."""
    op = "linear_cross_entropy"
    x, w, target = tensor(op, "x", x), tensor(op, "w", w), tensor(op, "target", target)
    check.floating(op, x=x.data, w=w.data)
    check.shaped(op, "w", w, 2, "(V, D)")
    check.matches(op, "x's last length (D)", check.last(op, "x", x, "(..., D)"), w.shape[1])
    check.matches(op, "target", target.shape, x.shape[:-1])
    options = _class_loss(op, target, w.shape[0], ignore_index, label_smoothing, reduction, z_loss)
    return run(op, x, w, target, **options)


def _class_loss(op, target, classes, ignore_index, label_smoothing, reduction, z_loss):
    check.no_gradient(op, "target", target)
    check.count(op, "V (the number of classes)", classes)
    check.integer_in(op, "ignore_index", ignore_index, -check.LARGE, check.LARGE)
    check.ids(op, "target", target.data, classes, ignore_index)
    check.probability(op, "label_smoothing", label_smoothing)
    check.one_of(op, "reduction", reduction, REDUCTIONS)
    check.number(op, "z_loss", z_loss, 0)
    numbers = {"label_smoothing": label_smoothing, "z_loss": z_loss}
    return {"ignore_index": ignore_index, "reduction": reduction, **numbers}


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


def discriminator_loss(real, fake, *, kind):
    """What a GAN's discriminator minimises, from logits of real and of generated images, of any shapes.

    kind: "non_saturating" or "minimax" (the same here: Goodfellow et al. 2014), or "hinge" (Lim & Ye 2017).
    """
    op = "discriminator_loss"
    real, fake = tensor(op, "real", real), tensor(op, "fake", fake)
    check.floating(op, real=real.data, fake=fake.data)
    check.one_of(op, "kind", kind, KINDS)
    return run(op, real, fake, kind=kind)


def generator_loss(fake, *, kind):
    """What a GAN's generator minimises, from logits of its images, of any shape; kind: as in discriminator_loss."""
    fake = tensor("generator_loss", "fake", fake)
    check.floating("generator_loss", fake=fake.data)
    check.one_of("generator_loss", "kind", kind, KINDS)
    return run("generator_loss", fake, kind=kind)


def gaussian_kl(mu, logvar, *, reduction="sum"):
    """KL(N(mu, exp(logvar)) || N(0, 1)), elementwise and then reduced (Kingma & Welling 2014, appendix B)."""
    mu, logvar = _gaussian("gaussian_kl", mu, logvar)
    check.one_of("gaussian_kl", "reduction", reduction, REDUCTIONS)
    return run("gaussian_kl", mu, logvar, reduction=reduction)


def reparameterize(mu, logvar, *, noise=None):
    """mu + exp(logvar / 2) noise, noise standard normal unless given (Kingma & Welling 2014, section 2.4).

    Noise that is not given is drawn by the operation, again in its backward pass: nothing of its size is kept.
    """
    mu, logvar = _gaussian("reparameterize", mu, logvar)
    noise = fixed("reparameterize", "noise", noise)
    check.floating("reparameterize", noise=noise)
    if noise is not None:
        check.matches("reparameterize", "noise", noise.shape, mu.shape)
    dtype = compute_dtype(result_dtype(mu.data, logvar.data))
    noise, step, key = random.normal_draw(mu.shape, dtype, noise)
    return run("reparameterize", mu, logvar, noise, step, **key)


def _gaussian(op, mu, logvar):
    """Two tensors of one shape."""
    mu, logvar = tensor(op, "mu", mu), tensor(op, "logvar", logvar)
    check.floating(op, mu=mu.data, logvar=logvar.data)
    check.matches(op, "logvar", logvar.shape, mu.shape)
    return mu, logvar


def elbo(recon_logits, x, mu, logvar, *, beta=1.0, parts=False):
    """-ELBO to minimise (Kingma & Welling 2014): (Bernoulli reconstruction + beta KL) per image, mean over images.

    recon_logits and x (N, ...), x in [0, 1]; mu and logvar (N, Z); in nats. parts=True gives (-ELBO, reconstruction,
    KL), the latter two without beta.
    """
    recon_logits, (mu, logvar) = tensor("elbo", "recon_logits", recon_logits), _gaussian("elbo", mu, logvar)
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
