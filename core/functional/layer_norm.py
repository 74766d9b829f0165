"""Layer norm, alone and with the sum of two branches."""

from core import check
from core.dispatch import run
from core.functional.arguments import dropout_of, norm_arguments, tensor


def layer_norm(x, w, b, *, eps=1e-5):
    """Normalise over the last axis (Ba et al. 2016): x (..., D), w and b (D,) or None -> (..., D)."""
    x, w, b = norm_arguments("layer_norm", x, w, b, eps)
    return run("layer_norm", x, w, b, eps=eps)


def add_layer_norm(x, residual, w, b, *, eps=1e-5, dropout_p=0.0, mask=None):
    """(y, r) with r = residual + dropout(x) and y = layer_norm(r): the seam between two pre-norm branches.

    x and residual (..., D), w and b (D,); mask: boolean, True = kept, instead of drawing one.
    """
    op = "add_layer_norm"
    x, w, b = norm_arguments(op, x, w, b, eps)
    residual = tensor(op, "residual", residual)
    check.floating(op, residual=residual.data)
    check.matches(op, "residual", residual.shape, x.shape)
    mask, step, key = dropout_of(op, x, dropout_p, mask)
    return run(op, x, residual, w, b, mask, step, eps=eps, dropout_p=dropout_p, **key)
