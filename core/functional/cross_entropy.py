"""Cross entropy, of logits and of a linear layer that makes them."""

from core import check
from core.dispatch import run
from core.functional.arguments import REDUCTIONS, tensor


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
