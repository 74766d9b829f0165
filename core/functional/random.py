"""Dropout."""

from core import check
from core.dispatch import run
from core.functional.arguments import dropout_of, tensor


def dropout(x, p=0.5, training=True, *, mask=None):
    """x / (1 - p) where kept, 0 elsewhere (Srivastava et al. 2014); mask: boolean, True = kept, instead of drawing."""
    x = tensor("dropout", "x", x)
    check.flag("dropout", "training", training)
    check.probability("dropout", "p", p)
    if not training or (p == 0 and mask is None):
        return x
    mask, step, key = dropout_of("dropout", x, p, mask, "p")
    return run("dropout", x, mask, step, p=p, **key)
