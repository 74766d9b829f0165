"""Attention's backward pass, and the pieces that both passes share; kernels/gpu/attention.py explains it all.

In loops over tiles `disable_licm` forbids the compiler to move what does not change out of the loop ("loop-invariant
code motion"): three TF32 passes split each operand in two, and what was split before the loop would stay in registers.

# why: docs/kernels/attention.md
# next: kernels/gpu/conv.py
"""

import math

import triton
import triton.language as tl

from core.arrays import array_module
from kernels.gpu.common import cdiv, contiguous, precision_of
from kernels.launch import blocks, launch


@triton.jit
def tile(ptr, base, start, T, D: tl.constexpr, ROWS: tl.constexpr, W: tl.constexpr):
    """Rows start ... of the (T, D) matrix that begins at row `base`, zero beyond its edges: (ROWS, W)."""
    r, c = tl.arange(0, ROWS)[:, None], tl.arange(0, W)[None, :]
    return tl.load(ptr + (base + start) * D + r * D + c, mask=(start + r < T) & (c < D), other=0.0)


@triton.jit
def put(ptr, x, base, start, T, D: tl.constexpr, ROWS: tl.constexpr, W: tl.constexpr):
    """Store x where `tile` would load it."""
    r, c = tl.arange(0, ROWS)[:, None], tl.arange(0, W)[None, :]
    tl.store(ptr + (base + start) * D + r * D + c, x, mask=(start + r < T) & (c < D))


@triton.jit
def place(z, i, j, H, Tq, Tk, AXES: tl.constexpr):
    """Where an array that has the AXES of (B, h, Tq, Tk), and 1 for the others, keeps query i and key j of head z, and
    whether it does: of the shape of i, j or both, so that a row of keys is loaded once and not for every query."""
    o, inside = tl.full((1, 1), 0, tl.int64), tl.full((1, 1), 1, tl.int1)
    if AXES[0]:
        o += z // H
    if AXES[1]:
        o = o * H + z % H
    if AXES[2]:
        o, inside = o * Tq + i, inside & (i < Tq)
    if AXES[3]:
        o, inside = o * Tk + j, inside & (j < Tk)
    return o, inside


@triton.jit
def scores(
    left, right, mask_ptr, bias_ptr, z, i, j, H, Tq, Tk, scale, offset,
    MASK: tl.constexpr, BIAS: tl.constexpr, CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores of queries i and keys j of head z, -inf where j is hidden: left right^T, (M, N) or (N, M)."""
    if left.dtype == tl.float32:  # scale the queries, on whichever side: one rounding, the same in every pass
        if i.shape[1] == 1:
            left = left * scale
        else:
            right = right * scale
        s = tl.dot(left, tl.trans(right), input_precision=PRECISION)
    else:
        s = tl.dot(left, tl.trans(right), input_precision=PRECISION) * scale
    seen = (i < Tq) & (j < Tk)
    if bias_ptr is not None:
        o, inside = place(z, i, j, H, Tq, Tk, BIAS)
        s += tl.load(bias_ptr + o, mask=inside, other=0.0).to(tl.float32)
    if mask_ptr is not None:
        o, inside = place(z, i, j, H, Tq, Tk, MASK)
        seen &= tl.load(mask_ptr + o, mask=inside, other=0) != 0
    if CAUSAL:
        seen &= j <= i + offset
    return tl.where(seen, s, float("-inf"))


@triton.jit
def _delta(
    y_ptr, dy_ptr, top_ptr, total_ptr, stats_ptr, scaled_ptr, rows,
    DV: tl.constexpr, WV: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """stats[row] = (level, delta) of M rows: level = inf if a row sees nothing, delta = inf if one key has all weight.

    Without scaled_ptr level = lse, delta = dy . y and p = exp(s - level). With it the row's sum leaves p for dy: scaled
    = dy / total, level = top, delta = scaled . y, and exp(s - level) is total p. Each term of dv = p^T dy and of
    ds = p (dy v^T - delta) has p and dy once, so both are the same; s - top has the digits that s - lse rounds away."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    i = first + tl.arange(0, BLOCK_M)
    y = tile(y_ptr, 0, first, rows, DV, BLOCK_M, WV)  # (M, WV)
    dy = tile(dy_ptr, 0, first, rows, DV, BLOCK_M, WV).to(tl.float32)
    total = tl.load(total_ptr + i, mask=i < rows, other=1.0)  # (M,)
    level = tl.load(top_ptr + i, mask=i < rows, other=0.0)
    if scaled_ptr is not None:
        dy = dy / tl.where(total == 0.0, 1.0, total)[:, None]
        put(scaled_ptr, dy, 0, first, rows, DV, BLOCK_M, WV)
    else:
        level += tl.log(total)
    tl.store(stats_ptr + 2 * i, tl.where(total == 0.0, float("inf"), level), mask=i < rows)
    tl.store(stats_ptr + 2 * i + 1, tl.where(total == 1.0, float("inf"), tl.sum(y * dy, 1)), mask=i < rows)


@triton.jit
def _ds(p, dp, delta):
    """p (dp - delta), and zero where one key has all the weight: dp and delta would differ by their rounding there."""
    return p * tl.where(delta == float("inf"), 0.0, dp - delta)


@triton.jit
def _stats(stats_ptr, base, start, T, ROWS: tl.constexpr):
    """(level, delta) of ROWS queries, in one load."""
    o = tl.arange(0, 2 * ROWS)
    both = tl.load(stats_ptr + (base + start) * 2 + o, mask=o < 2 * (T - start), other=0.0)
    return tl.split(tl.reshape(both, (ROWS, 2)))


@triton.jit
def _keys_and_values(
    q_ptr, k_ptr, v_ptr, mask_ptr, bias_ptr, dy_ptr, stats_ptr, dk_ptr, dv_ptr, H, Tq, Tk, scale, offset,
    D: tl.constexpr, DV: tl.constexpr, W: tl.constexpr, WV: tl.constexpr, MASK: tl.constexpr, BIAS: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dk and dv of N keys of head z."""
    tiles = tl.cdiv(Tk, BLOCK_N)
    first = tl.program_id(0) % tiles * BLOCK_N
    z = (tl.program_id(0) // tiles).to(tl.int64)
    lo = 0
    if CAUSAL:
        lo = tl.maximum(first - offset, 0) // BLOCK_M * BLOCK_M
    k = tile(k_ptr, z * Tk, first, Tk, D, BLOCK_N, W)  # (N, W)
    v = tile(v_ptr, z * Tk, first, Tk, DV, BLOCK_N, WV)  # (N, WV)
    j = first + tl.arange(0, BLOCK_N)[:, None]  # (N, 1)
    dk = tl.zeros((BLOCK_N, W), tl.float32)
    dv = tl.zeros((BLOCK_N, WV), tl.float32)
    for start in tl.range(lo, Tq, BLOCK_M, disable_licm=PRECISION == "tf32x3"):
        q = tile(q_ptr, z * Tq, start, Tq, D, BLOCK_M, W)  # (M, W)
        dy = tile(dy_ptr, z * Tq, start, Tq, DV, BLOCK_M, WV)  # (M, WV)
        level, delta = _stats(stats_ptr, z * Tq, start, Tq, BLOCK_M)  # (M,)
        i = start + tl.arange(0, BLOCK_M)[None, :]  # (1, M)
        s = scores(k, q, mask_ptr, bias_ptr, z, i, j, H, Tq, Tk, scale, offset, MASK, BIAS, CAUSAL, PRECISION)
        p = tl.exp(s - level[None, :])  # (N, M)
        dv = tl.dot(p.to(dy.dtype), dy, dv, input_precision=PRECISION)
        ds = _ds(p, tl.dot(v, tl.trans(dy), input_precision=PRECISION), delta[None, :])  # (N, M)
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)
    put(dk_ptr, dk * scale, z * Tk, first, Tk, D, BLOCK_N, W)
    put(dv_ptr, dv, z * Tk, first, Tk, DV, BLOCK_N, WV)


@triton.jit
def _queries(
    q_ptr, k_ptr, v_ptr, mask_ptr, bias_ptr, dy_ptr, stats_ptr, dq_ptr, H, Tq, Tk, scale, offset,
    D: tl.constexpr, DV: tl.constexpr, W: tl.constexpr, WV: tl.constexpr, MASK: tl.constexpr, BIAS: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dq of M queries of head z."""
    tiles = tl.cdiv(Tq, BLOCK_M)
    first = tl.program_id(0) % tiles * BLOCK_M
    z = (tl.program_id(0) // tiles).to(tl.int64)
    hi = Tk
    if CAUSAL:
        hi = tl.minimum(Tk, first + BLOCK_M + offset)
    q = tile(q_ptr, z * Tq, first, Tq, D, BLOCK_M, W)  # (M, W)
    dy = tile(dy_ptr, z * Tq, first, Tq, DV, BLOCK_M, WV)  # (M, WV)
    level, delta = _stats(stats_ptr, z * Tq, first, Tq, BLOCK_M)  # (M,)
    i = first + tl.arange(0, BLOCK_M)[:, None]  # (M, 1)
    dq = tl.zeros((BLOCK_M, W), tl.float32)
    for start in tl.range(0, hi, BLOCK_N, disable_licm=PRECISION == "tf32x3"):
        k = tile(k_ptr, z * Tk, start, Tk, D, BLOCK_N, W)  # (N, W)
        v = tile(v_ptr, z * Tk, start, Tk, DV, BLOCK_N, WV)  # (N, WV)
        j = start + tl.arange(0, BLOCK_N)[None, :]  # (1, N)
        s = scores(q, k, mask_ptr, bias_ptr, z, i, j, H, Tq, Tk, scale, offset, MASK, BIAS, CAUSAL, PRECISION)
        p = tl.exp(s - level[:, None])  # (M, N)
        ds = _ds(p, tl.dot(dy, tl.trans(v), input_precision=PRECISION), delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    put(dq_ptr, dq * scale, z * Tq, first, Tq, D, BLOCK_M, W)


@triton.jit
def _digit(n, program, iteration, OWN: tl.constexpr):
    """The index on an axis of length n, taken from the program's number if the bias has the axis, else from the loop's;
    and what is left of both numbers."""
    if OWN:
        index, program = program % n, program // n
    else:
        index, iteration = iteration % n, iteration // n
    return index, program, iteration


@triton.jit
def _scores_tile(iteration, B, H, Tq, Tk, OWN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Which tile of the scores a program looks at in a iteration: (head z, first query, first key)."""
    tile_n, program, iteration = _digit(tl.cdiv(Tk, BLOCK_N), tl.program_id(0), iteration, OWN[3])
    tile_m, program, iteration = _digit(tl.cdiv(Tq, BLOCK_M), program, iteration, OWN[2])
    head, program, iteration = _digit(H, program, iteration, OWN[1])
    batch, program, iteration = _digit(B, program, iteration, OWN[0])
    return batch.to(tl.int64) * H + head, tile_m * BLOCK_M, tile_n * BLOCK_N


@triton.jit
def _bias(
    q_ptr, k_ptr, v_ptr, mask_ptr, bias_ptr, dy_ptr, stats_ptr, dbias_ptr, H, Tq, Tk, scale, offset, B, iterations,
    D: tl.constexpr, DV: tl.constexpr, W: tl.constexpr, WV: tl.constexpr, MASK: tl.constexpr, BIAS: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr, OWN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dbias, which has the axes OWN, of one tile: ds added up over all that the tile was broadcast to."""
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for iteration in tl.range(0, iterations, disable_licm=PRECISION == "tf32x3"):
        z, m, n = _scores_tile(iteration, B, H, Tq, Tk, OWN, BLOCK_M, BLOCK_N)
        q = tile(q_ptr, z * Tq, m, Tq, D, BLOCK_M, W)  # (M, W)
        dy = tile(dy_ptr, z * Tq, m, Tq, DV, BLOCK_M, WV)  # (M, WV)
        k = tile(k_ptr, z * Tk, n, Tk, D, BLOCK_N, W)  # (N, W)
        v = tile(v_ptr, z * Tk, n, Tk, DV, BLOCK_N, WV)  # (N, WV)
        level, delta = _stats(stats_ptr, z * Tq, m, Tq, BLOCK_M)  # (M,)
        i, j = m + tl.arange(0, BLOCK_M)[:, None], n + tl.arange(0, BLOCK_N)[None, :]
        s = scores(q, k, mask_ptr, bias_ptr, z, i, j, H, Tq, Tk, scale, offset, MASK, BIAS, CAUSAL, PRECISION)
        dp = tl.dot(dy, tl.trans(v), input_precision=PRECISION)
        total += _ds(tl.exp(s - level[:, None]), dp, delta[:, None])  # (M, N)
    if not OWN[2]:
        total = tl.sum(total, 0, keep_dims=True)  # (1, N)
    if not OWN[3]:
        total = tl.sum(total, 1, keep_dims=True)  # (M, 1) or (1, 1)
    z, m, n = _scores_tile(0, B, H, Tq, Tk, OWN, BLOCK_M, BLOCK_N)
    i, j = m + tl.arange(0, BLOCK_M)[:, None], n + tl.arange(0, BLOCK_N)[None, :]
    o, inside = place(z, i, j, H, Tq, Tk, OWN)
    tl.store(dbias_ptr + o, total, mask=inside)


# --- on the host ----------------------------------------


def axes(x):
    """Which of the axes (B, h, Tq, Tk) an array that broadcasts to them has with a length other than 1."""
    return None if x is None else (False,) * (4 - x.ndim) + tuple(n != 1 for n in x.shape)


def without_repeats(x):
    """`x` C-contiguous, with length 1 on the axes along which one number stands for all; None stays None."""
    return None if x is None else contiguous(x[tuple(slice(None if s else 1) for s in x.strides)])


def padded(*arrays):
    """The last axis of the widest as a power of two that tl.dot takes."""
    return max(16, triton.next_power_of_2(max(x.shape[-1] for x in arrays)))


def common(q, k, v, mask, bias, causal, causal_offset, scale):
    """What all kernels take: (numbers, constants)."""
    (_, h, Tq, d), (Tk, dv) = q.shape, v.shape[2:]
    offset = max(-Tq, min(causal_offset, Tk))  # beyond these it changes nothing, and might not fit 32 bits
    constants = {"D": d, "DV": dv, "W": padded(q), "WV": padded(v), "MASK": axes(mask), "BIAS": axes(bias)}
    return (h, Tq, Tk, scale, offset), {**constants, "CAUSAL": causal, "PRECISION": precision_of(q)}


def attention_backward(saved, dy, needs_input_grad, *, causal, causal_offset, scale):
    q, k, v, mask, bias, bias_shape, y, top, total = saved
    xp, (B, h, Tq, _), Tk = array_module(q), q.shape, k.shape[2]
    numbers, constants = common(q, k, v, mask, bias, causal, causal_offset, scale)
    sizes = lambda kernel: blocks("attention", kernel, q.dtype, padded(q, v))
    dy, stats = xp.ascontiguousarray(dy, q.dtype), xp.empty((*top.shape, 2), "float32")
    scaled = xp.empty_like(dy) if dy.dtype == "float32" else None  # in float16 it could underflow
    _launch_delta(y, dy, top, total, stats, scaled, constants, sizes("delta"))
    given = q, k, v, mask, bias, dy if scaled is None else scaled, stats
    dq = dk = dv = dbias = None
    if needs_input_grad[0]:
        dq, config = xp.empty_like(q), sizes("queries")
        launch(_queries, (B * h * cdiv(Tq, config["BLOCK_M"]),), *given, dq, *numbers, **constants, **config)
    if needs_input_grad[1] or needs_input_grad[2]:
        dk, dv, config = xp.empty_like(k), xp.empty_like(v), sizes("keys_and_values")
        grid = (B * h * cdiv(Tk, config["BLOCK_N"]),)
        launch(_keys_and_values, grid, *given, dk, dv, *numbers, **constants, **config)
    if needs_input_grad[4]:
        dbias = xp.zeros(bias_shape, bias.dtype)
        _launch_bias(given, dbias, numbers, constants, sizes("bias"))
    return dq, dk if needs_input_grad[1] else None, dv if needs_input_grad[2] else None, None, dbias


def _launch_delta(y, dy, top, total, stats, scaled, constants, config):
    widths, rows = {"DV": constants["DV"], "WV": constants["WV"]}, top.size
    launch(_delta, (cdiv(rows, config["BLOCK_M"]),), y, dy, top, total, stats, scaled, rows, **widths, **config)


def _launch_bias(given, dbias, numbers, constants, config):
    """A program for each tile of the bias, and a iteration of its loop for each tile of scores that it was added to."""
    (B, h, Tq, _), Tk, own = given[0].shape, given[1].shape[2], axes(dbias)
    lengths = B, h, cdiv(Tq, config["BLOCK_M"]), cdiv(Tk, config["BLOCK_N"])
    programs = math.prod(n for n, has in zip(lengths, own) if has)
    iterations = math.prod(n for n, has in zip(lengths, own) if not has)
    if iterations:
        launch(_bias, (programs,), *given, dbias, *numbers, B, iterations, **constants, OWN=own, **config)
