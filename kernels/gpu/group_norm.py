"""Group norm (Wu & He 2018) with the SiLU that may follow it.

    x^ = (x - mean) rstd,   z = x^ w + b,   y = act(z),   rstd = 1 / sqrt(var + eps)
    dz = act'(z) dy,   db = sum dz,   dw = sum dz x^,   dx = rstd (w dz - mean(w dz) - x^ mean(w dz x^))

Shapes      x, y, dy, dx (N, P, C): P pixels of C channels an image, in G groups of WIDTH; w, b (C,); mean, rstd
            (N, G) and partial sums (2, N, C) float32. The means are over the P WIDTH numbers of a group in one image
Plan        a program has one image and a few groups that lie side by side, as many as fill a sector of memory: a tile
            is BLOCK_P pixels x GROUPS x BLOCK_W, the width rounded up. It passes over its pixels for the mean, for the
            variance of the centred values, for the result. Backward: once for the sums of dz and dz x^ by channels,
            which give the means of the groups, once for dx; a second launch adds the images' sums to dw and db in
            order (no atomics). If all pixels are one block, a loop over them is one step, the compiler sees equal
            loads as one, and x stays in registers: up to 1,024 pixels of 8 channels; beyond, it comes from L2
Cost        float32 bytes an element: 8 (x; y), backward 12 (x, dy; dx). Memory decides. Few images of many pixels leave
            the device idle: there is a program for an image and a sector, not more
Precision   float32 inside, whatever is stored; the variance is of centred values
Versions    statistics by strips of pixels, as in batch norm: three launches instead of one, for images that are small.
            One group a program: of 2 channels it would use 8 of the 32 bytes of a sector. The width as an argument, no
            constant: twice the registers, and no wide load
Limits      groups of at most 8,192 channels
Source      Wu & He 2018
Status      untested on a device: all of it

# why: docs/kernels/norms.md
# next: kernels/gpu/batch_norm.py
"""

import math

import triton
import triton.language as tl

from core.arrays import array_module
from core.engine import Op
from kernels.gpu.activations import activate, slope
from kernels.gpu.common import cdiv, contiguous
from kernels.gpu.normalise import reciprocal_deviation, sum_parts
from kernels.launch import blocks, launch

SECTOR = 32  # bytes that memory hands out together


@triton.jit
def _groups(G, GROUPS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_W: tl.constexpr):
    """(groups (GROUPS,), their channels (GROUPS, BLOCK_W), which of these there are) of a program."""
    group, lane = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS), tl.arange(0, BLOCK_W)
    return group, group[:, None] * WIDTH + lane[None, :], (group < G)[:, None] & (lane < WIDTH)[None, :]


@triton.jit
def _pixels(start, P, channel, mine, C, BLOCK_P: tl.constexpr):
    """(offsets (BLOCK_P, GROUPS, BLOCK_W) of some pixels of the program's image, which of them are inside)."""
    pixel = start + tl.arange(0, BLOCK_P)
    offsets = (tl.program_id(0).to(tl.int64) * P + pixel)[:, None, None] * C + channel[None, :, :]
    return offsets, (pixel < P)[:, None, None] & mine[None, :, :]


@triton.jit
def _weights(v_ptr, channel, mine, default):
    """The channels' weights (GROUPS, BLOCK_W), or `default` throughout."""
    if v_ptr is None:
        v = tl.full(channel.shape, default, tl.float32)
    else:
        v = tl.load(v_ptr + channel, mask=mine, other=default).to(tl.float32)
    return v


@triton.jit
def _group_norm_forward(
    x_ptr, w_ptr, b_ptr, y_ptr, mean_ptr, rstd_ptr, P, C, G, eps,
    ACT: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """y, mean and rstd of GROUPS groups of an image; PIXELS is P rounded up to whole blocks."""
    group, channel, mine = _groups(G, GROUPS, WIDTH, BLOCK_W)
    n = P * WIDTH
    total = tl.zeros((BLOCK_P, GROUPS, BLOCK_W), tl.float32)
    for start in range(0, PIXELS, BLOCK_P):
        offsets, inside = _pixels(start, P, channel, mine, C, BLOCK_P)
        total += tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(tl.sum(total, 0), 1) / n  # (GROUPS,)
    squares = tl.zeros((BLOCK_P, GROUPS, BLOCK_W), tl.float32)
    for start in range(0, PIXELS, BLOCK_P):
        offsets, inside = _pixels(start, P, channel, mine, C, BLOCK_P)
        x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        centred = tl.where(inside, x - mean[None, :, None], 0.0)
        squares += centred * centred
    rstd = reciprocal_deviation(tl.sum(tl.sum(squares, 0), 1) / n, eps)
    w, b = _weights(w_ptr, channel, mine, 1.0)[None, :, :], _weights(b_ptr, channel, mine, 0.0)[None, :, :]
    for start in range(0, PIXELS, BLOCK_P):
        offsets, inside = _pixels(start, P, channel, mine, C, BLOCK_P)
        x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        z = (x - mean[None, :, None]) * rstd[None, :, None] * w + b
        tl.store(y_ptr + offsets, activate(z, 0.0, ACT), mask=inside)
    place = tl.program_id(0).to(tl.int64) * G + group
    tl.store(mean_ptr + place, mean, mask=group < G)
    tl.store(rstd_ptr + place, rstd, mask=group < G)


@triton.jit
def _loaded(x_ptr, dy_ptr, mean, rstd, w, b, offsets, inside, ACT: tl.constexpr):
    """(x^, dz) of a tile, 0 outside."""
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    xhat = tl.where(inside, (x - mean) * rstd, 0.0)
    return xhat, dy * slope(xhat * w + b, 0.0, ACT)


@triton.jit
def _group_norm_backward(
    x_ptr, w_ptr, b_ptr, mean_ptr, rstd_ptr, dy_ptr, dx_ptr, part_ptr, P, C, G,
    ACT: tl.constexpr, PIXELS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """dx of GROUPS groups of an image, and the image's parts of dw and db."""
    image = tl.program_id(0).to(tl.int64)
    group, channel, mine = _groups(G, GROUPS, WIDTH, BLOCK_W)
    mean = tl.load(mean_ptr + image * G + group, mask=group < G, other=0.0)[None, :, None]
    rstd = tl.load(rstd_ptr + image * G + group, mask=group < G, other=0.0)[None, :, None]
    w, b = _weights(w_ptr, channel, mine, 1.0)[None, :, :], _weights(b_ptr, channel, mine, 0.0)[None, :, :]
    dw_sum = tl.zeros((BLOCK_P, GROUPS, BLOCK_W), tl.float32)
    db_sum = tl.zeros((BLOCK_P, GROUPS, BLOCK_W), tl.float32)
    for start in range(0, PIXELS, BLOCK_P):
        offsets, inside = _pixels(start, P, channel, mine, C, BLOCK_P)
        xhat, dz = _loaded(x_ptr, dy_ptr, mean, rstd, w, b, offsets, inside, ACT)
        dw_sum += dz * xhat
        db_sum += dz
    dw, db = tl.sum(dw_sum, 0)[None, :, :], tl.sum(db_sum, 0)[None, :, :]  # (1, GROUPS, BLOCK_W)
    n = P * WIDTH
    level = tl.sum(tl.where(mine[None, :, :], db * w, 0.0), 2)[:, :, None] / n
    slant = tl.sum(tl.where(mine[None, :, :], dw * w, 0.0), 2)[:, :, None] / n
    for start in range(0, PIXELS, BLOCK_P):
        offsets, inside = _pixels(start, P, channel, mine, C, BLOCK_P)
        xhat, dz = _loaded(x_ptr, dy_ptr, mean, rstd, w, b, offsets, inside, ACT)
        tl.store(dx_ptr + offsets, rstd * (dz * w - level - xhat * slant), mask=inside)
    if part_ptr is not None:
        place = image * C + channel[None, :, :]
        tl.store(part_ptr + place, dw, mask=mine[None, :, :])
        tl.store(part_ptr + tl.num_programs(0).to(tl.int64) * C + place, db, mask=mine[None, :, :])


def _plan(kernel, x, num_groups):
    """(grid, pixels, block sizes) of a pass over x: a group's pixels are one block if they can be."""
    P, width = math.prod(x.shape[1:-1]), x.shape[-1] // num_groups
    config, across = blocks("group_norm", kernel, x.dtype, P * width), triton.next_power_of_2(width)
    together = min(max(1, SECTOR // (x.dtype.itemsize * across)), triton.next_power_of_2(num_groups))
    block = min(triton.next_power_of_2(max(P, 1)), max(1, config.pop("TILE") // (together * across)))
    sizes = {"GROUPS": together, "WIDTH": width, "BLOCK_P": block, "BLOCK_W": across}
    return (len(x), cdiv(num_groups, together)), P, {"PIXELS": cdiv(P, block) * block, **sizes, **config}


def _group_norm(x, w, b, *, num_groups, eps, act):
    x, w, b = map(contiguous, (x, w, b))
    xp, (grid, P, config) = array_module(x), _plan("group_norm_forward", x, num_groups)
    y, (mean, rstd) = xp.empty_like(x), (xp.empty((len(x), num_groups), "float32") for _ in range(2))
    arguments = (x, w, b, y, mean, rstd, P, x.shape[-1], num_groups, eps)
    launch(_group_norm_forward, grid, *arguments, ACT=act, **config)
    return y, (x, w, b if act else None, mean, rstd)  # z, which b is part of, tells act'(z) alone


def _group_norm_backward_(saved, dy, needs_input_grad, *, num_groups, eps, act):
    dy, xp, (N, *_, C) = contiguous(dy), array_module(dy), dy.shape
    grid, P, config = _plan("group_norm_backward", dy, num_groups)
    dx, parts = xp.empty_like(saved[0]), xp.empty((2, N, C), "float32") if any(needs_input_grad[1:]) else None
    launch(_group_norm_backward, grid, *saved, dy, dx, parts, P, C, num_groups, ACT=act, **config)
    dw, db = (None, None) if parts is None else sum_parts(parts)
    return dx, dw if needs_input_grad[1] else None, db if needs_input_grad[2] else None


group_norm = Op("group_norm", _group_norm, _group_norm_backward_, backend="triton")
