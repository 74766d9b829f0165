"""Attention."""

import math

from core import check
from core.dispatch import run
from core.functional.arguments import fixed, optional, tensor


def attention(q, k, v, *, causal=False, causal_offset=0, mask=None, bias=None, scale=None):
    """softmax(scale q k^T + bias) v over the keys that causality, mask and bias all allow (Vaswani et al. 2017).

    q (B, h, Tq, d), k (B, h, Tk, d), v (B, h, Tk, dv) -> (B, h, Tq, dv). causal: query i sees keys j <= i +
    causal_offset (0 is torch's is_causal, Tk - Tq aligns the ends, as decoding needs). mask: boolean, True = may
    attend; bias: additive, may hold -inf and may want a gradient; both broadcast to (B, h, Tq, Tk). scale: 1/sqrt(d)
    unless given. A row that sees no key gives 0 and passes no gradient.
    """
    op = "attention"
    q, k, v, bias = tensor(op, "q", q), tensor(op, "k", k), tensor(op, "v", v), optional(op, "bias", bias)
    for name, x in (("q", q), ("k", k), ("v", v)):
        check.shaped(op, name, x, 4, "(B, h, T, d)")
    check.floating(op, q=q.data, k=k.data, v=v.data, bias=bias.data if bias is not None else None)
    check.matches(op, "k", k.shape, (*q.shape[:2], k.shape[2], q.shape[3]))
    check.matches(op, "v", v.shape, (*k.shape[:3], v.shape[3]))
    full = (*q.shape[:3], k.shape[2])
    mask = fixed(op, "mask", mask, bool)
    for name, x in (("mask", mask), ("bias", bias)):
        if x is not None and not _broadcasts(x.shape, full):
            check.fail(op, name, f"of shape {x.shape}", f"one that broadcasts to (B, h, Tq, Tk) = {full}")
    check.flag(op, "causal", causal)
    check.integer_in(op, "causal_offset", causal_offset, -check.LARGE, check.LARGE)
    if scale is None:
        scale = 1 / math.sqrt(max(q.shape[3], 1))
    check.number(op, "scale", scale)
    options = {"causal": bool(causal), "causal_offset": int(causal_offset), "scale": float(scale)}
    return run(op, q, k, v, mask, bias, **options)


def _broadcasts(shape, full):
    return len(shape) <= len(full) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(full)))
