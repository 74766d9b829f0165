"""Nearest-neighbour upsampling: each pixel becomes a block of SH x SW equal ones.

    y[n, i, j] = x[n, i // SH, j // SW],   dx[n, i, j] = the sum of dy over the block of x[n, i, j]

Shapes      x, dx (N, H, W, C); y, dy (N, SH H, SW W, C), all as rows of C numbers, a row for each pixel
Plan        a program has BLOCK_R pixels of the result and BLOCK_C channels, and reads the pixel that each is a copy of;
            backward it has pixels of dx, and reads their blocks one place after the other
Cost        float32 bytes: (1 + SH SW) times those of x each way: forward a pixel's later readings come from L2
Precision   forward copies; backward sums in float32, whatever is stored
Limits      none
Status      untested on a device: all of it

# why: docs/kernels/others.md
# next: kernels/gpu/random.py
"""

import triton
import triton.language as tl

from core.arrays import array_module
from core.engine import Op
from kernels.gpu.common import cdiv, contiguous, rows_of
from kernels.gpu.normalise import tile
from kernels.launch import blocks, launch


@triton.jit
def _enlarge(x_ptr, y_ptr, rows, W, C, SH, SW, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """BLOCK_R of the `rows` pixels of y, each a copy of a pixel of x, W wide."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    offsets, inside = tile(row, column, rows, C)
    down, across = row // (W * SW), row % (W * SW)  # down counts the rows of all images' pixels
    source, _ = tile(down // SH * W + across // SW, column, rows, C)
    tl.store(y_ptr + offsets, tl.load(x_ptr + source, mask=inside, other=0.0), mask=inside)


@triton.jit
def _add_blocks(dy_ptr, dx_ptr, rows, W, C, SH, SW, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """BLOCK_R of the `rows` pixels of dx, W wide, each the sum of its block of dy."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    offsets, inside = tile(row, column, rows, C)
    first = row // W * SH * (W * SW) + row % W * SW  # the block's first pixel in dy
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for place in range(0, SH * SW):
        source, _ = tile(first + place // SW * (W * SW) + place % SW, column, rows, C)
        total += tl.load(dy_ptr + source, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx_ptr + offsets, total, mask=inside)


def _launch(kernel, name, source, result, *numbers):
    rows, C = rows_of(result), result.shape[-1]
    config = blocks("upsample", name, result.dtype)
    grid = cdiv(rows, config["BLOCK_R"]), cdiv(C, config["BLOCK_C"])
    launch(kernel, grid, contiguous(source), result, rows, *numbers, **config)
    return result


def _upsample_nearest(x, *, scale):
    n, height, width, C = x.shape
    y = array_module(x).empty((n, height * scale[0], width * scale[1], C), x.dtype)
    return _launch(_enlarge, "enlarge", x, y, width, C, *scale), ()


def _upsample_nearest_backward(saved, dy, needs_input_grad, *, scale):
    n, height, width, C = dy.shape
    dx = array_module(dy).empty((n, height // scale[0], width // scale[1], C), dy.dtype)
    return (_launch(_add_blocks, "add_blocks", dy, dx, dx.shape[2], C, *scale),)


upsample_nearest = Op("upsample_nearest", _upsample_nearest, _upsample_nearest_backward, backend="triton")
