"""Batch norm (Ioffe & Szegedy 2015) with the activation and the dropout that follow it.

    x^ = (x - mean) rstd,   z = x^ w + b,   y = dropout(act(z)),   rstd = 1 / sqrt(var + eps)
    dz = act'(z) dropout(dy),   db = sum dz,   dw = sum dz x^,   dx = rstd w (dz - db / R - x^ dw / R)

Shapes      x, y, dy, dx (R, C): all axes but the last are one; w, b, mean, var (C,); partial sums (2, P, C) float32
Plan        statistics: program (p, c) runs down strip p of the rows of a block of channels, each lane by Welford's
            update; its lanes, then the P strips in a second launch, are joined by Chan's formula. Result: one tile a
            program. Gradients: strips again for the partial sums of db and dw, one launch that adds them in order
            (no atomics), then dx, one tile a program. P depends on the shape alone, and so do the bits
Cost        float32 bytes: training 12 RC (reads x twice, writes y), backward 20 RC (reads x and dy twice, writes dx);
            with running statistics 8 RC, and 12 RC back (20 RC with the gradients of w and b). Memory decides
Precision   float32 inside, whatever is stored. Statistics are of x less its first row, by sums of centred values: with
            the shift a large mean costs nothing (Welford alone: a variance wrong by 1e-4 at mean / deviation 10,000),
            with Welford's sums an outlier in the first row does no harm. E[x^2] - E[x]^2 would lose all its digits
Versions    nothing of the activation is kept: z costs three operations a value to make again, storing it as much memory
            as x. Two passes over x for the variance: 4 RC bytes more. Random bits drawn for each value instead of for
            eight: twice the registers and eight times the integer work
Limits      none: any number of rows and channels, weights or not
Source      Chan, Golub & LeVeque 1979 for joining
Status      untested on a device: all of it

# why: docs/kernels/norms.md
# next: kernels/gpu/attention.py
"""

import triton
import triton.language as tl

from core.arrays import array_module
from core.engine import Op
from kernels.gpu.activations import activate, slope
from kernels.gpu.common import cdiv, contiguous, rows_of, write_back
from kernels.gpu.normalise import drop, dropping_of, reciprocal_deviation, sum_parts, tile, vector
from kernels.gpu.random import KEY
from kernels.launch import blocks, launch

# --- statistics ----------------------------------------


@triton.jit
def _joined(count, mean, squares):
    """Chan's formula along axis 0: mean and sum of squared deviations of all, from those of groups of `count`."""
    n = tl.sum(count, 0)
    joined = tl.sum(count * mean, 0) / n
    deviation = mean - joined[None, :]
    return joined, tl.sum(squares + count * deviation * deviation, 0)


@triton.jit
def _strip_moments(x_ptr, part_ptr, rows, C, strip, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """part[0, p] and part[1, p] = the mean, less x[0], and the sum of squared deviations of the rows of strip p."""
    program, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    first = program * strip
    stop = tl.minimum(first + strip, rows)
    lane, n, shift = tl.arange(0, BLOCK_R), 0.0, vector(x_ptr, column, C, 0.0)
    mean = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    squares = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(first, stop, BLOCK_R):
        offsets, inside = tile(start + lane, column, stop, C)
        x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32) - shift
        n += 1.0  # the same for all lanes: only those outside the last rows have seen fewer, and they stand still
        deviation = tl.where(inside, x - mean, 0.0)
        mean += deviation * (1.0 / n)
        squares += deviation * (x - mean)
    count = ((stop - first - lane + BLOCK_R - 1) // BLOCK_R).to(tl.float32)  # rows that each lane has seen
    joined, squared = _joined(count[:, None], mean, squares)
    tl.store(part_ptr + program * C + column, joined, mask=column < C)
    tl.store(part_ptr + (tl.num_programs(0) + program) * C + column, squared, mask=column < C)


@triton.jit
def _join_strips(
    x_ptr, part_ptr, mean_ptr, var_ptr, rows, C, strip, strips, STRIPS: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Mean and biased variance of each channel, from the moments of its strips: part (2, strips, C)."""
    p, column = tl.arange(0, STRIPS), tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    offsets, inside = tile(p, column, strips, C)
    mean = tl.load(part_ptr + offsets, mask=inside, other=0.0)
    squares = tl.load(part_ptr + offsets + strips * C, mask=inside, other=0.0)
    count = tl.minimum(tl.maximum(rows - p.to(tl.int64) * strip, 0), strip).to(tl.float32)
    mean, squares = _joined(count[:, None], mean, squares)
    shift = tl.load(x_ptr + column, mask=column < C, other=0.0).to(tl.float32)
    tl.store(mean_ptr + column, shift + mean, mask=column < C)
    tl.store(var_ptr + column, squares / rows, mask=column < C)


def _plan(x):
    """(rows, channels, rows of a strip, strips, block sizes) of a pass over x."""
    rows, C = rows_of(x), x.shape[-1]
    config = blocks("batch_norm", "batch_norm", x.dtype, C)
    strip = max(cdiv(cdiv(rows, config.pop("PROGRAMS")), config["BLOCK_R"]), 1) * config["BLOCK_R"]
    return rows, C, strip, cdiv(rows, strip), config


def _moments(x):
    """(mean, biased variance) of each channel, float32."""
    xp, (rows, C, strip, strips, config) = array_module(x), _plan(x)
    parts, mean, var = xp.empty((2, strips, C), "float32"), xp.empty(C, "float32"), xp.empty(C, "float32")
    launch(_strip_moments, (strips, cdiv(C, config["BLOCK_C"])), x, parts, rows, C, strip, **config)
    sizes = {"STRIPS": triton.next_power_of_2(strips), "BLOCK_C": 16}
    launch(_join_strips, (cdiv(C, 16),), x, parts, mean, var, rows, C, strip, strips, **sizes, num_warps=4)
    return mean, var


# --- normalise, activate, drop ----------------------------------------


@triton.jit
def _channels(mean_ptr, var_ptr, w_ptr, b_ptr, column, C, eps):
    """mean, rstd, w and b of a block of channels, (1, BLOCK_C) each."""
    rstd = reciprocal_deviation(vector(var_ptr, column, C, 1.0), eps)
    return vector(mean_ptr, column, C, 0.0), rstd, vector(w_ptr, column, C, 1.0), vector(b_ptr, column, C, 0.0)


@triton.jit
def _dz(dy_ptr, z, offsets, inside, negative_slope, dropping, ACT: tl.constexpr):
    """The gradient of z from that of y, 0 outside: dropout and activation undone."""
    dy = tl.load(dy_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    dy = drop(dy, offsets, inside, dropping)
    if ACT == "tanh":  # `slope` wants its result, (1 - y)(1 + y) would lose digits; relu's is told from z as well
        e = tl.exp(-2.0 * tl.abs(z))
        dz = dy * (4.0 * e / ((1.0 + e) * (1.0 + e)))
    else:
        dz = dy * slope(z, negative_slope, ACT)
    return dz


@triton.jit(do_not_specialize=KEY)
def _batch_norm_forward(
    x_ptr, mean_ptr, var_ptr, w_ptr, b_ptr, y_ptr, rows, C, eps, negative_slope,
    mask_ptr, step_ptr, seed_low, seed_high, draw, threshold, scale,
    ACT: tl.constexpr, GROUPED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One tile of y = dropout(act(z))."""
    dropping = (mask_ptr, step_ptr, seed_low, seed_high, draw, threshold, scale, GROUPED)
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    offsets, inside = tile(row, column, rows, C)
    mean, rstd, w, b = _channels(mean_ptr, var_ptr, w_ptr, b_ptr, column, C, eps)
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32)
    y = activate((x - mean) * rstd * w + b, negative_slope, ACT)
    tl.store(y_ptr + offsets, drop(y, offsets, inside, dropping), mask=inside)


@triton.jit(do_not_specialize=KEY)
def _strip_sums(
    x_ptr, mean_ptr, var_ptr, w_ptr, b_ptr, dy_ptr, part_ptr, rows, C, strip, eps, negative_slope,
    mask_ptr, step_ptr, seed_low, seed_high, draw, threshold, scale,
    ACT: tl.constexpr, GROUPED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """part[0, p] and part[1, p] = the sums of dz x^ and of dz over the rows of strip p."""
    dropping = (mask_ptr, step_ptr, seed_low, seed_high, draw, threshold, scale, GROUPED)
    program, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mean, rstd, w, b = _channels(mean_ptr, var_ptr, w_ptr, b_ptr, column, C, eps)
    dw = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    db = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    stop = tl.minimum((program + 1) * strip, rows)
    for start in range(program * strip, stop, BLOCK_R):
        offsets, inside = tile(start + tl.arange(0, BLOCK_R), column, stop, C)
        xhat = (tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32) - mean) * rstd
        dz = _dz(dy_ptr, xhat * w + b, offsets, inside, negative_slope, dropping, ACT)
        dw += dz * xhat
        db += dz
    tl.store(part_ptr + program * C + column, tl.sum(dw, 0), mask=column < C)
    tl.store(part_ptr + (tl.num_programs(0) + program) * C + column, tl.sum(db, 0), mask=column < C)


@triton.jit(do_not_specialize=KEY)
def _batch_norm_backward(
    x_ptr, mean_ptr, var_ptr, w_ptr, b_ptr, dy_ptr, sum_ptr, dx_ptr, rows, C, eps, negative_slope,
    mask_ptr, step_ptr, seed_low, seed_high, draw, threshold, scale,
    ACT: tl.constexpr, GROUPED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One tile of dx. sum holds dw and db, or is None where mean and var are no functions of x."""
    dropping = (mask_ptr, step_ptr, seed_low, seed_high, draw, threshold, scale, GROUPED)
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    offsets, inside = tile(row, column, rows, C)
    mean, rstd, w, b = _channels(mean_ptr, var_ptr, w_ptr, b_ptr, column, C, eps)
    xhat = (tl.load(x_ptr + offsets, mask=inside, other=0.0).to(tl.float32) - mean) * rstd
    dx = _dz(dy_ptr, xhat * w + b, offsets, inside, negative_slope, dropping, ACT)
    if sum_ptr is not None:
        dw, db = vector(sum_ptr, column, C, 0.0), vector(sum_ptr + C, column, C, 0.0)
        dx -= db / rows + xhat * (dw / rows)
    tl.store(dx_ptr + offsets, dx * (rstd * w), mask=inside)


def _apply(x, mean, var, w, b, dropping, eps, act, negative_slope):
    """y, and what the backward pass reads."""
    x, mean, var, w, b = map(contiguous, (x, mean, var, w, b))
    y, (rows, C, _, _, config) = array_module(x).empty_like(x), _plan(x)
    grid = cdiv(rows, config["BLOCK_R"]), cdiv(C, config["BLOCK_C"])
    arguments = (x, mean, var, w, b, y, rows, C, eps, negative_slope, *dropping)
    launch(_batch_norm_forward, grid, *arguments, ACT=act, GROUPED=C % 8 == 0, **config)
    return y, (x, mean, var, w, b if act else None, dropping)  # z, which b is part of, tells act'(z) alone


def _gradients(saved, dy, train, needs_input_grad, eps, act, negative_slope):
    """(dx, dw, db). In training dx needs dw and db too: they carry the gradients of mean and variance."""
    *inputs, dropping = saved
    x, xp, (rows, C, strip, strips, config) = inputs[0], array_module(dy), _plan(dy)
    dy, dx, sums = contiguous(dy), None, None
    rest, config = (eps, negative_slope, *dropping), {"ACT": act, "GROUPED": C % 8 == 0, **config}
    columns = cdiv(C, config["BLOCK_C"])
    if train or needs_input_grad[1] or needs_input_grad[2]:
        parts = xp.empty((2, strips, C), "float32")
        launch(_strip_sums, (strips, columns), *inputs, dy, parts, rows, C, strip, *rest, **config)
        sums = sum_parts(parts)
    if needs_input_grad[0]:
        dx, grid = xp.empty_like(x), (cdiv(rows, config["BLOCK_R"]), columns)
        launch(_batch_norm_backward, grid, *inputs, dy, sums if train else None, dx, rows, C, *rest, **config)
    return dx, sums[0] if needs_input_grad[1] else None, sums[1] if needs_input_grad[2] else None


def _batch_norm(x, w, b, mask, step, *, eps, act, negative_slope, dropout_p, seed, draw):
    x = contiguous(x)
    mean, var = _moments(x)
    dropping = dropping_of(mask, step, dropout_p, seed, draw)
    y, saved = _apply(x, mean, var, w, b, dropping, eps, act, negative_slope)
    return (y, mean, var), saved


def _batch_norm_backward_(saved, dys, needs_input_grad, *, eps, act, negative_slope, dropout_p, seed, draw):
    return *_gradients(saved, dys[0], True, needs_input_grad[:3], eps, act, negative_slope), None, None


def _batch_norm_eval(x, mean, var, w, b, *, eps, act, negative_slope):
    return _apply(x, mean, var, w, b, dropping_of(None, None, 0, 0, 0), eps, act, negative_slope)


def _batch_norm_eval_backward(saved, dy, needs_input_grad, *, eps, act, negative_slope):
    dx, dw, db = _gradients(saved, dy, False, (needs_input_grad[0], *needs_input_grad[3:]), eps, act, negative_slope)
    return dx, None, None, dw, db


batch_norm = Op("batch_norm", _batch_norm, _batch_norm_backward_, backend="triton")
batch_norm_eval = Op("batch_norm_eval", _batch_norm_eval, _batch_norm_eval_backward, backend="triton")


@triton.jit
def _running_stats(running_mean_ptr, running_var_ptr, mean_ptr, var_ptr, C, momentum, unbiased, BLOCK: tl.constexpr):
    """Move both by `momentum` towards the batch's mean and `unbiased` times its variance."""
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mean = tl.load(running_mean_ptr + o, mask=o < C, other=0.0).to(tl.float32) * (1.0 - momentum)
    var = tl.load(running_var_ptr + o, mask=o < C, other=0.0).to(tl.float32) * (1.0 - momentum)
    mean += tl.load(mean_ptr + o, mask=o < C, other=0.0).to(tl.float32) * momentum
    var += tl.load(var_ptr + o, mask=o < C, other=0.0).to(tl.float32) * unbiased * momentum
    tl.store(running_mean_ptr + o, mean, mask=o < C)
    tl.store(running_var_ptr + o, var, mask=o < C)


def running_stats_(running_mean, running_var, mean, var, *, momentum, count):
    """Move the running statistics by `momentum` towards the batch's; the variance kept is the unbiased one."""
    config, C = blocks("batch_norm", "running_stats", running_mean.dtype), running_mean.size
    flat = tuple(map(contiguous, (running_mean, running_var, mean, var)))
    numbers = C, float(momentum), count / (count - 1)
    launch(_running_stats, (cdiv(C, config["BLOCK"]),), *flat, *numbers, **config)
    write_back((running_mean, running_var), flat)
