"""Matrix products: matmul with NumPy's batching rules, linear with its bias and activation, and `gemm` for others.

    y = act(x w^T + b);   g = dy act'(.),   dx = g w,   dw = g^T x,   db = sum of the rows of g

Shapes      a (M, K), b (K, N), y (M, N), in batches; linear: x (rows, in), w (out, in), y (rows, out)
Plan        _gemm: a program owns one BLOCK_M x BLOCK_N tile of one product and walks along K. Programs go down GROUP
            rows of tiles before the next column, so that those running together share operands in L2. A transpose is
            an exchange of strides, a broadcast batch a stride of 0. Where tiles are few and K is long (weight
            gradients, vectors) K is cut into splits, which write float32 partial products; _sum adds them in order
            and does what _gemm does at the end of a whole product: bias, activation, rounding.
            _columns: a program owns a strip of rows and BLOCK_N columns; one pass writes g and sums it for db
Cost        2MNK flops; (MK + KN + MN) numbers if L2 serves the rest, and 2 splits MN more in float32
Precision   products of float32 as three TF32 products (tf32x3, as exact as float32 to the last bit or two; one in
            use(tf32=True)), of float16 in the tensor cores as they are; all sums in float32, rounded once
Versions    splits added atomically: no second launch, but another result each time. act' inside the two gradient
            products: computed once for each tile that reads it, and the operands go through registers; g is written
            once instead. Operands broadcast along some batch axes only are copied: it is rare
Limits      floating arrays; none on shapes
Source      the grouped order is that of Triton's tutorial 3
Status      untested on a device: all of it

# why: docs/kernels/others.md
# next: kernels/gpu/activations.py
"""

import math
from typing import Any, NamedTuple

import numpy as np
import triton
import triton.language as tl

from core.arrays import array_module, result_dtype
from core.engine import Op
from kernels.gpu.activations import KEEPS_INPUT, activate, slope
from kernels.gpu.common import cdiv, contiguous, precision_of, rows_of
from kernels.launch import blocks, launch


@triton.jit
def _store(y, y_ptr, pre_ptr, o, inside, negative_slope, ACT: tl.constexpr, ADD: tl.constexpr):
    """Store act(y) at the offsets o, and y itself in pre_ptr unless that is None; ADD adds to what is there."""
    if ADD:
        y += tl.load(y_ptr + o, mask=inside, other=0.0).to(tl.float32)
    if pre_ptr is not None:
        tl.store(pre_ptr + o, y, mask=inside)
    tl.store(y_ptr + o, activate(y, negative_slope, ACT), mask=inside)


@triton.jit
def _gemm(
    a_ptr, b_ptr, bias_ptr, y_ptr, pre_ptr, M, N, K, a_batch, a_row, a_col, b_batch, b_row, b_col, splits, chunk,
    negative_slope, ACT: tl.constexpr, ADD: tl.constexpr, PRECISION: tl.constexpr, INDEX: tl.constexpr,
    GROUP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of y[batch, split] = a[batch] @ b[batch] over `chunk` columns of a; y is (batches, splits, M, N)."""
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    slab = tl.program_id(0) // (tiles_m * tiles_n)
    tile = tl.program_id(0) % (tiles_m * tiles_n)
    first = tile // (GROUP * tiles_n) * GROUP  # GROUP rows of tiles, column by column: their operands stay in L2
    height = tl.minimum(tiles_m - first, GROUP)
    tile = tile % (GROUP * tiles_n)
    top, left = (first + tile % height) * BLOCK_M, tile // height * BLOCK_N
    m, n, k = tl.arange(0, BLOCK_M)[:, None], tl.arange(0, BLOCK_N)[None, :], tl.arange(0, BLOCK_K)
    m_in, n_in = m < M - top, n < N - left
    batch, start = (slab // splits).to(tl.int64), slab % splits * chunk
    a_ptr += batch * a_batch + tl.cast(top, tl.int64) * a_row + tl.cast(start, tl.int64) * a_col
    b_ptr += batch * b_batch + tl.cast(left, tl.int64) * b_col + tl.cast(start, tl.int64) * b_row
    a_o = m.to(INDEX) * a_row + k[None, :].to(INDEX) * a_col  # (BLOCK_M, BLOCK_K), within a tile
    b_o = k[:, None].to(INDEX) * b_row + n.to(INDEX) * b_col  # (BLOCK_K, BLOCK_N)
    y = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for at in range(start, tl.minimum(start + chunk, K), BLOCK_K):
        a = tl.load(a_ptr + a_o, mask=m_in & (k[None, :] < K - at), other=0.0)
        b = tl.load(b_ptr + b_o, mask=n_in & (k[:, None] < K - at), other=0.0)
        if a.dtype != b.dtype:
            a, b = a.to(tl.float32), b.to(tl.float32)
        y = tl.dot(a, b, y, input_precision=PRECISION)
        a_ptr += tl.cast(BLOCK_K, tl.int64) * a_col
        b_ptr += tl.cast(BLOCK_K, tl.int64) * b_row
    if bias_ptr is not None:
        y += tl.load(bias_ptr + left + n, mask=n_in, other=0.0).to(tl.float32)
    o = (slab.to(tl.int64) * M + top + m) * N + left + n
    _store(y, y_ptr, pre_ptr, o, m_in & n_in, negative_slope, ACT, ADD)


@triton.jit
def _sum(
    part_ptr, bias_ptr, y_ptr, pre_ptr, parts, size, N, negative_slope,
    ACT: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y (outer, size) = part (outer, parts, size) summed over axis 1 in order; a row of y has N columns."""
    programs = tl.cdiv(size, BLOCK)
    outer = (tl.program_id(0) // programs).to(tl.int64)
    o = (tl.program_id(0) % programs).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = o < size
    y = tl.zeros((BLOCK,), tl.float32)
    for i in range(0, parts):
        y += tl.load(part_ptr + (outer * parts + i) * size + o, mask=inside, other=0.0)
    if bias_ptr is not None:
        y += tl.load(bias_ptr + o % N, mask=inside, other=0.0).to(tl.float32)
    _store(y, y_ptr, pre_ptr, outer * size + o, inside, negative_slope, ACT, ADD)


@triton.jit
def _columns(
    kept_ptr, dy_ptr, g_ptr, part_ptr, rows, N, strip, negative_slope,
    ACT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """g = dy * act'(kept), unless g_ptr is None, and part[strip] = the sum of the strip's rows of it."""
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    start = tl.program_id(0).to(tl.int64) * strip
    stop = tl.minimum(start + strip, rows)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for at in range(0, strip, BLOCK_M):
        m = start + at + tl.arange(0, BLOCK_M)[:, None]
        o, inside = m * N + n, (m < stop) & (n < N)
        g = tl.load(dy_ptr + o, mask=inside, other=0.0).to(tl.float32)
        if ACT is not None:
            g *= slope(tl.load(kept_ptr + o, mask=inside, other=0.0).to(tl.float32), negative_slope, ACT)
        if g_ptr is not None:
            tl.store(g_ptr + o, g, mask=inside)
        total += g
    if part_ptr is not None:
        tl.store(part_ptr + tl.program_id(0).to(tl.int64) * N + n, tl.sum(total, 0)[None, :], mask=n < N)


class Ending(NamedTuple):
    """What happens to a product before it is stored: + bias, kept in `pre`, activated; or added to what is there."""

    bias: Any = None
    pre: Any = None
    act: str | None = None
    negative_slope: float = 0.0
    add: bool = False


PLAIN = Ending()


def _product(a, b, y, ending=PLAIN):
    """y (B, M, N) = a (B or 1, M, K) @ b (B or 1, K, N), with that ending."""
    (batches, M, N), K = y.shape, a.shape[2]
    config = blocks("matmul", "gemm", result_dtype(a, b), M * N)
    most, chunk = config.pop("PROGRAMS"), config.pop("CHUNK")
    tiles = batches * cdiv(M, config["BLOCK_M"]) * cdiv(N, config["BLOCK_N"])
    splits = max(1, min(most // max(tiles, 1), K // chunk))  # long sums of few tiles are shared out
    chunk = cdiv(cdiv(K, splits), config["BLOCK_K"]) * config["BLOCK_K"]
    splits = max(1, cdiv(K, max(chunk, 1)))
    whole = splits == 1
    out = y if whole else array_module(y).empty((batches, splits, M, N), "float32")
    bias, pre, act, negative_slope, add = ending if whole else PLAIN
    (a, *a_strides), (b, *b_strides) = _operand(a), _operand(b)
    arguments = (a, b, bias, out, pre, M, N, K, *a_strides, *b_strides, splits, chunk, float(negative_slope))
    index = tl.int64 if max(*a_strides, *b_strides) * 128 >= 2**31 else tl.int32
    launch(_gemm, (tiles * splits,), *arguments, ACT=act, ADD=add, PRECISION=precision_of(a, b), INDEX=index, **config)
    if not whole:
        _add_parts(out, y, ending)


def _operand(x):
    """A batch of matrices (B or 1, rows, columns) as (array, stride of batch, row, column); a transpose is no copy."""
    batches, rows, columns = x.shape
    step = rows * columns if batches > 1 else 0  # one matrix serves the whole batch
    if x.swapaxes(1, 2).flags.c_contiguous:
        return x.swapaxes(1, 2), step, 1, rows
    return contiguous(x), step, columns, 1


def _add_parts(parts, y, ending=PLAIN):
    """y (outer, ..., N) = parts (outer, n, ..., N) summed over axis 1 in order, with that ending."""
    size = math.prod(y.shape[1:])
    config = blocks("matmul", "sum", "any")
    bias, pre, act, negative_slope, add = ending
    arguments = (parts, bias, y, pre, parts.shape[1], size, y.shape[-1], float(negative_slope))
    launch(_sum, (len(y) * cdiv(size, config["BLOCK"]),), *arguments, ACT=act, ADD=add, **config)


def gemm(a, b, *, out=None, accumulate=False, dtype=None):
    """a (M, K) @ b (K, N), or out += a @ b with `accumulate` (out float32). Transposed views cost nothing."""
    if out is None:
        out = array_module(a).empty((a.shape[0], b.shape[1]), dtype or result_dtype(a, b))
    _product(a[None], b[None], out[None], Ending(add=accumulate))
    return out


# --- matmul ----------------------------------------


def _matmul(x, y):
    if not x.ndim or not y.ndim or x.shape[-1] != y.shape[-min(y.ndim, 2)]:
        raise ValueError(f"matmul: shapes {x.shape} and {y.shape} do not multiply: the inner lengths differ")
    a, b, batch = _matrices(x, y)
    z = array_module(x).empty((*batch, a.shape[-2], b.shape[-1]), result_dtype(x, y))
    _multiply(a, b, z)
    shape = batch + x.shape[-2:-1] + (y.shape[-1:] if y.ndim > 1 else ())
    return z.reshape(shape), (x, y)


def _matmul_backward(saved, dy, needs_input_grad):
    x, y = saved
    a, b, batch = _matrices(x, y)
    dy = dy.reshape((*batch, a.shape[-2], b.shape[-1]))
    da = _gradient(dy, b.swapaxes(-1, -2), a.shape).reshape(x.shape) if needs_input_grad[0] else None
    if needs_input_grad[1] and math.prod(b.shape[:-2]) == 1:  # one matrix for all: its gradient is one long product
        rows = math.prod(batch) * a.shape[-2]
        a = array_module(a).broadcast_to(a, batch + a.shape[-2:]).reshape(rows, a.shape[-1])
        return da, gemm(a.T, dy.reshape(rows, dy.shape[-1])).reshape(y.shape)
    return da, _gradient(a.swapaxes(-1, -2), dy, b.shape).reshape(y.shape) if needs_input_grad[1] else None


def _matrices(x, y):
    """x and y with vectors as matrices, and the shape of the batch of their product."""
    a, b = x.reshape(1, -1) if x.ndim == 1 else x, y.reshape(-1, 1) if y.ndim == 1 else y
    try:
        return a, b, np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ValueError(
            f"matmul: shapes {x.shape} and {y.shape} do not multiply: the batches do not broadcast"
        ) from None


def _multiply(a, b, z):
    """z (*batch, M, N) = a @ b, whose batches broadcast to that of z."""
    if math.prod(b.shape[:-2]) == 1 and a.shape[:-1] == z.shape[:-1]:  # all rows meet one matrix: one product
        a, z = a.reshape(1, rows_of(a), a.shape[-1]), z.reshape(1, rows_of(z), z.shape[-1])
    _product(_batched(a, z), _batched(b, z), z.reshape(math.prod(z.shape[:-2]), *z.shape[-2:]))


def _batched(x, z):
    """x (..., rows, columns) with one batch axis, of length 1 if one matrix serves all of z's."""
    count = math.prod(x.shape[:-2])
    if count not in (1, math.prod(z.shape[:-2])):
        x = array_module(x).broadcast_to(x, z.shape[:-2] + x.shape[-2:])
        count = math.prod(z.shape[:-2])
    return x.reshape(count, *x.shape[-2:])


def _gradient(a, b, shape):
    """a @ b, summed over the axes along which an operand of this shape was broadcast."""
    xp, batch = array_module(a), np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    lengths = (1,) * (len(batch) + 2 - len(shape)) + shape
    repeated = [i for i, n in enumerate(batch) if n != lengths[i]]
    z = xp.empty(batch + lengths[-2:], "float32" if repeated else result_dtype(a, b))
    _multiply(a, b, z)
    for i in repeated:
        parts = z.reshape(math.prod(z.shape[:i]), z.shape[i], *z.shape[i + 1 :])
        z = xp.empty((*z.shape[:i], 1, *z.shape[i + 1 :]), "float32")
        _add_parts(parts, z.reshape(parts.shape[:1] + parts.shape[2:]))
    return z.reshape(shape)


# --- linear ----------------------------------------


def _linear(x, w, b, *, act, negative_slope):
    xp, rows, out = array_module(x), rows_of(x), len(w)
    dtype = result_dtype(x, w, b)
    y = xp.empty((*x.shape[:-1], out), dtype)
    pre = xp.empty_like(y) if act in KEEPS_INPUT else None
    ending = Ending(contiguous(b), pre, act, negative_slope)
    _product(x.reshape(1, rows, x.shape[-1]), w.T[None], y.reshape(1, rows, out), ending)
    return y, (x, w, y if pre is None and act is not None else pre)


def _linear_backward(saved, dy, needs_input_grad, *, act, negative_slope):
    (x, w, kept), rows = saved, rows_of(saved[0])
    g, db = _derivative_and_sum(kept, dy.reshape(rows, len(w)), act, negative_slope, needs_input_grad[2])
    dx = gemm(g, w).reshape(x.shape) if needs_input_grad[0] else None
    dw = gemm(g.T, x.reshape(rows, x.shape[-1])) if needs_input_grad[1] else None
    return dx, dw, db  # (..., in), (out, in), (out,)


def _derivative_and_sum(kept, dy, act, negative_slope, summed):
    """dy * act'(kept), and its sum over the rows, or None."""
    (rows, out), xp = dy.shape, array_module(dy)
    if act is None and not summed:
        return dy, None
    dy = contiguous(dy)
    config = blocks("matmul", "columns", "any")
    most = config.pop("PROGRAMS") // max(cdiv(out, config["BLOCK_N"]), 1)
    strip = cdiv(cdiv(rows, max(most, 1)), config["BLOCK_M"]) * config["BLOCK_M"]
    strips = cdiv(rows, max(strip, 1))
    g = None if act is None else xp.empty_like(dy)
    parts = xp.empty((1, strips, out), "float32") if summed else None
    db = xp.empty((1, out), "float32") if summed else None
    arguments = (kept if g is not None else None, dy, g, parts, rows, out, strip, float(negative_slope))
    launch(_columns, (strips, cdiv(out, config["BLOCK_N"])), *arguments, ACT=act, **config)
    if summed:
        _add_parts(parts, db)
    return dy if g is None else g, db[0] if summed else None


matmul = Op("matmul", _matmul, _matmul_backward, backend="triton")
linear = Op("linear", _linear, _linear_backward, backend="triton")
