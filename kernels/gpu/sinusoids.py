"""A number as the phases of waves: how a network is told a diffusion step.

    y[n] = (cos(t[n] f_0), ..., cos(t[n] f_h-1), sin(t[n] f_0), ..., sin(t[n] f_h-1)),   f_i = max_period^(-i / h)
    dt[n] = the sum over i of f_i (dy_sin cos(t f_i) - dy_cos sin(t f_i))

Shapes      t, dt (N,), t of any type of numbers; y, dy (N, dim), h = dim / 2
Plan        a program has BLOCK_N numbers and BLOCK_H waves, and writes both halves; backward it goes through all waves
            of its numbers. t is read on the device, where a captured step draws it
Cost        4 N dim bytes: it is too small to matter. One launch, where plain arithmetic takes seven
Precision   angles in float64, as turns, less whole quarters; what is left goes through float32 polynomials. In float32
            an angle of 1,000 would be off by 3e-5
Limits      none
Source      Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix B
Status      untested on a device: all of it

# why: docs/kernels/others.md
# next: kernels/gpu/random.py
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
    config = blocks("sinusoids", name, "float32")
    grid = cdiv(len(t), config["BLOCK_N"]), cdiv(dim // 2, config["BLOCK_H"])
    return grid, {"RATE": -2 / dim * math.log2(max_period), **config}


def _timestep_embedding(t, *, dim, max_period):
    t, (grid, config) = contiguous(t), _plan("embed", t, dim, max_period)
    y = array_module(t).empty((len(t), dim), t.dtype if is_float(t) else "float32")
    launch(_embed, grid, t, y, len(t), dim // 2, **config)
    return y, (t,)


def _timestep_embedding_backward(saved, dy, needs, *, dim, max_period):
    (t,), dy = saved, contiguous(dy)
    (programs, _), config = _plan("embed_backward", t, dim, max_period)
    dt = array_module(dy).empty(t.shape, dy.dtype)
    launch(_embed_backward, (programs,), t, dy, dt, len(t), dim // 2, **config)
    return (dt,)


timestep_embedding = Op("timestep_embedding", _timestep_embedding, _timestep_embedding_backward, backend="triton")
