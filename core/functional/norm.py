"""Normalisation and dropout."""

import math

from core import check
from core.dispatch import run_
from core.functional.arguments import dropout_of, tensor
from core.reference.pointwise import ACTIVATIONS
from core.tensor import apply


def layer_norm(x, w, b, *, eps=1e-5):
    """Normalise over the last axis (Ba et al. 2016): x (..., D), w and b (D,) or None -> (..., D)."""
    x, w, b = tensor(x), tensor(w), tensor(b)
    _norm_arguments("layer_norm", x, w, b)
    return apply("layer_norm", x, w, b, eps=eps)


def add_layer_norm(x, residual, w, b, *, eps=1e-5, dropout_p=0.0, mask=None):
    """(y, r) with r = residual + dropout(x) and y = layer_norm(r): the seam between two pre-norm branches.

    x and residual (..., D), w and b (D,); mask: boolean, True = kept, instead of drawing one.
    """
    x, residual, w, b = tensor(x), tensor(residual), tensor(w), tensor(b)
    _norm_arguments("add_layer_norm", x, w, b)
    check.matches("add_layer_norm", "residual", residual.shape, x.shape)
    mask, step, key = dropout_of("add_layer_norm", x, dropout_p, mask)
    return apply("add_layer_norm", x, residual, w, b, mask, step, eps=eps, dropout_p=dropout_p, **key)


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
    x, weight, bias, mean, var = (tensor(v) for v in (x, weight, bias, running_mean, running_var))
    _norm_arguments("batch_norm", x, weight, bias)
    check.one_of("batch_norm", "act", act, ACTIVATIONS)
    if (mean is None) != (var is None):
        check.fail("batch_norm", "running_mean or running_var", "None alone", "given with the other")
    for name, stat in (("running_mean", mean), ("running_var", var)):
        if stat is not None:
            check.matches("batch_norm", name, stat.shape, x.shape[-1:])
        elif not training:
            check.fail("batch_norm", name, "None", "a tensor when training is False")
    shared = {"eps": eps, "act": act, "negative_slope": negative_slope}
    if not training:
        return apply("batch_norm_eval", x, mean, var, weight, bias, **shared)
    count = math.prod(x.shape[:-1])
    if count < 2:
        check.fail("batch_norm", "x", f"of shape {x.shape}", "more than one value per channel when training")
    mask, step, key = dropout_of("batch_norm", x, dropout_p, mask)
    y, m, v = apply("batch_norm", x, weight, bias, mask, step, dropout_p=dropout_p, **shared, **key)
    if mean is not None:
        run_("running_stats_", mean.data, var.data, m.data, v.data, momentum=momentum, count=count)
        mean.bump_()
        var.bump_()
    return y


def dropout(x, p=0.5, training=True, *, mask=None):
    """x / (1 - p) where kept, 0 elsewhere (Srivastava et al. 2014); mask: boolean, True = kept, instead of drawing."""
    x = tensor(x)
    if not training or (p == 0 and mask is None):
        return x
    mask, step, key = dropout_of("dropout", x, p, mask, "p")
    return apply("dropout", x, mask, step, p=p, **key)


def _norm_arguments(op, x, w, b):
    check.floating(op, x=x.data)
    if not x.ndim:
        check.fail(op, "x", "0-dimensional", "(..., D)")
    for name, v in (("w", w), ("b", b)):
        if v is not None:
            check.matches(op, name, v.shape, x.shape[-1:])
