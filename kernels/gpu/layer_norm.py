"""Layer norm (Ba et al. 2016) over the last axis, alone or behind the residual sum of a pre-norm block.

    r = residual + dropout(x)  (or x),   x^ = (r - mean) rstd,   y = x^ w + b,   rstd = 1 / sqrt(var + eps)
    g = dy w,   dr += rstd (g - mean(g) - x^ mean(g x^)),   dx = dropout(dr),   dw = sum dy x^,   db = sum dy

Shapes      x, residual, y, r and their gradients (R, D): all axes but the last are one; w, b (D,); mean, rstd (R,) and
            partial sums (2, P, D) float32
Plan        forward: a program has ROWS whole rows; it passes over them for the mean, for the variance of the centred
            values, for the result. backward: program (p, c) goes through every P-th group of rows: once over the whole
            rows for the two means, then block c of their columns gets dx and adds to the sums for dw and db, which a
            second launch adds up in order (no atomics). As long as a row is one block, up to 16,384 columns (8,192
            backward), a loop over columns is one step, the compiler sees equal loads as one, and r stays in registers
Cost        float32 bytes: layer norm 8 RD, backward 12 RD; with the residual 16 RD, backward 16 RD to 20 RD (dropped).
            Wider rows are read thrice, and backward 1 + D / 4,096 times. Memory decides
Precision   float32 inside, whatever is stored; the variance is of centred values. y is made of r as it is stored,
            so that the backward pass sees the r that the forward pass normalised
Versions    kept x^ would save one subtraction and one product a value, and cost RD: made again from r, mean and rstd.
            Sums for dw and db in a kernel of their own would read r and dy twice
Limits      none: any number of rows and columns, weights or not
Source      the strips of the backward pass are Liger's
Status      untested on a device: all of it

# why: docs/kernels/norms.md
# next: kernels/gpu/group_norm.py
"""

import triton
import triton.language as tl

from core.arrays import array_module
from core.engine import Op
from kernels.gpu.common import cdiv, contiguous, rows_of
from kernels.gpu.normalise import drop, dropping_of, reciprocal_deviation, sum_parts, tile, vector
from kernels.gpu.random import KEY, dropped
from kernels.launch import blocks, launch


@triton.jit
def _sum_of_branches(x_ptr, residual_ptr, offsets, inside, dropping):
    """r = residual + dropout(x) as it is stored, or x where there is no residual: a tile in float32, 0 outside."""
    r = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        r = (residual + drop(r, offsets, inside, dropping)).to(x_ptr.dtype.element_ty).to(tl.float32)
    return r


@triton.jit(do_not_specialize=KEY)
def _layer_norm_forward(
    x_ptr, residual_ptr, w_ptr, b_ptr, y_ptr, r_ptr, mean_ptr, rstd_ptr, rows, D, eps,
    mask_ptr, step_ptr, seed_low, seed_high, draw, threshold, scale,
    GROUPED: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y, r, mean and rstd of ROWS rows; WIDTH is D rounded up to whole blocks."""
    dropping = (mask_ptr, step_ptr, seed_low, seed_high, draw, threshold, scale, GROUPED)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, WIDTH, BLOCK):
        offsets, inside = tile(row, start + tl.arange(0, BLOCK), rows, D)
        total += _sum_of_branches(x_ptr, residual_ptr, offsets, inside, dropping)
    mean = tl.sum(total, 1) / D  # (ROWS,)
    squares = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(0, WIDTH, BLOCK):
        offsets, inside = tile(row, start + tl.arange(0, BLOCK), rows, D)
        r = _sum_of_branches(x_ptr, residual_ptr, offsets, inside, dropping)
        centred = tl.where(inside, r - mean[:, None], 0.0)
        squares += centred * centred
    rstd = reciprocal_deviation(tl.sum(squares, 1) / D, eps)
    for start in range(0, WIDTH, BLOCK):
        column = start + tl.arange(0, BLOCK)
        offsets, inside = tile(row, column, rows, D)
        r = _sum_of_branches(x_ptr, residual_ptr, offsets, inside, dropping)
        y = (r - mean[:, None]) * rstd[:, None] * vector(w_ptr, column, D, 1.0) + vector(b_ptr, column, D, 0.0)
        tl.store(y_ptr + offsets, y, mask=inside)
        if r_ptr is not None:
            tl.store(r_ptr + offsets, r, mask=inside)
    tl.store(mean_ptr + row, mean, mask=row < rows)
    tl.store(rstd_ptr + row, rstd, mask=row < rows)


@triton.jit
def _loaded(r_ptr, dy_ptr, mean, rstd, row, column, rows, D):
    """(x^, dy) of a tile, 0 outside, and where it lies."""
    offsets, inside = tile(row, column, rows, D)
    r = tl.load(r_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    return tl.where(inside, (r - mean) * rstd, 0.0), dy, offsets, inside


@triton.jit(do_not_specialize=KEY)
def _layer_norm_backward(
    r_ptr, w_ptr, mean_ptr, rstd_ptr, dy_ptr, dr_ptr, sum_ptr, dx_ptr, part_ptr, rows, D,
    mask_ptr, step_ptr, seed_low, seed_high, draw, threshold, scale,
    GROUPED: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """sum = dr + the gradient through the norm, dx = dropout(sum), and this program's parts of dw and db."""
    dropping = (mask_ptr, step_ptr, seed_low, seed_high, draw, threshold, scale, GROUPED)
    program, first = tl.program_id(0).to(tl.int64), 0
    if WIDTH > BLOCK:
        first = tl.program_id(1) * BLOCK
    mine = first + tl.arange(0, BLOCK)  # the columns whose gradients this program writes
    dw = tl.zeros((ROWS, BLOCK), tl.float32)
    db = tl.zeros((ROWS, BLOCK), tl.float32)
    for group in range(program * ROWS, rows, tl.num_programs(0) * ROWS):
        row = group + tl.arange(0, ROWS)
        mean = tl.load(mean_ptr + row, mask=row < rows, other=0.0)[:, None]
        rstd = tl.load(rstd_ptr + row, mask=row < rows, other=0.0)[:, None]
        g_sum = tl.zeros((ROWS, BLOCK), tl.float32)
        gx_sum = tl.zeros((ROWS, BLOCK), tl.float32)
        for start in range(0, WIDTH, BLOCK):
            column = start + tl.arange(0, BLOCK)
            xhat, dy, _, _ = _loaded(r_ptr, dy_ptr, mean, rstd, row, column, rows, D)
            g = dy * vector(w_ptr, column, D, 1.0)
            g_sum += g
            gx_sum += g * xhat
        xhat, dy, offsets, inside = _loaded(r_ptr, dy_ptr, mean, rstd, row, mine, rows, D)
        g_mean, gx_mean = tl.sum(g_sum, 1)[:, None] / D, tl.sum(gx_sum, 1)[:, None] / D
        dr = rstd * (dy * vector(w_ptr, mine, D, 1.0) - g_mean - xhat * gx_mean)
        dw += dy * xhat
        db += dy
        if dr_ptr is not None:
            dr += tl.load(dr_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
        tl.store(sum_ptr + offsets, dr, mask=inside)
        if dx_ptr is not None:
            tl.store(dx_ptr + offsets, drop(dr, offsets, inside, dropping), mask=inside)
    if part_ptr is not None:
        tl.store(part_ptr + program * D + mine, tl.sum(dw, 0), mask=mine < D)
        tl.store(part_ptr + (tl.num_programs(0) + program) * D + mine, tl.sum(db, 0), mask=mine < D)


def _plan(kernel, x):
    """(rows, columns, blocks of columns, block sizes) of a pass over x; a row is one block if it can be."""
    rows, D = rows_of(x), x.shape[-1]
    config = blocks("layer_norm", kernel, x.dtype, D)
    steps = max(cdiv(D, config["BLOCK"]), 1)
    return rows, D, steps, {"GROUPED": D % 8 == 0, "WIDTH": steps * config["BLOCK"], **config}


def _forward(x, residual, w, b, dropping, eps):
    """(y, r, what the backward pass reads); r is x where there is no residual."""
    x, residual, w, b = map(contiguous, (x, residual, w, b))
    xp, (rows, D, _, config) = array_module(x), _plan("layer_norm_forward", x)
    y, mean, rstd = xp.empty_like(x), xp.empty(rows, "float32"), xp.empty(rows, "float32")
    r = None if residual is None else xp.empty_like(x)
    arguments = (x, residual, w, b, y, r, mean, rstd, rows, D, eps, *dropping)
    launch(_layer_norm_forward, (cdiv(rows, config["ROWS"]),), *arguments, **config)
    r = x if r is None else r
    return y, r, (r, w, mean, rstd, dropping)


def _backward(saved, dy, dr, weights):
    """(gradient of r, gradient of x, dw, db); the last two only where `weights` wants them."""
    *inputs, dropping = saved
    dy, dr, xp = contiguous(dy), contiguous(dr), array_module(dy)
    rows, D, steps, config = _plan("layer_norm_backward", dy)
    programs = min(cdiv(rows, config["ROWS"]), config.pop("PROGRAMS"))
    dropped = any(v is not None for v in dropping[:2])  # there is a mask, or a step to draw one with
    whole = xp.empty_like(inputs[0])
    dx = xp.empty_like(whole) if dropped else None
    parts = xp.empty((2, programs, D), "float32") if any(weights) else None
    arguments = (*inputs, dy, dr, whole, dx, parts, rows, D, *dropping)
    launch(_layer_norm_backward, (programs, steps), *arguments, **config)
    dw, db = (None, None) if parts is None else sum_parts(parts)
    return whole, dx if dropped else whole, dw if weights[0] else None, db if weights[1] else None


def _layer_norm(x, w, b, *, eps):
    y, _, saved = _forward(x, None, w, b, dropping_of(None, None, 0, 0, 0), eps)
    return y, saved


def _layer_norm_backward_(saved, dy, needs_input_grad, *, eps):
    return _backward(saved, dy, None, needs_input_grad[1:])[1:]


def _add_layer_norm(x, residual, w, b, mask, step, *, eps, dropout_p, seed, draw):
    y, r, saved = _forward(x, residual, w, b, dropping_of(mask, step, dropout_p, seed, draw), eps)
    return (y, r), saved


def _add_layer_norm_backward(saved, dys, needs_input_grad, *, eps, dropout_p, seed, draw):
    (dy, dr), (mask, step, *_) = dys, saved[-1]
    if dy is None:  # only the sum was used
        return dropped(dr, mask, step, dropout_p, seed, draw), dr, *(None,) * 4
    dresidual, dx, dw, db = _backward(saved, dy, dr, needs_input_grad[2:4])
    return dx, dresidual, dw, db, None, None


layer_norm = Op("layer_norm", _layer_norm, _layer_norm_backward_, backend="triton")
add_layer_norm = Op("add_layer_norm", _add_layer_norm, _add_layer_norm_backward, backend="triton")
