"""Cross entropy, of logits and of a linear layer."""

import torch
import torch.nn.functional as TF

from bench.parity.cases.inputs import Case, F, ids, normal, value
from bench.parity.cases.variational import INF


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

CASES = [*_classification(), *EXTREME_LOGITS, *ACCURACY]
