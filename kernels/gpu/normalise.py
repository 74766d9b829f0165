"""What the GPU's norms share: tiles of rows and columns, 1 / sqrt(var + eps), dropout's part of a tile, sums of parts.

Status      untested on a device: all of it

# why: docs/kernels/norms.md
# next: kernels/gpu/layer_norm.py
"""

import triton
import triton.language as tl

from core.arrays import array_module
from kernels.gpu.common import cdiv, contiguous
from kernels.gpu.random import frozen, keep, keep_lane, key
from kernels.launch import blocks, launch


@triton.jit
def tile(row, column, rows, columns):
    """(offsets, which of them are inside) of some rows and columns of a matrix."""
    offsets = row.to(tl.int64)[:, None] * columns + column[None, :]
    return offsets, (row < rows)[:, None] & (column < columns)[None, :]


@triton.jit
def vector(v_ptr, column, columns, default):
    """A weight vector at these columns, as float32 of shape (1, BLOCK); `default` throughout if it is None."""
    if v_ptr is None:
        v = tl.full(column.shape, default, tl.float32)
    else:
        v = tl.load(v_ptr + column, mask=column < columns, other=default).to(tl.float32)
    return v[None, :]


@triton.jit
def reciprocal_deviation(var, eps):
    """1 / sqrt(var + eps), to the last bit but one: what is off here is off in a whole row or channel."""
    return tl.div_rn(tl.full(var.shape, 1.0, tl.float32), tl.sqrt_rn(var + eps))


@triton.jit
def drop(x, offsets, inside, dropping):
    """dropout(x) by the mask given or by the one drawn at these offsets; x itself where there is neither."""
    mask_ptr, step_ptr, seed_low, seed_high, draw, threshold, scale, GROUPED = dropping
    if mask_ptr is not None:
        x *= tl.where(tl.load(mask_ptr + offsets, mask=inside, other=0) != 0, scale, 0.0)
    elif step_ptr is not None:
        step = tl.load(step_ptr)
        if GROUPED:  # rows start at multiples of 8: eight columns share a block of random bits, which is drawn once
            block = tl.reshape(offsets >> 3, (x.shape[0], x.shape[1] // 8, 8))
            block = tl.min(block, 2, keep_dims=True)  # (rows, columns / 8, 1): they are all equal
            lane = tl.arange(0, 8)[None, None, :]
            kept = tl.reshape(keep_lane(block, lane, seed_low, seed_high, draw, step, threshold), x.shape)
        else:
            kept = keep(offsets, seed_low, seed_high, draw, step, threshold)
        x *= tl.where(kept, scale, 0.0)
    return x


def dropping_of(mask, step, p, seed, draw) -> tuple:
    """What `drop` wants, as arguments of a kernel."""
    step = frozen(step) if mask is None and p > 0 else None
    return contiguous(mask), step, *key(seed, draw), round(65536 * p), 1 / (1 - p) if p < 1 else 0.0


@triton.jit
def _sum_parts(part_ptr, y_ptr, programs, columns, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """y[i] = the sum over programs of part[i], in a fixed order: part (2, programs, columns), y (2, columns)."""
    i, column = tl.program_id(1), tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for start in range(0, programs, BLOCK_P):
        offsets, inside = tile(start + tl.arange(0, BLOCK_P), column, programs, columns)
        total += tl.load(part_ptr + i.to(tl.int64) * programs * columns + offsets, mask=inside, other=0.0)
    tl.store(y_ptr + i * columns + column, tl.sum(total, 0), mask=column < columns)


def sum_parts(parts):
    """The sums (2, columns) of partial sums (2, programs, columns)."""
    _, programs, columns = parts.shape
    y, config = array_module(parts).empty((2, columns), "float32"), blocks("normalise", "sum_parts", "float32")
    launch(_sum_parts, (cdiv(columns, config["BLOCK_C"]), 2), parts, y, programs, columns, **config)
    return y
