"""How the losses of elements become one: their mean, their sum, or none of these.

# next: core/reference/cross_entropy.py
"""

from core.arrays import array_module, total


def reduce_losses(losses, reduction, count):
    """'none' keeps the losses, 'sum' adds them, 'mean' divides by `count` (no element at all gives nan)."""
    if reduction == "none":
        return losses
    xp = array_module(losses)
    return xp.asarray(total(losses) / (count if reduction == "mean" else 1)).astype(losses.dtype)


def gradient_scale(dy, reduction, count):
    """What each element's own gradient is multiplied by."""
    return dy / array_module(dy).asarray(count).astype(dy.dtype) if reduction == "mean" else dy
