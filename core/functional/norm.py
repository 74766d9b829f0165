"""Normalisation and dropout."""

import math

from core import check
from core.arrays import is_repeated
from core.dispatch import run, run_
from core.functional.arguments import activation, dropout_of, optional, tensor
from core.runtime.distributed import ALONE, a_world

GROUP_NORM_ACTS = (None, "silu")


def layer_norm(x, w, b, *, eps=1e-5):
    """Normalise over the last axis (Ba et al. 2016): x (..., D), w and b (D,) or None -> (..., D)."""
    x, w, b = _norm_arguments("layer_norm", x, w, b, eps)
    return run("layer_norm", x, w, b, eps=eps)


def add_layer_norm(x, residual, w, b, *, eps=1e-5, dropout_p=0.0, mask=None):
    """(y, r) with r = residual + dropout(x) and y = layer_norm(r): the seam between two pre-norm branches.

    x and residual (..., D), w and b (D,); mask: boolean, True = kept, instead of drawing one.
    """
    op = "add_layer_norm"
    x, w, b = _norm_arguments(op, x, w, b, eps)
    residual = tensor(op, "residual", residual)
    check.floating(op, residual=residual.data)
    check.matches(op, "residual", residual.shape, x.shape)
    mask, step, key = dropout_of(op, x, dropout_p, mask)
    return run(op, x, residual, w, b, mask, step, eps=eps, dropout_p=dropout_p, **key)


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5, *, act=None):
    """act(normalised x) over each image's pixels and the channels of a group (Wu & He 2018): x (N, ..., C), weight and
    bias (C,) or None; num_groups divides C; act is None or "silu"."""
    op = "group_norm"
    x, weight, bias = _norm_arguments(op, x, weight, bias, eps, ("weight", "bias"))
    if x.ndim < 2:
        check.fail(op, "x", f"of shape {x.shape}", "(N, ..., C)")
    check.count(op, "num_groups", num_groups)
    if x.shape[-1] % num_groups:
        check.fail(op, "num_groups", num_groups, f"a divisor of x's {x.shape[-1]} channels")
    check.one_of(op, "act", act, GROUP_NORM_ACTS)
    return run(op, x, weight, bias, num_groups=int(num_groups), eps=eps, act=act)


def batch_norm(
    x,
    running_mean,
    running_var,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    *,
    act=None,
    negative_slope=0.01,
    dropout_p=0.0,
    mask=None,
    world=ALONE,
):
    """dropout(act(normalised x)) over all axes but the last (Ioffe & Szegedy 2015): x (..., C), the others (C,).

    Training normalises by the batch, moves the running statistics in place (when they are not None) and drops; else
    the running statistics normalise and nothing is dropped. Raises where training has one value per channel.
    world: of several ranks, whose x are normalised as one; all have the same shape (core/runtime/distributed.py).
    """
    op = "batch_norm"
    x, weight, bias = _norm_arguments(op, x, weight, bias, eps, ("weight", "bias"))
    check.flag(op, "training", training)
    check.number(op, "momentum", momentum, 0, 1)
    mean, var = (
        _statistic(n, v, x, training) for n, v in (("running_mean", running_mean), ("running_var", running_var))
    )
    if (mean is None) != (var is None):
        check.fail(op, "running_mean or running_var", "None alone", "given with the other")
    shared = {"eps": eps, **activation(op, act, negative_slope)}
    a_world(op, world)
    if not training:
        return run("batch_norm_eval", x, mean, var, weight, bias, **shared)
    count = math.prod(x.shape[:-1]) * world.size
    if count < 2:
        check.fail(op, "x", f"of shape {x.shape}", "more than one value per channel when training")
    mask, step, key = dropout_of(op, x, dropout_p, mask)
    if world.size > 1:
        op, shared = "sync_batch_norm", {**shared, "world": world}
    y, m, v = run(op, x, weight, bias, mask, step, dropout_p=dropout_p, **shared, **key)
    if mean is not None:
        run_("running_stats_", mean.data, var.data, m.data, v.data, momentum=momentum, count=count)
        mean.bump_()
        var.bump_()
    return y


def dropout(x, p=0.5, training=True, *, mask=None):
    """x / (1 - p) where kept, 0 elsewhere (Srivastava et al. 2014); mask: boolean, True = kept, instead of drawing."""
    x = tensor("dropout", "x", x)
    check.flag("dropout", "training", training)
    check.probability("dropout", "p", p)
    if not training or (p == 0 and mask is None):
        return x
    mask, step, key = dropout_of("dropout", x, p, mask, "p")
    return run("dropout", x, mask, step, p=p, **key)


def _norm_arguments(op, x, w, b, eps, names=("w", "b")):
    """x (..., D), and w and b (D,) or None, which `names` name."""
    x, w, b = tensor(op, "x", x), optional(op, names[0], w), optional(op, names[1], b)
    check.floating(op, x=x.data)
    check.last(op, "x", x, "(..., D)")
    check.number(op, "eps", eps, 0)
    for name, v in zip(names, (w, b)):
        if v is not None:
            check.floating(op, **{name: v.data})
            check.matches(op, name, v.shape, x.shape[-1:])
    return x, w, b


def _statistic(name, stat, x, training):
    """A running statistic, which training writes to and which gets no gradient; None where it may be left out."""
    check.no_gradient("batch_norm", name, stat)
    stat = optional("batch_norm", name, stat)
    if stat is None:
        if not training:
            check.fail("batch_norm", name, "None", "a tensor when training is False")
        return None
    check.floating("batch_norm", **{name: stat.data})
    check.matches("batch_norm", name, stat.shape, x.shape[-1:])
    if training and is_repeated(stat.data):
        check.fail("batch_norm", name, "read-only", "an array that training can write to")
    return stat
