"""Batch norm, in training and in evaluation."""

import math

from core import check
from core.arrays import is_repeated
from core.dispatch import run, run_
from core.functional.arguments import activation, dropout_of, norm_arguments, optional


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
):
    """dropout(act(normalised x)) over all axes but the last (Ioffe & Szegedy 2015): x (..., C), the others (C,).

    Training normalises by the batch, moves the running statistics in place (when they are not None) and drops; else
    the running statistics normalise and nothing is dropped. Raises where training has one value per channel.
    """
    given = x, running_mean, running_var, weight, bias, training, momentum, eps
    return by_operation("batch_norm", *given, act, negative_slope, dropout_p, mask)


def by_operation(
    op,
    x,
    running_mean,
    running_var,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    act=None,
    negative_slope=0.01,
    dropout_p=0.0,
    mask=None,
    *,
    ranks=1,
    **attrs,
):
    """batch_norm by operation `op`, where x is one of `ranks` equal shares of a batch; `attrs` are the operation's."""
    x, weight, bias = norm_arguments("batch_norm", x, weight, bias, eps, ("weight", "bias"))
    check.flag("batch_norm", "training", training)
    check.number("batch_norm", "momentum", momentum, 0, 1)
    mean = _statistic("running_mean", running_mean, x, training)
    var = _statistic("running_var", running_var, x, training)
    if (mean is None) != (var is None):
        check.fail("batch_norm", "running_mean or running_var", "None alone", "given with the other")
    shared = {"eps": eps, **activation("batch_norm", act, negative_slope)}
    if not training:
        return run("batch_norm_eval", x, mean, var, weight, bias, **shared)
    count = math.prod(x.shape[:-1]) * ranks
    if count < 2:
        check.fail("batch_norm", "x", f"of shape {x.shape}", "more than one value per channel when training")
    mask, step, key = dropout_of("batch_norm", x, dropout_p, mask)
    y, m, v = run(op, x, weight, bias, mask, step, dropout_p=dropout_p, **shared, **key, **attrs)
    if mean is not None:
        run_("running_stats_", mean.data, var.data, m.data, v.data, momentum=momentum, count=count)
        mean.bump_()
        var.bump_()
    return y


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
