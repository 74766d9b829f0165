"""Cross entropy on logits: as they are given, or as x @ w.T of a language model's last layer.

    top = max_v z_v,  rest = log sum_v exp(z_v - top)          lse = top + rest, two numbers (see Precision)
    p = exp(z - top - rest)                                    softmax(z)
    L = rest - (1 - s) (z_t - top) - s mean(z - top) + c lse^2     dL/dz = p (1 + 2 c lse) - s / V - (1 - s) onehot(t)

Shapes      logits (rows, V), targets (rows,), lse (rows, 2) = (top, rest); linear_cross_entropy x (rows, D), w (V, D)
Plan        one program = BLOCK_M rows in blocks of BLOCK_N columns: one reading forward, one with one writing backward,
            however wide. A last program adds up losses and counts kept targets in a fixed order: the host never learns
            how many there are.
            linear_cross_entropy: a chunk of rows at a time, logits = x @ w.T into one buffer of CHUNK elements; then
            losses; backward the same logits again, their gradient d in their place, dx = d @ w, dw += d.T @ x
Cost        4 rows V bytes and 8 rows V; memory decides. linear_cross_entropy 2 rows V D flops forward, 6 backward: the
            products decide
Precision   float32 inside. top + rest would lose the digits of rest where logits are far from zero, and all of a loss
            near 0 where the network is sure and right; only the z-loss c lse^2, to which they do not matter, takes it.
            In float16 d is rounded to float16 before its two products
Versions    gradients stored by the forward pass save the second x @ w.T, but evaluation pays for them and dy comes
            late; logits never in memory (a product with an online sum) cost as many flops and a kernel of its own
Limits      a target that is no class, which models refuse on the host, makes its loss nan. Rows whose length is no
            multiple of 16 are loaded element by element: pad the vocabulary
Source      chunks: Liger-Kernel, with chunks of a size that keeps the products fast
Status      untested on a device: all of it

# why: docs/kernels/losses.md
# next: kernels/gpu/softmax.py
"""

import triton
import triton.language as tl

from core.arrays import array_module, result_dtype
from core.engine import Op
from kernels.gpu.common import cdiv, contiguous
from kernels.gpu.matmul import gemm
from kernels.gpu.softmax import first_row, load_row, row_statistics, row_tile
from kernels.launch import blocks, launch

CHUNK = 1 << 26  # logits held at once by linear_cross_entropy (268 MB of float32)


# --- cross entropy ----------------------------------------


@triton.jit
def _cross_entropy_forward(
    x_ptr, t_ptr, loss_ptr, lse_ptr, rows, V, ignore_index, smoothing, z_loss,
    SMOOTHED: tl.constexpr, SQUARED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """loss and lse = (top, rest) of a tile of rows; loss is 0 of an ignored row, nan of a target that is no class."""
    row, inside = first_row(rows, 1, 0, tl.num_programs(0), BLOCK_M)
    t = tl.load(t_ptr + row, mask=inside, other=0).to(tl.int64)
    kept = inside & (t != ignore_index)
    known = kept & (t >= 0) & (t < V)
    picked = tl.load(x_ptr + row * V + t, mask=known, other=float("nan")).to(tl.float32)
    top, total, mean = row_statistics(x_ptr + row * V, 1, V, inside, SMOOTHED, BLOCK_N)
    rest = tl.log(total)
    loss = rest - (picked - top)
    if SMOOTHED:
        loss = rest - ((1.0 - smoothing) * (picked - top) + smoothing * mean)
    if SQUARED:
        loss += z_loss * (top + rest) * (top + rest)
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
    x_ptr, t_ptr, lse_ptr, dy_ptr, count_ptr, dx_ptr, rows, V, ignore_index, smoothing, z_loss,
    REDUCTION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dx of one tile, from the same tile of logits: dx may be their own buffer. Ignored rows get 0."""
    row, inside = first_row(rows, 1, 0, tl.num_programs(0), BLOCK_M)
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
    x, o, seen = load_row(x_ptr + row * V, start, 1, V, inside, 0.0, BLOCK_N)
    p = tl.exp(x - top - rest)
    dx = p * (1.0 + 2.0 * z_loss * (top + rest)) - smoothing / V - tl.where(o == t, 1.0 - smoothing, 0.0)
    tl.store(dx_ptr + row * V + o, tl.where(t != ignore_index, dx * scale, 0.0), mask=seen)


def _losses(chunks, target, dtype, *, ignore_index, label_smoothing, reduction, z_loss):
    """(the loss, (target, lse (rows, 2), count of kept targets)) from chunks: (slice of rows, their logits (m, V))."""
    xp, t = array_module(target), target.reshape(-1)
    losses = xp.empty(t.size, dtype if reduction == "none" else "float32")
    lse = xp.empty((t.size, 2), "float32")
    for part, logits in chunks:
        rows, V = logits.shape
        tile = row_tile("cross_entropy", "cross_entropy", logits.dtype, V)
        numbers, flags = (
            (float(label_smoothing), float(z_loss)),
            {"SMOOTHED": label_smoothing > 0, "SQUARED": z_loss > 0},
        )
        arguments = (logits, t[part], losses[part], lse[part], rows, V, ignore_index, *numbers)
        launch(_cross_entropy_forward, (cdiv(rows, tile["BLOCK_M"]),), *arguments, **flags, **tile)
    if reduction == "none":
        return losses.reshape(target.shape), (target, lse, None)
    y, count = xp.empty((), dtype), xp.empty((), "int64")
    arguments = (losses, t, y, count, t.size, ignore_index)
    launch(_reduce_losses, (1,), *arguments, MEAN=reduction == "mean", **blocks("cross_entropy", "reduce", "any"))
    return y, (target, lse, count)


def _gradient(part, logits, dx, kept, dy, *, ignore_index, label_smoothing, reduction, z_loss):
    """Write dx (m, V) of the rows in the slice `part`; kept = (target, lse, count)."""
    (target, lse, count), (rows, V) = kept, logits.shape
    dy = contiguous(dy).reshape(-1)[part] if reduction == "none" else dy
    tile = row_tile("cross_entropy", "gradient", logits.dtype, V)
    grid = (cdiv(rows, tile["BLOCK_M"]), cdiv(V, tile["BLOCK_N"]))
    numbers = rows, V, ignore_index, float(label_smoothing), float(z_loss)
    arguments = (logits, target.reshape(-1)[part], lse[part], dy, count, dx)
    launch(_cross_entropy_backward, grid, *arguments, *numbers, REDUCTION=reduction, **tile)


def _cross_entropy(logits, target, **options):
    logits, target = contiguous(logits), contiguous(target)
    whole = [(slice(None), logits.reshape(target.size, logits.shape[-1]))]
    y, kept = _losses(whole, target, logits.dtype, **options)
    return y, (logits, *kept)


def _cross_entropy_grad(saved, dy, needs_input_grad, **options):
    logits, *kept = saved
    flat = logits.reshape(kept[0].size, logits.shape[-1])
    dx = array_module(logits).empty_like(flat)
    _gradient(slice(None), flat, dx, kept, dy, **options)
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


def _linear_cross_entropy(x, w, target, **options):
    x, w, target = contiguous(x), contiguous(w), contiguous(target)
    chunks = _chunks(x.reshape(target.size, w.shape[1]), w)
    y, kept = _losses(chunks, target, result_dtype(x, w), **options)
    return y, (x, w, *kept)


def _linear_cross_entropy_grad(saved, dy, needs_input_grad, **options):
    x, w, *kept = saved
    xp, dtype, flat = array_module(x), result_dtype(x, w), x.reshape(kept[0].size, w.shape[1])
    dx, dw = xp.empty_like(flat), xp.zeros(w.shape, "float32") if needs_input_grad[1] else None
    for part, logits in _chunks(flat, w):
        d = logits if dtype == logits.dtype else xp.empty(logits.shape, dtype)
        _gradient(part, logits, d, kept, dy, **options)
        if needs_input_grad[0]:
            gemm(d, w, out=dx[part])
        if needs_input_grad[1]:
            gemm(d.T, flat[part], out=dw, accumulate=part.start > 0)
    return dx.reshape(x.shape) if needs_input_grad[0] else None, dw, None


linear_cross_entropy = Op("linear_cross_entropy", _linear_cross_entropy, _linear_cross_entropy_grad, backend="triton")
