"""Batch norm in training and in evaluation, and the synchronised one as one of two equal ranks."""

import functools

import torch
import torch.nn.functional as TF

from bench.parity.cases.inputs import ACTS, KINKED, Case, F, coin, copied, normal, positive, value
from core.runtime.distributed import ALONE, Alone
from core.runtime.sync_batch_norm import sync_batch_norm


def _torch_norm(x, mean, var, w, b, training, momentum, eps):
    """torch's batch norm with channels last: the channel axis goes second and back."""
    y = TF.batch_norm(x.movedim(-1, 1), mean, var, w, b, training, momentum, eps)
    return y.movedim(1, -1)


class Mirror(Alone):
    """Two ranks that hold the same arrays."""

    size = 2

    def sum_(self, array):
        array *= 2


def _mirrored(x, *args):
    """torch's norm of the batch of both: a half's result, whose gradients are those of one rank."""
    return sum(_torch_norm(torch.cat([x, x]), *args).chunk(2)) / 2


def train(
    name, shape, affine="wb", act=None, p=0.0, x=None, w=None, b=None, stats=True, momentum=0.1, eps=1e-5, smooth=True,
    group=ALONE,
):  # fmt: skip
    """Training: (y, running mean, running variance), the statistics being copies that the operation may move."""
    c = shape[-1]

    def unpack(args):
        args = list(args)
        return [args.pop(0) if want else None for want in ("w" in affine, "b" in affine, p > 0)]

    def ours(x, mean, var, *rest):
        (w, b, mask), options = unpack(rest), {"act": act, "dropout_p": p, "momentum": momentum, "eps": eps}
        norm = F.batch_norm if group.size == 1 else functools.partial(sync_batch_norm, group=group)
        if not stats:
            return norm(x, None, None, w, b, True, mask=mask, **options)
        mean, var = copied(mean), copied(var)
        return norm(x, mean, var, w, b, True, mask=mask, **options), mean, var

    def theirs(x, mean, var, *rest):
        w, b, mask = unpack(rest)
        mean, var = (mean.clone(), var.clone()) if stats else (None, None)
        y = ACTS[act]((_torch_norm if group.size == 1 else _mirrored)(x, mean, var, w, b, True, momentum, eps))
        y = y if mask is None else y * mask / (1 - p)
        return (y, mean, var) if stats else y

    make = [x or normal(*shape), normal(c), positive(c)]
    make += [positive(c)] * ("w" in affine) + [b or normal(c)] * ("b" in affine) + [coin(*shape)] * (p > 0)
    op = "batch_norm" if group.size == 1 else "sync_batch_norm"
    return Case(f"{op}/{name}", ours, theirs, tuple(make), fixed=(1, 2), smooth=smooth)


def evaluate(name, shape, affine="wb", act=None, b=None, smooth=True):
    c = shape[-1]

    def split(rest):
        rest = list(rest)
        return [rest.pop(0) if letter in affine else None for letter in "wb"]

    def ours(x, mean, var, *rest):
        return F.batch_norm(x, mean, var, *split(rest), act=act)

    def theirs(x, mean, var, *rest):
        return ACTS[act](_torch_norm(x, mean, var, *split(rest), False, 0.1, 1e-5))

    make = (
        [normal(*shape), normal(c), positive(c)] + [positive(c)] * ("w" in affine) + [b or normal(c)] * ("b" in affine)
    )
    return Case(f"batch_norm_eval/{name}", ours, theirs, tuple(make), fixed=(1, 2), smooth=smooth)


# |x^| < sqrt(12) with 12 values a channel and weights below 3, so these channels lie wholly on one side of the kink
SIDES = value([15.0, -15.0, 15.0])


def _norms():
    for act in ACTS:
        kinked = act in KINKED
        yield train(f"act-{act}", (2, 3, 2, 3), act=act, smooth=not kinked)
        yield train(f"act-{act}-dropped", (2, 3, 2, 3), act=act, p=0.3, smooth=not kinked)
        yield evaluate(f"act-{act}", (2, 3, 2, 3), act=act, smooth=not kinked)
        if kinked:
            yield train(f"act-{act}-smooth", (2, 3, 2, 3), act=act, b=SIDES)
            yield train(f"act-{act}-dropped-smooth", (2, 3, 2, 3), act=act, b=SIDES, p=0.3)
            yield evaluate(f"act-{act}-smooth", (2, 3, 2, 3), act=act, b=SIDES)
    yield train("no-weight", (6, 3), affine="b")
    yield train("no-bias", (6, 3), affine="w")
    yield train("bare", (6, 3), affine="")
    yield train("no-statistics", (6, 3), stats=False)
    yield train("momentum-and-eps", (5, 2), momentum=0.3, eps=1e-2)
    yield train("two-values", (2, 3), eps=0.5)  # with a small eps the gradient is a small difference of large terms
    yield train("large-mean", (64, 3), x=normal(64, 3, mean=100.0))
    yield train("large-mean-image", (4, 9, 9, 2), x=normal(4, 9, 9, 2, mean=100.0))
    yield train("many-values", (6, 20, 20, 2))
    yield train("past-a-block", (233, 19))  # with tiles of 16: strips of three, the last not full, and two of channels
    for affine in ("wb", "w", "b", ""):
        yield train(f"affine-{affine or 'none'}", (2, 3, 2, 3), affine=affine, group=Mirror())
    yield train("act-leaky_relu-dropped", (2, 3, 2, 3), act="leaky_relu", p=0.3, smooth=False, group=Mirror())
    yield train("large-mean", (64, 3), x=normal(64, 3, mean=100.0), group=Mirror())
    yield evaluate("rows", (6, 3))
    yield evaluate("no-weight", (6, 3), affine="b")
    yield evaluate("bare", (6, 3), affine="")
    yield evaluate("batch-0", (0, 2, 2, 3))


CASES = [*_norms()]
