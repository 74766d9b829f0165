"""What convolutions sum over pixels: the weight gradient of both, and the way back through bias and activation.

    dw[i, j] = sum over the pixels (u, v) of x[S u + D i - P, S v + D j - P] (outer product) y[u, v]     (KH, KW, A, B)
    db       = sum over the pixels of dy act'(.)

x is the large image, (N, H, W, A): conv2d's x, conv_transpose2d's dy. y (N, U, V, B) is the small one.

Shapes      dw is a matrix of KH KW A rows, (tap, channel of x), and B columns; pixels are those of y
Plan        _weights: a program makes BLOCK_A x BLOCK_B of dw over one share of the pixels, BLOCK_Q at a time; x comes
            in transposed. _add_parts adds the shares in a fixed order. If BLOCK_A does not divide A, a block of rows
            holds parts of several taps: an image of one channel fills it. BLOCK_B = 1 is one channel of y, without
            tensor cores. _activation_backward: dy act'(.) and the parts of db in one pass over dy
Cost        2 N U V KH KW A B flops; x and y once for each block of dw that L2 does not serve, and 8 bytes for each
            element of dw and share. _activation_backward: three arrays of y's size, one if there is no activation
Precision   as conv.py; shares are summed in float32
Versions    read in compiled code, not timed: row by row of y needs wide images (BLOCK_Q pixels); this form divides to
            find its pixels, which is as short once the compiler knows the sizes. x loaded as it lies and transposed in
            registers is not copied asynchronously on sm_80
Limits      as conv.py
Source      split sums: any GEMM library's split-K
Status      untested on a device: all of it

# why: docs/kernels/convolution.md
# next: kernels/gpu/matmul.py
"""

import math

import triton
import triton.language as tl

from core.arrays import array_module
from kernels.gpu.activations import slope
from kernels.gpu.common import cdiv, precision_of
from kernels.launch import blocks, launch

PROGRAMS = 264  # that fill a GPU: two for each of an H100's 132 multiprocessors


@triton.jit
def _weights(
    x_ptr, y_ptr, part_ptr, pixels, share, A: tl.constexpr, B: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    U: tl.constexpr, V: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_A: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_Q: tl.constexpr,
):  # fmt: skip
    """part[s] (KH KW A, B) = the sum over share s of y's pixels of x (at every tap) times y: q counts all pixels of y,
    x is read at (su + off_h, sv + off_w) = (S u + D i - P, S v + D j - P)."""
    length: tl.constexpr = ROWS.taps * COLS.taps * A
    columns, tiles = tl.cdiv(B, BLOCK_B), tl.cdiv(length, BLOCK_A) * tl.cdiv(B, BLOCK_B)
    tile, s = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    top = tile // columns * BLOCK_A
    row = top + tl.arange(0, BLOCK_A)  # (tap, channel of x)
    col = tile % columns * BLOCK_B + tl.arange(0, BLOCK_B)
    if A % BLOCK_A == 0:  # one tap: a scalar
        tap = tl.full((BLOCK_A,), top // A, tl.int32)
    else:
        tap = row // A
    off_h = tap // COLS.taps * ROWS.dilation - ROWS.padding
    off_w = tap % COLS.taps * COLS.dilation - COLS.padding
    x_row = (off_h * W + off_w) * A + row % A

    acc = tl.zeros((BLOCK_A, BLOCK_Q if BLOCK_B == 1 else BLOCK_B), tl.float32)
    last = tl.minimum((s + 1) * share, pixels)
    for start in range(s * share, last, BLOCK_Q):
        q = start + tl.arange(0, BLOCK_Q)
        image, su, sv = q // (U * V), q // V % U * ROWS.stride, q % V * COLS.stride
        ih, iw = su[None, :] + off_h[:, None], sv[None, :] + off_w[:, None]  # (BLOCK_A, BLOCK_Q)
        inside = (ih >= 0) & (ih < H) & (iw >= 0) & (iw < W) & (q < last)[None, :]
        if length % BLOCK_A != 0:
            inside &= (row < length)[:, None]
        x_at = ((image * H + su) * W + sv).to(tl.int64) * A
        x = tl.load(x_ptr + x_at[None, :] + x_row[:, None], mask=inside, other=0.0)
        if BLOCK_B == 1:
            y = tl.load(y_ptr + q.to(tl.int64) * B + col, mask=q < last, other=0.0)
            acc += x.to(tl.float32) * y.to(tl.float32)[None, :]
        else:
            inside = (q < last)[:, None] & (col < B)[None, :]
            y = tl.load(y_ptr + (q.to(tl.int64) * B)[:, None] + col[None, :], mask=inside, other=0.0)
            acc = tl.dot(x, y, acc, input_precision=PRECISION)
    if BLOCK_B == 1:
        acc = tl.sum(acc, 1, keep_dims=True)
    part_at = (s.to(tl.int64) * length + row)[:, None] * B + col[None, :]
    tl.store(part_ptr + part_at, acc, mask=(row < length)[:, None] & (col < B)[None, :])


@triton.jit
def _add_parts(part_ptr, y_ptr, parts, n, BLOCK_P: tl.constexpr, BLOCK_N: tl.constexpr):
    """y (n,) = the sum of part (parts, n) over its rows, in a fixed order."""
    o = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    for start in range(0, parts, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        inside = (p < parts)[:, None] & (o < n)[None, :]
        acc += tl.load(part_ptr + p.to(tl.int64)[:, None] * n + o[None, :], mask=inside, other=0.0)
    tl.store(y_ptr + o, tl.sum(acc, 0), mask=o < n)


@triton.jit
def _activation_backward(
    dy_ptr, kept_ptr, dx_ptr, part_ptr, pixels, share, negative_slope, C: tl.constexpr, ACT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dx = dy times the slope of ACT, unless ACT is None; part[program] (C,) = its sum over one share of the pixels,
    unless part_ptr is None."""
    s = tl.program_id(0)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    last = tl.minimum((s + 1) * share, pixels)
    for start in range(s * share, last, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        at = m.to(tl.int64)[:, None] * C + n[None, :]
        inside = (m < last)[:, None] & (n < C)[None, :]
        d = tl.load(dy_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if ACT is not None:
            kept = tl.load(kept_ptr + at, mask=inside, other=0.0).to(tl.float32)
            d *= slope(kept, negative_slope, ACT)
            tl.store(dx_ptr + at, d, mask=inside)
        acc += d
    if part_ptr is not None:
        tl.store(part_ptr + s * C + n, tl.sum(acc, 0), mask=n < C)


# --- launches ----------------------------------------


def width_of(channels):
    """The BLOCK_N of the tables: few channels want narrow blocks, one channel has its own path."""
    return next((width for width in (1, 16, 32, 64) if channels <= width), 128)


def weight_gradient(x, y, axes):
    """(KH, KW, A, B) from x (N, H, W, A) and y (N, U, V, B)."""
    xp, (_, h, width, a), (n, u, v, b) = array_module(x), x.shape, y.shape
    taps = axes["ROWS"].taps, axes["COLS"].taps
    config = blocks("conv", f"weights_{width_of(b)}", x.dtype, math.prod(taps) * a)
    pixels, step = n * u * v, config["BLOCK_Q"]
    tiles = cdiv(math.prod(taps) * a, config["BLOCK_A"]) * cdiv(b, config["BLOCK_B"])
    share = max(cdiv(cdiv(pixels, cdiv(PROGRAMS, tiles)), step), 4) * step  # at least four steps a program
    parts = max(cdiv(pixels, share), 1)
    part = xp.empty((parts, *taps, a, b), "float32" if parts > 1 else x.dtype)
    constants = {"A": a, "B": b, "H": h, "W": width, "U": u, "V": v, "PRECISION": precision_of(x)}
    launch(_weights, (tiles * parts,), x, y, part, pixels, share, **constants, **axes, **config)
    return _add(part, x.dtype)


def _add(part, dtype):
    """The sum of part (parts, ...) over its first axis."""
    if len(part) == 1:
        return part[0]
    y = array_module(part).empty(part.shape[1:], dtype)
    config = blocks("conv", "add_parts", dtype, y.size)
    launch(_add_parts, (cdiv(y.size, config["BLOCK_N"]),), part, y, len(part), y.size, **config)
    return y


def before_activation(dy, kept, act, negative_slope, bias):
    """(dy times the slope of `act`, the sum of that over all pixels or None unless `bias` is wanted)."""
    xp, c = array_module(dy), dy.shape[3]
    if act is None and not bias:
        return dy, None
    pixels, config = dy.size // c, blocks("conv", "activation_backward", dy.dtype, c)
    columns = cdiv(c, config["BLOCK_N"])
    strips = cdiv(config.pop("PROGRAMS"), columns)
    share = max(cdiv(cdiv(pixels, strips), config["BLOCK_M"]), 1) * config["BLOCK_M"]
    parts = max(cdiv(pixels, share), 1)
    dx = xp.empty_like(dy) if act is not None else dy
    part = xp.empty((parts, c), "float32") if bias else None
    constants = {"C": c, "ACT": act, **config}
    launch(
        _activation_backward, (parts, columns), dy, kept, dx, part, pixels, share, float(negative_slope), **constants
    )
    return dx, _add(part, dy.dtype) if bias else None
