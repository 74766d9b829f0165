"""Scaled dot-product attention (Vaswani et al. 2017, equation 1), with everything that masks it.

    s = scale q k^T + bias, -inf where causal, the mask or the bias forbids;   p = softmax(s);   y = p v

Shapes: q (B, h, Tq, d), k (B, h, Tk, d), v (B, h, Tk, dv); mask and bias broadcast to (B, h, Tq, Tk). The reference
keeps the probabilities, all Tq x Tk of them; the kernels keep the largest score and the sum of exponentials of each
row, and compute p again. A row that sees no key gives 0.

# why: docs/kernels/attention.md
# next: core/reference/normalise.py
"""

from core.arrays import array_module, unbroadcast
from core.engine import Op


def _scores(q, k, mask, bias, causal, causal_offset, scale):
    xp = array_module(q)
    s = (q * scale) @ k.swapaxes(-1, -2)  # (B, h, Tq, Tk)
    if bias is not None:
        s += bias
    if causal:  # query i sees keys j <= i + offset
        seen = xp.tri(s.shape[-2], s.shape[-1], causal_offset, dtype=bool)
        s = xp.where(seen, s, -xp.inf)
    if mask is not None:
        s = xp.where(mask, s, -xp.inf)
    return s


def _attention(q, k, v, mask, bias, *, causal, causal_offset, scale):
    xp = array_module(q)
    p = _scores(q, k, mask, bias, causal, causal_offset, scale)
    if not p.shape[-1]:
        return xp.zeros((*q.shape[:-1], v.shape[-1]), q.dtype), (q, k, v, p, None if bias is None else bias.shape)
    top = p.max(-1, keepdims=True)
    p -= xp.where(top == -xp.inf, 0, top)  # a row of -inf only stays one, instead of becoming nan
    xp.exp(p, out=p)
    norm = p.sum(-1, keepdims=True)
    p /= xp.where(norm == 0, 1, norm)
    return p @ v, (q, k, v, p, None if bias is None else bias.shape)


def _attention_backward(saved, dy, needs_input_grad, *, causal, causal_offset, scale):
    """dv = p^T dy;  dp = dy v^T;  ds = p (dp - rowsum(p dp));  dq = scale ds k;  dk = scale ds^T q;  dbias = ds."""
    q, k, v, p, bias_shape = saved
    dv = p.swapaxes(-1, -2) @ dy if needs_input_grad[2] else None
    ds = dy @ v.swapaxes(-1, -2)
    ds -= (ds * p).sum(-1, keepdims=True)
    ds *= p
    dq = (ds @ k) * scale if needs_input_grad[0] else None
    dk = ds.swapaxes(-1, -2) @ q * scale if needs_input_grad[1] else None
    dbias = unbroadcast(ds, bias_shape) if needs_input_grad[4] else None
    return dq, dk, dv, None, dbias


attention = Op("attention", _attention, _attention_backward)


def cache_(buffer, x, length):
    """Append `x` (B, h, T, d) to a key or value cache (B, h, Tmax, d) that already holds `length` tokens."""
    buffer[:, :, length : length + x.shape[2]] = x
