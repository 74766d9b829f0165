"""Attention."""

import math

from core import check
from core.arrays import as_array
from core.functional.arguments import data, tensor
from core.tensor import apply


def attention(q, k, v, *, causal=False, causal_offset=0, mask=None, bias=None, scale=None):
    """softmax(scale q k^T + bias) v over the keys that causality, mask and bias all allow (Vaswani et al. 2017).

    q (B, h, Tq, d), k (B, h, Tk, d), v (B, h, Tk, dv) -> (B, h, Tq, dv). causal: query i sees keys j <= i +
    causal_offset (0 is torch's is_causal, Tk - Tq aligns the ends, as decoding needs). mask: boolean, True = may
    attend; bias: additive, may hold -inf and may want a gradient; both broadcast to (B, h, Tq, Tk). scale: 1/sqrt(d)
    unless given. A row that sees no key gives 0 and passes no gradient.
    """
    q, k, v, bias = tensor(q), tensor(k), tensor(v), tensor(bias)
    for name, x in (("q", q), ("k", k), ("v", v)):
        check.shaped("attention", name, x, 4, "(B, h, T, d)")
    check.floating("attention", q=q.data, k=k.data, v=v.data, bias=bias.data if bias is not None else None)
    check.matches("attention", "k", k.shape, (*q.shape[:2], k.shape[2], q.shape[3]))
    check.matches("attention", "v", v.shape, (*k.shape[:3], v.shape[3]))
    full = (*q.shape[:3], k.shape[2])
    check.no_gradient("attention", "mask", mask)
    mask = None if mask is None else as_array(data(mask))
    if mask is not None and mask.dtype != bool:
        check.fail("attention", "mask", f"of dtype {mask.dtype}", "boolean (an additive one is called bias)", TypeError)
    for name, x in (("mask", mask), ("bias", bias)):
        if x is not None and not _broadcasts(x.shape, full):
            check.fail("attention", name, f"of shape {x.shape}", f"one that broadcasts to (B, h, Tq, Tk) = {full}")
    scale = 1 / math.sqrt(max(q.shape[3], 1)) if scale is None else float(scale)
    return apply("attention", q, k, v, mask, bias, causal=bool(causal), causal_offset=int(causal_offset), scale=scale)


def _broadcasts(shape, full):
    return len(shape) <= len(full) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(full)))
