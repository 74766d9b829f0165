"""The losses of a VAE: binary cross entropy, KL, -ELBO."""

import numpy as np
import torch
import torch.nn.functional as TF

from bench.parity.cases.inputs import Case, F, normal, unit, value

INF = float("inf")


BCE = TF.binary_cross_entropy_with_logits


def sure(x, target):
    """Binary cross entropy at targets 0 and 1 as one softplus: torch's own loses digits where the target is 0."""
    return TF.softplus((1 - 2 * target) * x)


def _confident(sign):
    return lambda rng: sign * rng.uniform(6, 12, 20)


def binary(name, logits, target, reduction="mean", smooth=True):
    """`target`: a maker, or a number for a constant target."""
    if callable(target):
        return Case(
            f"bce_with_logits/{name}",
            lambda x, t: F.bce_with_logits(x, t, reduction=reduction),
            lambda x, t: BCE(x, t, reduction=reduction),
            (logits, target),
            fixed=(1,),
            smooth=smooth,
        )
    return Case(
        f"bce_with_logits/{name}",
        lambda x: F.bce_with_logits(x, target, reduction=reduction),
        lambda x: BCE(x, torch.full_like(x, target), reduction=reduction),
        (logits,),
        smooth=smooth,
    )


def _binary():
    for reduction in ("mean", "sum", "none"):
        yield binary(f"{reduction}-array", normal(4, 5), unit(4, 5), reduction)
        for target in (0.0, 1.0, 0.9):
            yield binary(f"{reduction}-constant-{target}", normal(4, 5, scale=2.0), target, reduction)
        yield binary(f"{reduction}-empty", normal(0, 3), unit(0, 3), reduction, smooth=reduction != "mean")
    huge = value([1e4, -1e4, 300.0, -300.0])
    yield binary("huge-right", huge, value([1.0, 0.0, 1.0, 0.0]), "none", smooth=False)
    yield binary("huge-wrong", huge, value([0.0, 1.0, 0.0, 1.0]), "none", smooth=False)
    # a sure and right discriminator: the loss is log(1 + exp(-|x|)), which must not drown in x
    for label, sign, target in (("real", 1.0, 1.0), ("fake", -1.0, 0.0)):
        yield Case(
            f"bce_with_logits/confident-{label}",
            lambda x, t=target: F.bce_with_logits(x, t, reduction="none"),
            lambda x, t=target: BCE(x, torch.full_like(x, t), reduction="none"),
            (_confident(sign),),
            oracle=lambda x, t=target: sure(x, t),
        )
    yield binary("0d", normal(), unit())
    yield binary("tiny-logits", normal(5, 7, scale=1e-6), unit(5, 7))
    yield binary("column", normal(13, 1, scale=3.0), 0.9)  # a discriminator's logits: one block, not full
    yield binary("many", normal(3, 2000), unit(3, 2000))


def _kl(mu, logvar):
    return -0.5 * (1 + logvar - mu * mu - logvar.exp())


def _elbo(r, x, mu, logvar, beta=1.0):
    rec, kl = BCE(r, x, reduction="sum") / len(r), _kl(mu, logvar).sum() / len(r)
    return rec + beta * kl, rec, kl


CERTAIN = np.where(np.arange(18).reshape(2, 9) % 5 < 2, 1.0, -1.0)  # signs of logits that are sure and right


def elbo(name, pixels, latents):
    """All three results, on logits of images and latents of some size."""
    mu = (pixels[0], latents)
    make = (normal(*pixels), unit(*pixels), normal(*mu), normal(*mu))
    ours = lambda *a: F.elbo(*a, parts=True)
    return Case(f"elbo/{name}", ours, lambda *a: _elbo(*a), make, fixed=(1,))


PAIR = (normal(4, 3), normal(4, 3))
IMAGES = (normal(4, 3, 2, 1), unit(4, 3, 2, 1), *PAIR)
_PARTS = {"mean": torch.mean, "sum": torch.sum, "none": lambda x: x}

VARIATIONAL = [
    *(
        Case(
            f"gaussian_kl/{r}",
            lambda m, v, r=r: F.gaussian_kl(m, v, reduction=r),
            lambda m, v, r=r: _PARTS[r](_kl(m, v)),
            PAIR,
        )
        for r in ("mean", "none")
    ),
    Case("gaussian_kl/sum-by-default", lambda m, v: F.gaussian_kl(m, v), lambda m, v: _kl(m, v).sum(), PAIR),
    Case(  # near the prior the terms cancel
        "gaussian_kl/near-zero",
        lambda m, v: F.gaussian_kl(m, v, reduction="none"),
        _kl,
        (normal(4, 3, scale=1e-2), normal(4, 3, scale=1e-2)),
        oracle=lambda m, v: 0.5 * (m * m + (torch.expm1(v) - v)),
    ),
    Case(
        "gaussian_kl/empty",
        lambda m, v: F.gaussian_kl(m, v),
        lambda m, v: _kl(m, v).sum(),
        (normal(0, 3), normal(0, 3)),
    ),
    Case("elbo/loss", lambda *a: F.elbo(*a), lambda *a: _elbo(*a)[0], IMAGES, fixed=(1,)),
    Case("elbo/beta", lambda *a: F.elbo(*a, beta=0.25), lambda *a: _elbo(*a, beta=0.25)[0], IMAGES, fixed=(1,)),
    Case("elbo/parts", lambda *a: F.elbo(*a, beta=3.0, parts=True), lambda *a: _elbo(*a, beta=3.0), IMAGES, fixed=(1,)),
    Case(
        "elbo/confident",
        lambda r, x, m, v: F.elbo(r, x, m, v, parts=True)[1],
        lambda r, x, m, v: _elbo(r, x, m, v)[1],
        (lambda rng: CERTAIN * rng.uniform(6, 12, (2, 9)), value(CERTAIN > 0, float), normal(2, 3), normal(2, 3)),
        fixed=(1,),
        oracle=lambda r, x, m, v: sure(r, x).sum() / len(r),
    ),
]

CASES = [*_binary(), *VARIATIONAL]
