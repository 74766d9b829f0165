"""Rows of a table, and the gradient of the table.

    y[i] = w[ids[i]],   dw[v] = the sum of dy[i] over all i with ids[i] = v, in a fixed order

Shapes      ids n of any integer type, w (V, D), y and dy (n, D)
Plan        forward: a program copies BLOCK_N rows, BLOCK_D columns. backward: a program owns BLOCK_V rows of the table
            and BLOCK_D columns. It looks through all ids, BLOCK_N at a time; where some belong to a row of its own it
            loads exactly those rows of dy and adds them up
Cost        forward 8nD bytes in float32; backward reads dy once and writes dw once, 4(n + V)D bytes, and reads the ids
            V/BLOCK_V * D/BLOCK_D times, from L2. If rows are few (characters) each has a program of its own
Precision   float32 sums: within a block as a tree, blocks in order; rounded once
Versions    atomic adds: another result each time. Sorting the ids and adding runs: a sort is many launches. One-hot
            products in the tensor cores: 2nVD flops, and an inf in one row would reach its neighbours as nan
Limits      0 <= ids < V, as the model checks on the host; V/BLOCK_V * n comparisons: meant for up to 100,000 ids
Status      untested on a device: all of it

# why: docs/kernels/others.md
# next: kernels/gpu/upsample.py
"""

import triton
import triton.language as tl

from core.arrays import array_module
from core.engine import Op
from kernels.gpu.common import cdiv, contiguous
from kernels.launch import blocks, launch


@triton.jit
def _gather(ids_ptr, w_ptr, y_ptr, n, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """y[i] = w[ids[i]] for BLOCK_N of the ids."""
    i = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    ids = tl.load(ids_ptr + i, mask=i < n, other=0).to(tl.int64)
    inside = (i < n) & (d < D)
    tl.store(y_ptr + i * D + d, tl.load(w_ptr + ids * D + d, mask=inside, other=0.0), mask=inside)


@triton.jit
def _scatter(ids_ptr, dy_ptr, dw_ptr, n, V, D, BLOCK_V: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """dw[v] = the sum of dy[i] over ids[i] = v for BLOCK_V rows, in gather form."""
    first = tl.program_id(0) * BLOCK_V
    v = tl.arange(0, BLOCK_V)[:, None]
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    total = tl.zeros((BLOCK_V, BLOCK_D), tl.float32)
    for start in range(0, n, BLOCK_N):
        i = start + tl.arange(0, BLOCK_N)
        ids = tl.load(ids_ptr + i, mask=i < n, other=0).to(tl.int64)
        row = tl.where(i < n, ids - first, -1)  # among the program's own
        if tl.sum(((row >= 0) & (row < BLOCK_V)).to(tl.int32), 0) > 0:
            for own in range(0, BLOCK_V):
                mine = row == own
                if tl.sum(mine.to(tl.int32), 0) > 0:
                    o = i.to(tl.int64)[:, None] * D + d
                    dy = tl.load(dy_ptr + o, mask=mine[:, None] & (d < D), other=0.0).to(tl.float32)
                    total += tl.where(v == own, tl.sum(dy, 0)[None, :], 0.0)
    tl.store(dw_ptr + (first + v).to(tl.int64) * D + d, total, mask=(first + v < V) & (d < D))


def _embedding(ids, w):
    ids, w = contiguous(ids), contiguous(w)
    D = w.shape[1]
    y = array_module(w).empty((*ids.shape, D), w.dtype)
    config = blocks("embedding", "gather", w.dtype)
    grid = cdiv(ids.size, config["BLOCK_N"]), cdiv(D, config["BLOCK_D"])
    launch(_gather, grid, ids, w, y, ids.size, D, **config)
    return y, (ids, w.shape)  # (..., D)


def _embedding_backward(saved, dy, needs):
    (ids, (V, D)), dy = saved, contiguous(dy)
    dw = array_module(dy).empty((V, D), dy.dtype)
    config = blocks("embedding", "scatter", dy.dtype, V)
    grid = cdiv(V, config["BLOCK_V"]), cdiv(D, config["BLOCK_D"])
    launch(_scatter, grid, ids, dy, dw, ids.size, V, D, **config)
    return None, dw


embedding = Op("embedding", _embedding, _embedding_backward, backend="triton")
