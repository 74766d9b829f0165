"""Softmax and its logarithm, and what kernels that own whole rows share.

    softmax_v = exp(x_v - top) / sum_w exp(x_w - top),  top = max_v x_v    dx = y (dy - sum(dy y));  of its log:
                                                                           dx = dy - exp(y) sum(dy)

Shapes      x any, along any axis of n elements
Plan        one program = BLOCK_M rows in blocks of BLOCK_N columns. A row that fits one block is read once; a wider one
            is read twice: for the maximum and the sum, which a later and larger maximum scales, then for the result
Cost        8n bytes in float32, 12n backward: memory decides
Precision   float32 inside
Limits      none. Rows whose length is no multiple of 16 are loaded element by element
Source      online sum: Milakov and Gimelshein 2018
Status      untested on a device: all of it

# why: docs/kernels/losses.md
# next: kernels/gpu/adversarial.py
"""

import math

import triton
import triton.language as tl

from core.arrays import array_module
from core.engine import Op
from kernels.gpu.common import cdiv, contiguous
from kernels.launch import blocks, launch

# --- rows ----------------------------------------


@triton.jit
def first_row(rows, row_step, group_step, tiles, BLOCK_M: tl.constexpr):
    """Where this program's rows start (BLOCK_M, 1), and which of them exist; a group has `tiles` programs."""
    program = tl.program_id(0).to(tl.int64)
    row = program % tiles * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    return program // tiles * group_step + row * row_step, row < rows


@triton.jit
def load_row(x_ptr, start, step, n, inside, OTHER: tl.constexpr, BLOCK_N: tl.constexpr):
    """(block, offsets, mask), each (BLOCK_M, BLOCK_N): float32 elements start, start + 1, ... of rows at x_ptr."""
    column = start + tl.arange(0, BLOCK_N)[None, :]
    o, seen = column.to(tl.int64) * step, inside & (column < n)
    return tl.load(x_ptr + o, mask=seen, other=OTHER).to(tl.float32), o, seen


@triton.jit
def row_statistics(x_ptr, step, n, inside, MEAN: tl.constexpr, BLOCK_N: tl.constexpr):
    """(max, sum of exp(x - max), mean of x - max if MEAN) of rows that start at x_ptr, each (BLOCK_M, 1).

    The mean is taken around the first block's maximum, so that it keeps its digits far from zero. A row of -inf has
    maximum -inf and sum 0, whose further use gives nan."""
    top = tl.full(inside.shape, float("-inf"), tl.float32)
    total = tl.zeros(inside.shape, tl.float32)
    anchor, shifted_sum = total, total
    for start in range(0, n, BLOCK_N):
        x, _, seen = load_row(x_ptr, start, step, n, inside, float("-inf"), BLOCK_N)
        new = tl.maximum(top, tl.max(x, 1, keep_dims=True))
        shift = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp(top - shift) + tl.sum(tl.exp(x - shift), 1, keep_dims=True)
        top = new
        if MEAN:
            anchor = tl.where(start == 0, shift, anchor)
            shifted_sum += tl.sum(tl.where(seen, x - anchor, 0.0), 1, keep_dims=True)
    return top, total, shifted_sum / n + (anchor - top)


def row_tile(family, kernel, dtype, n):
    """The block of rows of length n that one program holds, and the compiler's options."""
    config = blocks(family, kernel, dtype, n)
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
    first, inside = first_row(rows, row_step, group_step, tiles, BLOCK_M)
    x_ptr, y_ptr = x_ptr + first, y_ptr + first
    if WIDE:
        top, total, _ = row_statistics(x_ptr, step, n, inside, False, BLOCK_N)
        for start in range(0, n, BLOCK_N):
            x, o, seen = load_row(x_ptr, start, step, n, inside, float("-inf"), BLOCK_N)
            y = x - top - tl.log(total) if LOG else tl.exp(x - top) / total
            tl.store(y_ptr + o, y, mask=seen)
    else:
        x, o, seen = load_row(x_ptr, 0, step, n, inside, float("-inf"), BLOCK_N)
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
    first, inside = first_row(rows, row_step, group_step, tiles, BLOCK_M)
    y_ptr, dy_ptr, dx_ptr = y_ptr + first, dy_ptr + first, dx_ptr + first
    if WIDE:
        total = tl.zeros(inside.shape, tl.float32)
        for start in range(0, n, BLOCK_N):
            y, _, _ = load_row(y_ptr, start, step, n, inside, 0.0, BLOCK_N)
            dy, _, _ = load_row(dy_ptr, start, step, n, inside, 0.0, BLOCK_N)
            total += tl.sum(dy if LOG else dy * y, 1, keep_dims=True)
        for start in range(0, n, BLOCK_N):
            y, _, _ = load_row(y_ptr, start, step, n, inside, 0.0, BLOCK_N)
            dy, o, seen = load_row(dy_ptr, start, step, n, inside, 0.0, BLOCK_N)
            tl.store(dx_ptr + o, dy - tl.exp(y) * total if LOG else y * (dy - total), mask=seen)
    else:
        y, _, _ = load_row(y_ptr, 0, step, n, inside, 0.0, BLOCK_N)
        dy, o, seen = load_row(dy_ptr, 0, step, n, inside, 0.0, BLOCK_N)
        total = tl.sum(dy if LOG else dy * y, 1, keep_dims=True)
        tl.store(dx_ptr + o, dy - tl.exp(y) * total if LOG else y * (dy - total), mask=seen)


def _along(kernel, axis, log, *arrays):
    """Launch a softmax kernel on contiguous arrays of one shape, whose `axis` is the row.

    With elements behind the axis neighbouring rows are neighbours in memory, and each place before it is a group."""
    shape = arrays[0].shape
    before, n, behind = math.prod(shape[: axis % len(shape)]), shape[axis], math.prod(shape[axis % len(shape) + 1 :])
    groups, rows, row_step = (1, before, n) if behind == 1 else (before, behind, 1)
    tile = row_tile("softmax", "softmax", arrays[0].dtype, n)
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

    def backward(saved, dy, needs_input_grad, *, axis):
        (y,) = saved
        dx = array_module(y).empty_like(y)
        _along(_softmax_backward, axis, log, y, contiguous(dy), dx)
        return (dx,)

    return Op(name, forward, backward, backend="triton")


softmax = _softmax_op("softmax", False)
log_softmax = _softmax_op("log_softmax", True)
