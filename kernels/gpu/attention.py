"""Scaled dot-product attention, masked by causality, a boolean mask and an additive bias, in any combination.

    s = scale q k^T + bias, -inf where hidden;   p = softmax(s);   y = p v

    ds = p (dp - delta)   with dp = dy v^T and delta = rowsum(dy y), which is rowsum(p dp)
    dq = scale ds k;   dk = scale ds^T q;   dv = p^T dy;   dbias = ds, added up over the axes the bias does not have

Shapes      q (B, h, Tq, d), k (B, h, Tk, d), v (B, h, Tk, dv) -> y (B, h, Tq, dv); mask and bias broadcast to
            (B, h, Tq, Tk). M queries, N keys in a tile; W, WV are d, dv, padded to powers of two; z counts B and h
Plan        forward   program = M queries of one head: walks over tiles of N keys with a running maximum and sum, and
                      stores y, and top and total with lse = top + log(total). Few queries (decoding) would leave the
                      device idle: then the keys are split among programs, and `_combine` weighs their results
            backward  computes p = e^(s - level) again, level being lse or top (see Precision). One launch for level and
                      delta, one for dk and dv (program = N keys, walks over queries, on transposed scores), one for dq
                      (program = M queries, walks over keys), one for dbias (program = a tile of the bias, walks over
                      all that it was broadcast to)
            causal: tiles of which all is hidden are skipped, except for dbias
Cost        forward 2 Tq Tk (d + dv) flops a head, backward 2 Tq Tk (4 d + 3 dv) (five products are enough, two are
            computed twice), dbias as much again as dq less ds k; bytes q, k, v, y once a tile of the other side;
            nothing of size Tq Tk is stored except a mask or bias given so, and its gradient
Precision   scores, sums and the accumulators float32; products in tf32x3 for float32, whose factors for float16 are
            rounded to float16 (p and ds too). delta needs all digits of y: for float16 a float32 copy of y is saved.
            Where one key has all the weight, dp - delta would be the difference of two roundings: ds is set to 0.
            Backward in float32 takes level = top and divides dy by total before: lse would be rounded. In float16 the
            divided dy could underflow: level = lse
Versions    backward as one kernel needs atomics for dq, in an order that varies: two kernels compute s twice instead.
            s = q k^T, then p^T as left factor, would transpose in registers (on Hopper, Triton before 3.7.1 computes
            wrong numbers there and says nothing): dk and dv compute k q^T. level and delta lie side by side, since two
            loads of one row each are issued in 4-byte pieces for every thread. Scores in base 2 would save one
            multiplication a score, but round once more (largest error of a test 1.7e-6, now 1.3e-6). A row that sees
            nothing gets level = inf, so that p = 0
Limits      d and dv at most 256. From 129 on the float32 backward pass spills registers, a float32 dbias from 65 on.
            Views (of a cache, of one projection for all heads) are copied first. float16 ds above 65504 overflows
Source      Dao et al. 2022, "FlashAttention", algorithms 1 and 4; split keys: "Flash-Decoding" (2023)
Status      untested on a device: all of it

# why: docs/kernels/attention.md
# next: kernels/gpu/attention_backward.py
"""

import triton
import triton.language as tl

from core.arrays import array_module, result_dtype
from core.engine import Op
from kernels.gpu.attention_backward import attention_backward, common, padded, put, scores, tile, without_repeats
from kernels.gpu.common import cdiv, contiguous, write_back
from kernels.launch import blocks, launch

FEW = 16  # queries, up to which the keys are split among programs
ENOUGH = 512  # programs, from which nothing is split; fixed, so that no device changes the order of a sum


@triton.jit
def _forward(
    q_ptr, k_ptr, v_ptr, mask_ptr, bias_ptr, y_ptr, wide_ptr, top_ptr, total_ptr,
    H, Tq, Tk, scale, offset, splits, length,
    D: tl.constexpr, DV: tl.constexpr, W: tl.constexpr, WV: tl.constexpr, MASK: tl.constexpr, BIAS: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y, top and total of M queries of head z = part // splits, from the `length` keys of its split."""
    tiles = tl.cdiv(Tq, BLOCK_M)
    first = tl.program_id(0) % tiles * BLOCK_M
    part = (tl.program_id(0) // tiles).to(tl.int64)
    z = part // splits
    lo = (part % splits).to(tl.int32) * length
    hi = tl.minimum(lo + length, Tk)
    if CAUSAL:
        hi = tl.minimum(hi, first + BLOCK_M + offset)
    q = tile(q_ptr, z * Tq, first, Tq, D, BLOCK_M, W)  # (M, W)
    i = first + tl.arange(0, BLOCK_M)  # (M,)
    m = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    y = tl.zeros((BLOCK_M, WV), tl.float32)
    for start in range(lo, hi, BLOCK_N):
        k = tile(k_ptr, z * Tk, start, Tk, D, BLOCK_N, W)  # (N, W)
        j = start + tl.arange(0, BLOCK_N)  # (N,)
        s = scores(
            q, k, mask_ptr, bias_ptr, z, i[:, None], j[None, :], H, Tq, Tk, scale, offset, MASK, BIAS, CAUSAL, PRECISION
        )  # (M, N)
        most = tl.maximum(m, tl.max(s, 1))
        level = tl.where(most == float("-inf"), 0.0, most)  # a row that has seen nothing yet must not become nan
        p = tl.exp(s - level[:, None])  # (M, N)
        shrink = tl.exp(m - level)
        total = total * shrink + tl.sum(p, 1)
        v = tile(v_ptr, z * Tk, start, Tk, DV, BLOCK_N, WV)  # (N, WV)
        y = tl.dot(p.to(v.dtype), v, y * shrink[:, None], input_precision=PRECISION)
        m = most
    y = y / tl.where(total == 0.0, 1.0, total)[:, None]
    put(y_ptr, y, part * Tq, first, Tq, DV, BLOCK_M, WV)
    if wide_ptr is not None:
        put(wide_ptr, y, part * Tq, first, Tq, DV, BLOCK_M, WV)
    tl.store(top_ptr + part * Tq + i, m, mask=i < Tq)
    tl.store(total_ptr + part * Tq + i, total, mask=i < Tq)


@triton.jit
def _combine(
    parts_ptr, tops_ptr, totals_ptr, y_ptr, wide_ptr, top_ptr, total_ptr, splits, Tq,
    DV: tl.constexpr, WV: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """One query's y from those of its splits, each weighed by its share of the sum."""
    row = tl.program_id(0).to(tl.int64)
    s, c = tl.arange(0, SPLITS), tl.arange(0, WV)
    o = (row // Tq * splits + s) * Tq + row % Tq
    tops = tl.load(tops_ptr + o, mask=s < splits, other=float("-inf"))  # (SPLITS,)
    totals = tl.load(totals_ptr + o, mask=s < splits, other=0.0)
    top = tl.max(tops, 0)
    share = totals * tl.exp(tops - tl.where(top == float("-inf"), 0.0, top))
    total = tl.sum(share, 0)
    inside = (s < splits)[:, None] & (c < DV)[None, :]
    parts = tl.load(parts_ptr + o[:, None] * DV + c[None, :], mask=inside, other=0.0)  # (SPLITS, WV)
    y = tl.sum(parts * share[:, None], 0) / tl.where(total == 0.0, 1.0, total)  # (WV,)
    tl.store(y_ptr + row * DV + c, y, mask=c < DV)
    if wide_ptr is not None:
        tl.store(wide_ptr + row * DV + c, y, mask=c < DV)
    tl.store(top_ptr + row, top)
    tl.store(total_ptr + row, total)


def _attention(q, k, v, mask, bias, *, causal, causal_offset, scale):
    xp, dtype, bias_shape = array_module(q), result_dtype(q, k, v, bias), None if bias is None else bias.shape
    q, k, v = (xp.ascontiguousarray(x, dtype) for x in (q, k, v))
    mask, bias = without_repeats(mask), without_repeats(bias)
    (B, h, Tq, _), (Tk, dv) = q.shape, v.shape[2:]
    numbers, constants = common(q, k, v, mask, bias, causal, causal_offset, scale)
    config = blocks("attention", "few_queries" if Tq <= FEW else "forward", dtype, padded(q, v))
    splits = max(1, min(config.pop("SPLITS", 1), cdiv(ENOUGH, max(B * h, 1)), Tk // (4 * config["BLOCK_N"])))
    length = cdiv(cdiv(Tk, splits), config["BLOCK_N"]) * config["BLOCK_N"]
    results = _results(xp, (B, h, Tq, dv), dtype)
    y, wide, top, total = results
    grid, given = (B * h * splits * cdiv(Tq, config["BLOCK_M"]),), (q, k, v, mask, bias)
    if splits == 1:
        launch(_forward, grid, *given, *results, *numbers, 1, length, **constants, **config)
    else:
        parts, _, tops, totals = _results(xp, (B, h, splits, Tq, dv), "float32")
        launch(_forward, grid, *given, parts, None, tops, totals, *numbers, splits, length, **constants, **config)
        widths = {"DV": dv, "WV": constants["WV"], "SPLITS": triton.next_power_of_2(splits)}
        launch(_combine, (B * h * Tq,), parts, tops, totals, *results, splits, Tq, **widths)
    return y, (q, k, v, mask, bias, bias_shape, y if wide is None else wide, top, total)


def _results(xp, shape, dtype):
    """Room for y, for its float32 copy if y is not that, and for each row's largest score and sum."""
    y = xp.empty(shape, dtype)
    wide = None if y.dtype == "float32" else xp.empty(shape, "float32")
    return y, wide, xp.empty(shape[:-1], "float32"), xp.empty(shape[:-1], "float32")


attention = Op("attention", _attention, attention_backward, backend="triton")


@triton.jit
def _append(buffer_ptr, x_ptr, n, size, at, BLOCK: tl.constexpr):
    """Rows of x, n numbers each, to rows of the buffer, `size` numbers each, from number `at` on."""
    row = tl.program_id(0).to(tl.int64)
    o = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    tl.store(buffer_ptr + row * size + at + o, tl.load(x_ptr + row * n + o, mask=o < n, other=0.0), mask=o < n)


def cache_(buffer, x, length):
    """Append `x` (B, h, T, d) to a key or value cache (B, h, Tmax, d) that already holds `length` tokens."""
    B, h, T, d = x.shape
    if (B, h, d) != (*buffer.shape[:2], buffer.shape[3]) or length + T > buffer.shape[2]:
        raise ValueError(f"cache_: x {x.shape} after {length} tokens does not fit into the buffer {buffer.shape}")
    config = blocks("attention", "append", x.dtype, T * d)
    grid, flat = (B * h, cdiv(T * d, config["BLOCK"])), contiguous(buffer)
    launch(_append, grid, flat, contiguous(x), T * d, buffer.shape[2] * d, length * d, **config)
    write_back([buffer], [flat])
