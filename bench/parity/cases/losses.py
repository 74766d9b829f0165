"""Cases of the softmaxes and the losses."""

import numpy as np
import torch
import torch.nn.functional as TF

from bench.parity.cases.inputs import Case, F, ids, normal, unit, value

INF = float("inf")

SOFTMAX = [
    Case(
        f"{name}/{label}",
        lambda x, f=ours, a=axis: f(x, a),
        lambda x, f=torchs, a=axis: f(x, a),
        (make,),
        smooth=smooth,
    )
    for name, ours, torchs in (
        ("softmax", lambda x, a: F.softmax(x, a), torch.softmax),
        ("log_softmax", lambda x, a: F.log_softmax(x, a), torch.log_softmax),
    )
    for label, axis, make, smooth in [
        ("last", -1, normal(3, 5), True),
        ("first", 0, normal(3, 5), True),
        ("middle", 1, normal(2, 3, 4), True),
        ("vector", 0, normal(6), True),
        ("one-class", -1, normal(3, 1), True),
        ("no-rows", -1, normal(0, 5), True),
        ("wide", -1, normal(2, 1500), True),
        ("large", -1, normal(3, 5, scale=1e4), False),
        ("far-from-zero", -1, normal(3, 5, mean=1e3), True),
        ("some-minus-inf", -1, value([[0.0, -INF, 1.0], [-INF, -INF, 2.0]]), False),
        ("all-minus-inf", -1, value([[-INF, -INF], [0.0, 1.0]]), False),
    ]
]


# --- classification ----------------------------------------


def _flat(logits, target, reduction, z_loss=0.0, **options):
    """torch's cross entropy on (n, V), with the losses put back into target's shape."""
    flat, t = logits.reshape(-1, logits.shape[-1]), target.reshape(-1)
    if z_loss:  # torch has none: as plain operations
        kept = t != options.get("ignore_index", -100)
        losses = TF.cross_entropy(flat, t, reduction="none", **options)
        losses = losses + torch.where(kept, z_loss * torch.logsumexp(flat, 1) ** 2, 0)
        whole = {"none": lambda: losses, "sum": losses.sum, "mean": lambda: losses.sum() / kept.sum()}
        losses = whole[reduction]()
    else:
        losses = TF.cross_entropy(flat, t, reduction=reduction, **options)
    return losses.reshape(target.shape) if reduction == "none" else losses


def classes(name, logits, target, reduction="mean", smooth=True, width=3, scale=1.0, maker=normal, **options):
    """The same setting for cross_entropy on logits, and for linear_cross_entropy whose logits are x @ w.T, x of
    `width`; `scale` is the logits' size, roughly."""
    options["reduction"] = reduction
    torchs = {k: v for k, v in options.items() if k != "reduction"}
    v = logits[-1]
    make = ids(v, *logits[:-1]) if target is None else value(target, int)
    yield Case(
        f"cross_entropy/{name}",
        lambda z, t: F.cross_entropy(z, t, **options),
        lambda z, t: _flat(z, t, reduction, **torchs),
        (maker(*logits, scale=scale), make),
        smooth=smooth,
    )
    yield Case(
        f"linear_cross_entropy/{name}",
        lambda x, w, t: F.linear_cross_entropy(x, w, t, **options),
        lambda x, w, t: _flat(x @ w.T, t, reduction, **torchs),
        (normal(*logits[:-1], width, scale=scale), normal(v, width, scale=(3 / width) ** 0.5), make),
        smooth=smooth,
    )


def _classification():
    settings = {
        "plain": {},
        "smoothed": {"label_smoothing": 0.1},
        "ignored": {"ignore_index": 2},
        "ignored-smoothed": {"ignore_index": 0, "label_smoothing": 0.3},
        "z-loss": {"z_loss": 0.1},
        "z-loss-ignored-smoothed": {"z_loss": 0.2, "ignore_index": 1, "label_smoothing": 0.3},
    }
    for reduction in ("mean", "sum", "none"):
        for label, options in settings.items():
            yield from classes(f"{reduction}-{label}", (9, 4), None, reduction, **options)
        yield from classes(f"{reduction}-3d", (2, 3, 5), None, reduction)
        yield from classes(f"{reduction}-one-row", (4,), None, reduction, label_smoothing=0.1)
        yield from classes(f"{reduction}-padding", (4, 5), [1, -100, 4, -100], reduction)
        for extra, smoothing in (("", 0.0), ("-smoothed", 0.2)):  # the mean of nothing is nan, its gradient 0
            name = f"{reduction}-all-ignored{extra}"
            mean = reduction == "mean"
            yield from classes(name, (3, 4), [-100] * 3, reduction, smooth=not mean, label_smoothing=smoothing)
        yield from classes(f"{reduction}-no-rows", (0, 4), [], reduction, smooth=reduction != "mean")
    yield from classes("one-class", (3, 1), None)
    yield from classes("smoothing-1", (5, 4), None, label_smoothing=1.0)
    yield from classes("many-rows", (2100, 3), None)
    yield from classes("vocabulary-past-a-block", (7, 1031), None, width=19)  # more classes than a kernel's tile holds
    yield from classes("wide-smoothed", (5, 517), None, label_smoothing=0.1, ignore_index=0)
    yield from classes("z-loss-past-a-block", (5, 133), None, z_loss=1e-2, scale=3.0, ignore_index=7)
    yield from classes("tiny-logits", (6, 5), None, scale=1e-6)  # the loss is log V, the gradient all cancellation
    yield from classes("huge-logits", (6, 5), None, scale=1e3, smooth=False)
    yield from classes("one-token", (1, 1, 7), None)
    yield from classes("batch-0", (0, 3, 5), None, "sum")


def _entropy(z, t):
    return F.cross_entropy(z, t, reduction="none")


def _torch_entropy(z, t):
    return TF.cross_entropy(z, t, reduction="none")


EXTREME_LOGITS = [
    Case(f"cross_entropy/{name}", _entropy, _torch_entropy, (value(z), value(t)), smooth=False)
    for name, z, t in [
        ("huge", [[1e4, 0.0, -1e4], [1e4, 0.0, -1e4]], [0, 2]),
        ("minus-inf-elsewhere", [[0.0, -INF, 1.0]], [0]),
        ("minus-inf-at-target", [[0.0, -INF, 1.0]], [1]),
        ("all-minus-inf", [[-INF, -INF]], [0]),
        ("inf-at-target", [[0.0, INF, 1.0]], [1]),
        ("inf-elsewhere", [[0.0, INF, 1.0]], [0]),
    ]
]


def _penalised(z, t):
    return F.cross_entropy(z, t, reduction="none", z_loss=1e-2)


def _torch_penalised(z, t):
    return _flat(z, t, "none", z_loss=1e-2)


def _offset(rng):
    """Logits far from zero: the softmax does not care, a log-sum-exp rounded at their size does."""
    return rng.standard_normal((9, 4)) + rng.choice([-40.0, 100.0], (9, 1))


ACCURACY = [
    Case("cross_entropy/far-from-zero", _entropy, _torch_entropy, (_offset, ids(4, 9))),
    Case("cross_entropy/z-loss-far-from-zero", _penalised, _torch_penalised, (_offset, ids(4, 9))),
    Case(  # a sure and right prediction: the loss log(1 + exp(-x)) must not drown in the logit x
        "cross_entropy/confident",
        _entropy,
        _torch_entropy,
        (lambda rng: rng.uniform(4, 6, (32, 1)) * [1.0, 0.0], value([0] * 32)),
    ),
]


# --- binary cross entropy, KL, ELBO ----------------------------------------

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
    Case(
        "reparameterize/noise-given",
        lambda m, v, n: F.reparameterize(m, v, noise=n),
        lambda m, v, n: m + torch.exp(0.5 * v) * n,
        (*PAIR, normal(4, 3)),
        fixed=(2,),
    ),
    Case(  # more than a kernel's block, the last one ragged
        "reparameterize/noise-given-many",
        lambda m, v, n: F.reparameterize(m, v, noise=n),
        lambda m, v, n: m + torch.exp(0.5 * v) * n,
        (normal(5, 9), normal(5, 9), normal(5, 9)),
        fixed=(2,),
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

CASES = [*SOFTMAX, *_classification(), *EXTREME_LOGITS, *ACCURACY, *_binary(), *VARIATIONAL]

assert len({c.name for c in CASES}) == len(CASES)
