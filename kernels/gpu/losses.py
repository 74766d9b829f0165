"""Softmax, and cross entropy on logits: as they are given, or as x @ w.T of a language model's last layer.

    top = max_v z_v,  rest = log sum_v exp(z_v - top)          log-sum-exp = top + rest, never added up (see Precision)
    softmax_v = exp(z_v - top) / exp(rest)                     dz = y (dy - sum(dy y));  of its log: dy - exp(y) sum(dy)
    L = rest - (1 - s) (z_t - top) - s mean(z - top)           dL/dz = exp(z - top - rest) - s / V - (1 - s) onehot(t)

Shapes      softmax x any, along any axis of n elements; logits (rows, V), targets (rows,), lse (rows, 2) = (top, rest);
            linear_cross_entropy x (rows, D), w (V, D)
Plan        one program = BLOCK_M rows in blocks of BLOCK_N columns. A row that fits one block is read once; a wider
            softmax reads it twice: for the maximum and the sum, which a later and larger maximum scales, then for the
            result. Cross entropy needs one reading forward, one with one writing backward, however wide. A last
            program adds up losses and counts kept targets in a fixed order: the host never learns how many there are.
            linear_cross_entropy: a chunk of rows at a time, logits = x @ w.T into one buffer of CHUNK elements; then
            losses; backward the same logits again, their gradient d in their place, dx = d @ w, dw += d.T @ x
Cost        softmax 8n bytes in float32, 12n backward; cross entropy 4 rows V and 8 rows V; memory decides.
            linear_cross_entropy 2 rows V D flops forward, 6 backward: the products decide
Precision   float32 inside. top + rest would lose the digits of rest where logits are far from zero, and all of a loss
            near 0 where the network is sure and right. In float16 d is rounded to float16 before its two products
Versions    gradients stored by the forward pass save the second x @ w.T, but evaluation pays for them and dy comes
            late; logits never in memory (a product with an online sum) cost as many flops and a kernel of its own
Limits      none. Rows whose length is no multiple of 16 are loaded element by element: pad the vocabulary
Source      online sum: Milakov and Gimelshein 2018; chunks: Liger-Kernel, with chunks of a size that keeps the products
            fast; untested on a device: all of it
"""

import math

import triton
import triton.language as tl

from core.arrays import array_module, result_dtype
from core.op import Op
from kernels.gpu.common import cdiv, contiguous
from kernels.gpu.matmul import gemm
from kernels.launch import blocks, launch

CHUNK = 1 << 26  # logits held at once by linear_cross_entropy (256 MB of float32)


# --- rows ----------------------------------------


@triton.jit
def _first(rows, row_step, group_step, tiles, BLOCK_M: tl.constexpr):
    """Where this program's rows start (BLOCK_M, 1), and which of them exist; a group has `tiles` programs."""
    program = tl.program_id(0).to(tl.int64)
    row = program % tiles * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    return program // tiles * group_step + row * row_step, row < rows


@triton.jit
def _load(x_ptr, start, step, n, inside, OTHER: tl.constexpr, BLOCK_N: tl.constexpr):
    """(block, offsets, mask), each (BLOCK_M, BLOCK_N): float32 elements start, start + 1, ... of rows at x_ptr."""
    column = start + tl.arange(0, BLOCK_N)[None, :]
    o, seen = column.to(tl.int64) * step, inside & (column < n)
    return tl.load(x_ptr + o, mask=seen, other=OTHER).to(tl.float32), o, seen


@triton.jit
def _statistics(x_ptr, step, n, inside, MEAN: tl.constexpr, BLOCK_N: tl.constexpr):
    """(max, sum of exp(x - max), mean of x - max if MEAN) of rows that start at x_ptr, each (BLOCK_M, 1).

    The mean is taken around the first block's maximum, so that it keeps its digits far from zero. A row of -inf has
    maximum -inf and sum 0, whose further use gives nan."""
    top = tl.full(inside.shape, float("-inf"), tl.float32)
    total = tl.zeros(inside.shape, tl.float32)
    anchor, spread = total, total
    for start in range(0, n, BLOCK_N):
        x, _, seen = _load(x_ptr, start, step, n, inside, float("-inf"), BLOCK_N)
        new = tl.maximum(top, tl.max(x, 1, keep_dims=True))
        shift = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(x - shift), 1, keep_dims=True)
        top = new
        if MEAN:
            anchor = tl.where(start == 0, shift, anchor)
            spread += tl.sum(tl.where(seen, x - anchor, 0.0), 1, keep_dims=True)
    return top, total, spread / n + (anchor - top)


def _tile(kernel, dtype, n):
    """The block of rows of length n that one program holds, and the compiler's options."""
    config = blocks("losses", kernel, dtype, n)
    tile = config.pop("TILE")
    columns = min(triton.next_power_of_2(max(n, 1)), tile)
    return {"BLOCK_M": tile // columns, "BLOCK_N": columns, **config}


# --- softmax ----------------------------------------


@triton.jit
def _softmax_forward(
    x_ptr, y_ptr, n, step, rows, row_step, group_step, tiles,
    LOG: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y = softmax of a tile of rows whose n elements are `step` apart, or its log; WIDE rows are read twice."""
    first, inside = _first(rows, row_step, group_step, tiles, BLOCK_M)
    x_ptr, y_ptr = x_ptr + first, y_ptr + first
    if WIDE:
        top, total, _ = _statistics(x_ptr, step, n, inside, False, BLOCK_N)
        for start in range(0, n, BLOCK_N):
            x, o, seen = _load(x_ptr, start, step, n, inside, float("-inf"), BLOCK_N)
            y = x - top - tl.log(total) if LOG else tl.exp(x - top) / total
            tl.store(y_ptr + o, y, mask=seen)
    else:
        x, o, seen = _load(x_ptr, 0, step, n, inside, float("-inf"), BLOCK_N)
        z = x - tl.max(x, 1, keep_dims=True)
        e = tl.exp(z)
        total = tl.sum(e, 1, keep_dims=True)
        tl.store(y_ptr + o, z - tl.log(total) if LOG else e / total, mask=seen)


@triton.jit
def _softmax_backward(
    y_ptr, dy_ptr, dx_ptr, n, step, rows, row_step, group_step, tiles,
    LOG: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dx of a tile of rows, from the result y; the offsets of y and dy are the same."""
    first, inside = _first(rows, row_step, group_step, tiles, BLOCK_M)
    y_ptr, dy_ptr, dx_ptr = y_ptr + first, dy_ptr + first, dx_ptr + first
    if WIDE:
        total = tl.zeros(inside.shape, tl.float32)
        for start in range(0, n, BLOCK_N):
            y, _, _ = _load(y_ptr, start, step, n, inside, 0.0, BLOCK_N)
            dy, _, _ = _load(dy_ptr, start, step, n, inside, 0.0, BLOCK_N)
            total += tl.sum(dy if LOG else dy * y, 1, keep_dims=True)
        for start in range(0, n, BLOCK_N):
            y, _, _ = _load(y_ptr, start, step, n, inside, 0.0, BLOCK_N)
            dy, o, seen = _load(dy_ptr, start, step, n, inside, 0.0, BLOCK_N)
            tl.store(dx_ptr + o, dy - tl.exp(y) * total if LOG else y * (dy - total), mask=seen)
    else:
        y, _, _ = _load(y_ptr, 0, step, n, inside, 0.0, BLOCK_N)
        dy, o, seen = _load(dy_ptr, 0, step, n, inside, 0.0, BLOCK_N)
        total = tl.sum(dy if LOG else dy * y, 1, keep_dims=True)
        tl.store(dx_ptr + o, dy - tl.exp(y) * total if LOG else y * (dy - total), mask=seen)


def _along(kernel, axis, log, *arrays):
    """Launch a softmax kernel on contiguous arrays of one shape, whose `axis` is the row.

    With elements behind the axis neighbouring rows are neighbours in memory, and each place before it is a group."""
    shape = arrays[0].shape
    before, n, behind = math.prod(shape[: axis % len(shape)]), shape[axis], math.prod(shape[axis % len(shape) + 1 :])
    groups, rows, row_step = (1, before, n) if behind == 1 else (before, behind, 1)
    tile = _tile("softmax", arrays[0].dtype, n)
    tiles = cdiv(rows, tile["BLOCK_M"])
    steps = (n, behind, rows, row_step, n * behind, tiles)
    launch(kernel, (groups * tiles,), *arrays, *steps, LOG=log, WIDE=n > tile["BLOCK_N"], **tile)


def _softmax_op(name, log):
    """softmax, or log_softmax."""

    def forward(x, *, axis):
        x = contiguous(x)
        y = array_module(x).empty_like(x)
        _along(_softmax_forward, axis, log, x, y)
        return y, (y,)

    def backward(saved, dy, needs, *, axis):
        (y,) = saved
        dx = array_module(y).empty_like(y)
        _along(_softmax_backward, axis, log, y, contiguous(dy), dx)
        return (dx,)

    return Op(name, forward, backward, backend="triton")


softmax = _softmax_op("softmax", False)
log_softmax = _softmax_op("log_softmax", True)


# --- cross entropy ----------------------------------------


@triton.jit
def _cross_entropy_forward(
    x_ptr, t_ptr, loss_ptr, lse_ptr, rows, V, ignore_index, smoothing,
    SMOOTHED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """loss and lse = (top, rest) of a tile of rows; the loss of an ignored row is 0."""
    row, inside = _first(rows, 1, 0, tl.num_programs(0), BLOCK_M)
    t = tl.load(t_ptr + row, mask=inside, other=0).to(tl.int64)
    kept = inside & (t != ignore_index)
    picked = tl.load(x_ptr + row * V + t, mask=kept, other=0.0).to(tl.float32)
    top, total, mean = _statistics(x_ptr + row * V, 1, V, inside, SMOOTHED, BLOCK_N)
    rest = tl.log(total)
    loss = rest - (picked - top)
    if SMOOTHED:
        loss = rest - ((1.0 - smoothing) * (picked - top) + smoothing * mean)
    tl.store(loss_ptr + row, tl.where(kept, loss, 0.0), mask=inside)
    tl.store(lse_ptr + 2 * row, top, mask=inside)
    tl.store(lse_ptr + 2 * row + 1, rest, mask=inside)


@triton.jit
def _reduce_losses(loss_ptr, t_ptr, y_ptr, count_ptr, rows, ignore_index, MEAN: tl.constexpr, BLOCK: tl.constexpr):
    """count = how many targets are kept, y = the sum of all losses, over count if MEAN: one program, a fixed order."""
    total, kept = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.int32)
    for start in range(0, rows, BLOCK):
        o = start + tl.arange(0, BLOCK)
        total += tl.load(loss_ptr + o, mask=o < rows, other=0.0)
        t = tl.load(t_ptr + o, mask=o < rows, other=0).to(tl.int64)
        kept += ((o < rows) & (t != ignore_index)).to(tl.int32)
    y, count = tl.sum(total, 0), tl.sum(kept, 0)
    if MEAN:
        y = y / count.to(tl.float32)
    tl.store(y_ptr, y)
    tl.store(count_ptr, count)


@triton.jit
def _cross_entropy_backward(
    x_ptr, t_ptr, lse_ptr, dy_ptr, count_ptr, dx_ptr, rows, V, ignore_index, smoothing,
    REDUCTION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dx of one tile, from the same tile of logits: dx may be their own buffer. Ignored rows get 0."""
    row, inside = _first(rows, 1, 0, tl.num_programs(0), BLOCK_M)
    t = tl.load(t_ptr + row, mask=inside, other=0).to(tl.int64)
    top = tl.load(lse_ptr + 2 * row, mask=inside, other=0.0)
    rest = tl.load(lse_ptr + 2 * row + 1, mask=inside, other=0.0)
    if REDUCTION == "none":
        scale = tl.load(dy_ptr + row, mask=inside, other=0.0).to(tl.float32)
    else:
        scale = tl.load(dy_ptr).to(tl.float32)
    if REDUCTION == "mean":
        scale = scale / tl.load(count_ptr).to(tl.float32)
    start = tl.program_id(1) * BLOCK_N
    x, o, seen = _load(x_ptr + row * V, start, 1, V, inside, 0.0, BLOCK_N)
    dx = tl.exp(x - top - rest) - smoothing / V - tl.where(o == t, 1.0 - smoothing, 0.0)
    tl.store(dx_ptr + row * V + o, tl.where(t != ignore_index, dx * scale, 0.0), mask=seen)


def _losses(chunks, target, dtype, ignore_index, smoothing, reduction):
    """(the loss, (target, lse (rows, 2), count of kept targets)) from chunks: (slice of rows, their logits (m, V))."""
    xp, t = array_module(target), target.reshape(-1)
    losses = xp.empty(t.size, dtype if reduction == "none" else "float32")
    lse = xp.empty((t.size, 2), "float32")
    for part, logits in chunks:
        rows, V = logits.shape
        tile = _tile("cross_entropy", logits.dtype, V)
        arguments = (logits, t[part], losses[part], lse[part], rows, V, ignore_index, float(smoothing))
        launch(_cross_entropy_forward, (cdiv(rows, tile["BLOCK_M"]),), *arguments, SMOOTHED=bool(smoothing), **tile)
    if reduction == "none":
        return losses.reshape(target.shape), (target, lse, None)
    y, count = xp.empty((), dtype), xp.empty((), "int64")
    arguments = (losses, t, y, count, t.size, ignore_index)
    launch(_reduce_losses, (1,), *arguments, MEAN=reduction == "mean", **blocks("losses", "reduce", "any"))
    return y, (target, lse, count)


def _gradient(part, logits, dx, kept, dy, ignore_index, smoothing, reduction):
    """Write dx (m, V) of the rows in the slice `part`; kept = (target, lse, count)."""
    (target, lse, count), (rows, V) = kept, logits.shape
    dy = contiguous(dy).reshape(-1)[part] if reduction == "none" else dy
    tile = _tile("gradient", logits.dtype, V)
    grid = (cdiv(rows, tile["BLOCK_M"]), cdiv(V, tile["BLOCK_N"]))
    arguments = (logits, target.reshape(-1)[part], lse[part], dy, count, dx, rows, V, ignore_index, float(smoothing))
    launch(_cross_entropy_backward, grid, *arguments, REDUCTION=reduction, **tile)


def _cross_entropy(logits, target, *, ignore_index, label_smoothing, reduction):
    logits, target = contiguous(logits), contiguous(target)
    whole = [(slice(None), logits.reshape(target.size, logits.shape[-1]))]
    y, kept = _losses(whole, target, logits.dtype, ignore_index, label_smoothing, reduction)
    return y, (logits, *kept)


def _cross_entropy_grad(saved, dy, needs, *, ignore_index, label_smoothing, reduction):
    logits, *kept = saved
    flat = logits.reshape(kept[0].size, logits.shape[-1])
    dx = array_module(logits).empty_like(flat)
    _gradient(slice(None), flat, dx, kept, dy, ignore_index, label_smoothing, reduction)
    return dx.reshape(logits.shape), None


cross_entropy = Op("cross_entropy", _cross_entropy, _cross_entropy_grad, backend="triton")


# --- linear cross entropy ----------------------------------------


def _chunks(x, w):
    """(slice, logits) of a chunk of the rows of x (rows, D) at a time, one after the other in one buffer."""
    rows, V = len(x), len(w)
    most = max(1, CHUNK // max(V, 1))
    most = min(most - most % 128 if most > 128 else most, rows)  # the products' tiles are full, slices aligned
    buffer = array_module(x).empty((most, V), "float32")
    for start in range(0, rows, max(most, 1)):
        part = slice(start, min(start + most, rows))
        yield part, gemm(x[part], w.T, out=buffer[: part.stop - start])


def _linear_cross_entropy(x, w, target, *, ignore_index, label_smoothing, reduction):
    x, w, target = contiguous(x), contiguous(w), contiguous(target)
    chunks = _chunks(x.reshape(target.size, w.shape[1]), w)
    y, kept = _losses(chunks, target, result_dtype(x, w), ignore_index, label_smoothing, reduction)
    return y, (x, w, *kept)


def _linear_cross_entropy_grad(saved, dy, needs, *, ignore_index, label_smoothing, reduction):
    x, w, *kept = saved
    xp, dtype, flat = array_module(x), result_dtype(x, w), x.reshape(kept[0].size, w.shape[1])
    dx, dw = xp.empty_like(flat), xp.zeros(w.shape, "float32") if needs[1] else None
    for part, logits in _chunks(flat, w):
        d = logits if dtype == logits.dtype else xp.empty(logits.shape, dtype)
        _gradient(part, logits, d, kept, dy, ignore_index, label_smoothing, reduction)
        if needs[0]:
            gemm(d, w, out=dx[part])
        if needs[1]:
            gemm(d.T, flat[part], out=dw, accumulate=part.start > 0)
    return dx.reshape(x.shape) if needs[0] else None, dw, None


linear_cross_entropy = Op("linear_cross_entropy", _linear_cross_entropy, _linear_cross_entropy_grad, backend="triton")
