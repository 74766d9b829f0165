"""Enlarging images."""

from core import check
from core.dispatch import run
from core.functional.arguments import tensor


def upsample_nearest(x, scale=2):
    """Each pixel as a block of `scale` equal ones: x (N, H, W, C) -> (N, scale H, scale W, C); an integer or a pair."""
    op = "upsample_nearest"
    x = tensor(op, "x", x)
    check.floating(op, x=x.data)
    check.shaped(op, "x", x, 4, "(N, H, W, C)")
    return run(op, x, scale=check.pair(op, "scale", scale, 1))
