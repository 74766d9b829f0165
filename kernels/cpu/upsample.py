"""Nearest-neighbour upsampling: each pixel becomes a block of SH x SW equal ones.

    y[n, i, j] = x[n, i // SH, j // SW],   dx[n, i, j] = the sum of dy over the block of x[n, i, j]

Shapes      x, dx (N, H, W, C), as (N H, W C); y, dy (N, SH H, SW W, C), as (N H SH, W SW C)
Plan        a piece of the rows of x for each thread. A row is widened once and copied SH - 1 times from the cache;
            backward a pixel's block is added up in C running sums
Cost        float32 bytes: (1 + SH SW) times those of x each way. Memory decides
Precision   forward copies; backward float64 sums in the order of the block, rounded once

# next: kernels/cpu/layer_norm.py
"""

import math

import numpy as np

from core.engine import Op
from core.runtime.threads import share
from kernels.cpu.common import INDEX, PIECE, const, f32, floats, kernel, out

GRAIN = 1 << 17  # elements of the larger image below which a second thread costs more than it brings


@kernel(const(2), INDEX, INDEX, INDEX, out(2), *PIECE)
def _forward(x, C, down, across, y, start, stop):
    for row in range(start, stop):
        wide = y[row * down]
        for j in range(x.shape[1] // C):
            pixel = x[row, j * C : (j + 1) * C]
            for k in range(j * across, (j + 1) * across):
                to = wide[k * C : (k + 1) * C]
                for c in range(pixel.size):
                    to[c] = pixel[c]
        for i in range(row * down + 1, (row + 1) * down):
            y[i] = wide


@kernel(const(2), INDEX, INDEX, INDEX, out(2), *PIECE)
def _backward(dy, C, down, across, dx, start, stop):
    total = np.empty(C)
    for row in range(start, stop):
        for j in range(dx.shape[1] // C):
            total[:] = 0.0
            for i in range(row * down, (row + 1) * down):
                for k in range(j * across, (j + 1) * across):
                    part = dy[i, k * C : (k + 1) * C]
                    for c in range(part.size):
                        total[c] += np.float64(part[c])
            pixel = dx[row, j * C : (j + 1) * C]
            for c in range(pixel.size):
                pixel[c] = f32(total[c])


# --- on the host ----------------------------------------


def _each(loop, source, result, small, scale):
    """loop(source, ..., result) over the rows of the smaller image, whose shape is `small`."""
    n, height, width, C = small
    rows = source.reshape(-1, source.shape[2] * C), C, *scale, result.reshape(-1, result.shape[2] * C)
    grain = 1 + GRAIN // (math.prod(scale) * width * C)
    share(lambda start, stop: loop(*rows, start, stop), n * height, grain)
    return result


def _upsample_nearest(x, *, scale):
    n, height, width, C = x.shape
    y = np.empty((n, height * scale[0], width * scale[1], C), f32)
    return _each(_forward, floats(x), y, x.shape, scale) if y.size else y, ()


def _upsample_nearest_backward(saved, dy, needs_input_grad, *, scale):
    n, height, width, C = dy.shape
    dx = np.empty((n, height // scale[0], width // scale[1], C), f32)
    return (_each(_backward, floats(dy), dx, dx.shape, scale) if dx.size else dx,)


upsample_nearest = Op("upsample_nearest", _upsample_nearest, _upsample_nearest_backward, backend="numba")
