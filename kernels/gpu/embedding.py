"""Rows of a table and the gradient of the table; a number as the phases of waves (`timestep_embedding`).

    y[i] = w[ids[i]],   dw[v] = the sum of dy[i] over all i with ids[i] = v, in a fixed order
    y[n] = (cos(t[n] f_0), ..., cos(t[n] f_h-1), sin(t[n] f_0), ..., sin(t[n] f_h-1)),   f_i = max_period^(-i / h)
    dt[n] = the sum over i of f_i (dy_sin cos(t f_i) - dy_cos sin(t f_i))

Shapes      ids n of any integer type, w (V, D), y and dy (n, D); t, dt (N,) of any type of numbers, y, dy (N, 2h)
Plan        forward: a program copies BLOCK_N rows, BLOCK_D columns. backward: a program owns BLOCK_V rows of the table
            and BLOCK_D columns. It looks through all ids, BLOCK_N at a time; where some belong to a row of its own it
            loads exactly those rows of dy and adds them up. Waves: a program has BLOCK_N numbers and BLOCK_H waves, and
            writes both halves; backward it goes through all waves of its numbers. t is read on the device
Cost        forward 8nD bytes in float32; backward reads dy once and writes dw once, 4(n + V)D bytes, and reads the ids
            V/BLOCK_V * D/BLOCK_D times, from L2. If rows are few (characters) each has a program of its own. Waves:
            8 N h bytes, too small to matter: one launch, where plain arithmetic takes seven
Precision   float32 sums: within a block as a tree, blocks in order; rounded once. Angles in float64, as turns, less
            whole quarters, then float32 polynomials: in float32 an angle of 1,000 would be off by 3e-5
Versions    atomic adds: another result each time. Sorting the ids and adding runs: a sort is many launches. One-hot
            products in the tensor cores: 2nVD flops, and an inf in one row would reach its neighbours as nan
Limits      0 <= ids < V, as the model checks on the host; V/BLOCK_V * n comparisons: meant for up to 100,000 ids
Source      waves: Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix B
Status      untested on a device: all of it

# why: docs/kernels/others.md
# next: kernels/gpu/upsample.py
"""

import math

import triton
import triton.language as tl

from core.arrays import array_module, is_float
from core.engine import Op
from kernels.gpu.common import cdiv, contiguous
from kernels.gpu.random import quarter
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


def _embedding_backward(saved, dy, needs_input_grad):
    (ids, (V, D)), dy = saved, contiguous(dy)
    dw = array_module(dy).empty((V, D), dy.dtype)
    config = blocks("embedding", "scatter", dy.dtype, V)
    grid = cdiv(V, config["BLOCK_V"]), cdiv(D, config["BLOCK_D"])
    launch(_scatter, grid, ids, dy, dw, ids.size, V, D, **config)
    return None, dw


embedding = Op("embedding", _embedding, _embedding_backward, backend="triton")


@triton.jit
def _waves(t_ptr, row, wave, N, RATE: tl.constexpr):
    """(f (1, BLOCK_H), cos (BLOCK_N, BLOCK_H), sin) of the rows' numbers; f_i = 2^(RATE i)."""
    t = tl.load(t_ptr + row, mask=row < N, other=0).to(tl.float64)[:, None]
    f = tl.exp2(wave.to(tl.float64) * RATE)[None, :]
    quarters = t * f * 0.6366197723675814  # 2 / pi
    nearest = tl.floor(quarters + 0.5)
    rest = ((quarters - nearest) * 1.5707963267948966).to(tl.float32)
    turned = (nearest - tl.floor(nearest * 0.25) * 4.0).to(tl.int32)
    return f.to(tl.float32), quarter(rest, turned), quarter(rest, (turned - 1) & 3)


@triton.jit
def _embed(t_ptr, y_ptr, N, h, RATE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    wave = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    _, cos, sin = _waves(t_ptr, row, wave, N, RATE)
    offsets, inside = row[:, None] * (2 * h) + wave[None, :], (row < N)[:, None] & (wave < h)[None, :]
    tl.store(y_ptr + offsets, cos, mask=inside)
    tl.store(y_ptr + offsets + h, sin, mask=inside)


@triton.jit
def _embed_backward(t_ptr, dy_ptr, dt_ptr, N, h, RATE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_N, BLOCK_H), tl.float32)
    for start in range(0, h, BLOCK_H):
        wave = start + tl.arange(0, BLOCK_H)
        f, cos, sin = _waves(t_ptr, row, wave, N, RATE)
        offsets, inside = row[:, None] * (2 * h) + wave[None, :], (row < N)[:, None] & (wave < h)[None, :]
        dcos = tl.load(dy_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        dsin = tl.load(dy_ptr + offsets + h, mask=inside, other=0.0).to(tl.float32)
        total += f * (dsin * cos - dcos * sin)
    tl.store(dt_ptr + row, tl.sum(total, 1), mask=row < N)


def _plan(name, t, dim, max_period):
    config = blocks("embedding", name, "float32")
    grid = cdiv(len(t), config["BLOCK_N"]), cdiv(dim // 2, config["BLOCK_H"])
    return grid, {"RATE": -2 / dim * math.log2(max_period), **config}


def _timestep_embedding(t, *, dim, max_period):
    t, (grid, config) = contiguous(t), _plan("embed", t, dim, max_period)
    y = array_module(t).empty((len(t), dim), t.dtype if is_float(t) else "float32")
    launch(_embed, grid, t, y, len(t), dim // 2, **config)
    return y, (t,)


def _timestep_embedding_backward(saved, dy, needs_input_grad, *, dim, max_period):
    (t,), dy = saved, contiguous(dy)
    (programs, _), config = _plan("embed_backward", t, dim, max_period)
    dt = array_module(dy).empty(t.shape, dy.dtype)
    launch(_embed_backward, (programs,), t, dy, dt, len(t), dim // 2, **config)
    return (dt,)


timestep_embedding = Op("timestep_embedding", _timestep_embedding, _timestep_embedding_backward, backend="triton")
