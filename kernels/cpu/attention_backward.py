"""Attention's backward pass, and the pieces that both passes share; kernels/cpu/attention.py explains it all.

# why: docs/kernels/attention.md
# next: kernels/cpu/conv.py
"""

import numpy as np
from numba import types

from core.runtime import threads
from core.runtime.threads import share
from kernels.cpu.common import DOUBLE, INDEX, PIECE, REAL, const, f32, inline, kernel, out
from kernels.cpu.lanes import LANES, add_product, added_up, exps, fill, load, routine, store, times, up
from kernels.cpu.tiles import buffers, pack, product, turn, unpack

QUERIES = 32  # in a tile: few, so that causality skips much; a multiple of ROWS
KEYS = 256  # in a tile: a multiple of LANES
ENOUGH = 1 << 19  # multiplications below which a second thread costs more than it brings


# --- scores ----------------------------------------


@routine
def mask_scores(s, width, i, rows, j, keys, offset, bias, bias_step, mask, mask_step):
    """Add the bias to the scores of `rows` queries from i on and `keys` keys from j on; -inf where hidden, and up to
    the tile's width."""
    row = s[: rows * width].reshape(rows, width)
    for r in range(rows):
        if bias.size:
            o = (i + r) * bias_step[2] + j * bias_step[3]
            for c in range(keys):
                row[r, c] += bias[o + c * bias_step[3]]
        if mask.size:
            o = (i + r) * mask_step[2] + j * mask_step[3]
            for c in range(keys):
                row[r, c] = row[r, c] if mask[o + c * mask_step[3]] else f32(-np.inf)
        for c in range(max(0, min(keys, i + r + 1 + offset - j)), width):
            row[r, c] = f32(-np.inf)


@inline
def exponentials(s, start, stop, level):
    """exp(s - level) in the place of s[start : stop], of a multiple of LANES, and their sum."""
    total = fill(f32(0))
    for c in range(start, stop, LANES):
        e = exps(add_product(fill(-level), f32(1), load(s, c)))
        store(s, c, e)
        total = add_product(total, f32(1), e)
    return added_up(total)


# --- gradients ----------------------------------------


@routine
def scale_rows(dy, y, width, columns, total, delta):
    """dy / total in dy's place and delta = rowsum(dy y), or inf where one key has all the weight."""
    rows = delta.size
    dy_row, y_row = dy[: rows * width].reshape(rows, width), y[: rows * width].reshape(rows, width)
    for r in range(rows):
        delta[r] = 0
        divisor = total[r] if total[r] else f32(1)
        for c in range(columns):
            dy_row[r, c] /= divisor
            delta[r] += dy_row[r, c] * y_row[r, c]
        if total[r] == 1:
            delta[r] = np.inf


@inline
def dot(x, y, start, stop):
    """The sum of the products of x and y from start to stop."""
    total = fill(f32(0))
    for c in range(start, stop, LANES):
        total = add_product(total, f32(1), times(load(x, c), load(y, c)))
    return added_up(total)


@routine
def derivatives(p, ds, width, level, total, delta, whole):
    """p = exp(s - level) in the place of s, p (dp - delta) in that of dp. Where the tile has all keys of its rows,
    delta is rowsum(p dp), taken again of what is left: where one key has nearly all weight dp - delta keeps its digits.
    Else it is given, and inf where one key has all: 0 then, since dp and delta would differ by their rounding."""
    for r in range(delta.size):
        start, stop = r * width, (r + 1) * width
        exponentials(p, start, stop, level[r])
        mean = delta[r]
        if whole and total[r]:
            mean = dot(p, ds, start, stop) / total[r]
            for c in range(start, stop, LANES):
                store(ds, c, add_product(fill(-mean), f32(1), load(ds, c)))
            mean = dot(p, ds, start, stop) / total[r]
        for c in range(start, stop, LANES):
            dp = add_product(fill(-mean), f32(1), load(ds, c))
            store(ds, c, fill(f32(0)) if mean == np.inf else times(load(p, c), dp))


@routine
def add_to_bias(ds, width, rows, keys, dbias, row_step, key_step):
    """ds added up over what the bias was repeated along, in float64."""
    for r in range(rows):
        row = ds[r * width : r * width + keys]
        to = dbias[r * row_step : r * row_step + (keys if key_step else 1)]
        if key_step:
            for c in range(keys):
                to[c] += row[c]
        else:
            for c in range(keys):
                to[0] += row[c]


ARRAYS = (const(1),) * 3 + (const(1), const(1, types.boolean))  # q, k, v, bias, mask: flat, their steps follow
STEPS = (types.UniTuple(INDEX, 3),) * 3 + (types.UniTuple(INDEX, 4),) * 2
SIZES = types.UniTuple(INDEX, 6)


STEP = types.UniTuple(types.int64, 3)


@kernel(*ARRAYS, *STEPS, SIZES, REAL, *(const(1),) * 4, STEP, types.UniTuple(out(1), 3), out(1, DOUBLE), STEPS[-1],
        types.UniTuple(types.int64, 2), types.UniTuple(out(1), 12), *PIECE)  # fmt: skip
def _backward(
    q, k, v, bias, mask, q_step, k_step, v_step, bias_step, mask_step, sizes, scale,
    dy, y, levels, totals, dy_step, gradients, dbias, dbias_step, split, tiles, start, stop,
):  # fmt: skip
    """dk and dv of units start, ..., stop - 1, a unit being some keys of a head; what they give to dq, and to dbias."""
    (h, Tq, Tk, d, dv, offset), (splits, length), (dq, dk, dv_) = sizes, split, gradients
    q_tile, dy_tile, y_tile, dq_tile, s, ds, k_rows, k_turned, v_rows, v_turned, dk_tile, dv_tile = tiles
    wide, wide_v, heads = up(d, LANES), up(dv, LANES), levels.size // max(Tq, 1)
    for unit in range(start, stop):
        z, part = unit // splits, unit % splits
        b, head, first = z // h, z % h, min(Tk, part * length)
        last = min(Tk, first + length)
        pack(k[b * k_step[0] + head * k_step[1] + first * k_step[2] :], k_step[2], last - first, d, k_rows, wide)
        pack(v[b * v_step[0] + head * v_step[1] + first * v_step[2] :], v_step[2], last - first, dv, v_rows, wide_v)
        turn(k_rows, wide, last - first, d, scale, k_turned)
        turn(v_rows, wide_v, last - first, dv, f32(1), v_turned)
        dk_tile[:], dv_tile[:] = 0, 0
        for i in range(0, Tq, QUERIES):
            rows, row = min(QUERIES, Tq - i), z * Tq + i
            at = (b * Tq + i) * h + head  # of the first row, in arrays (B, Tq, h, ...)
            hi = min(last, i + rows + offset)
            pack(q[b * q_step[0] + head * q_step[1] + i * q_step[2] :], q_step[2], rows, d, q_tile, wide)
            pack(dy[b * dy_step[0] + head * dy_step[1] + i * dy_step[2] :], dy_step[2], rows, dv, dy_tile, wide_v)
            pack(y[at * dv :], h * dv, rows, dv, y_tile, wide_v)
            delta, level, total = np.empty(rows, np.float32), levels[row : row + rows], totals[row : row + rows]
            scale_rows(dy_tile, y_tile, wide_v, dv, total, delta)
            dq_tile[:] = 0
            for j in range(first, hi, KEYS):
                keys, own = min(KEYS, hi - j), j - first
                width = up(keys, LANES)
                product(q_tile, wide, 1, k_turned[own * d :], LANES, LANES * d, s, width, rows, keys, d, False)
                o = b * bias_step[0] + head * bias_step[1], b * mask_step[0] + head * mask_step[1]
                mask_scores(s, width, i, rows, j, keys, offset, bias[o[0] :], bias_step, mask[o[1] :], mask_step)
                product(dy_tile, wide_v, 1, v_turned[own * dv :], LANES, LANES * dv, ds, width, rows, keys, dv, False)
                whole = first == 0 and hi <= KEYS and hi == min(Tk, i + rows + offset)
                derivatives(s, ds, width, level, total, delta, whole)
                if dbias.size:
                    to = b * dbias_step[0] + head * dbias_step[1] + i * dbias_step[2] + j * dbias_step[3]
                    add_to_bias(ds, width, rows, keys, dbias[to:], dbias_step[2], dbias_step[3])
                product(s, 1, width, dy_tile, wide_v, LANES, dv_tile[own * wide_v :], wide_v, keys, dv, rows, True)
                product(ds, 1, width, q_tile, wide, LANES, dk_tile[own * wide :], wide, keys, d, rows, True)
                product(ds, width, 1, k_rows[own * wide :], wide, LANES, dq_tile, wide, rows, d, keys, True)
            unpack(dq_tile, wide, rows, d, scale, dq[(part * heads * Tq + at) * d :], h * d)
        at = (b * Tk + first) * h + head
        unpack(dk_tile, wide, last - first, d, scale, dk[at * d :], h * d)
        unpack(dv_tile, wide_v, last - first, dv, f32(1), dv_[at * dv :], h * dv)


# --- on the host ----------------------------------------


def flat(x, dtype):
    """`x`, of four axes, as (a flat array, the steps between its elements along the axes); the last step is 1 or 0."""
    x = x.astype(dtype, copy=False)
    usable = x.size and x.flags.aligned and x.strides[3] == x.itemsize and min(x.strides) >= 0
    if not usable or any(step % x.itemsize for step in x.strides):
        x = np.ascontiguousarray(x)
    steps = tuple(step // x.itemsize for step in x.strides)
    span = 1 + sum((n - 1) * step for n, step in zip(x.shape, steps)) if x.size else 0
    return np.lib.stride_tricks.as_strided(x, (span,), (x.itemsize,), writeable=False), steps


def steps(shape):
    """The steps of a C-contiguous array of this shape over (B, h, Tq, Tk), 0 along the axes that it is repeated on."""
    found, step = [], 1
    for n in reversed((1,) * (4 - len(shape)) + tuple(shape)):
        found.append(step if n != 1 else 0)
        step *= n
    return tuple(reversed(found))


def _beside(x, dtype):
    """A mask or bias as (a flat array, its four steps over (B, h, Tq, Tk)); what is repeated in memory stays one."""
    if x is None:
        return np.empty(0, dtype), (0, 0, 0, 0)
    x = x[tuple(slice(None if step else 1) for step in x.strides)] if x.size else x
    return np.require(x, dtype, "CA").reshape(-1), steps(x.shape)


def arguments(q, k, v, mask, bias, causal, causal_offset, scale):
    """What both kernels take first."""
    (_, h, Tq, d), (Tk, dv) = q.shape, v.shape[2:]
    offset = max(-Tq, min(causal_offset, Tk)) if causal else Tk
    arrays_, steps_ = zip(*(flat(x, f32) for x in (q, k, v)))
    (bias, bias_step), (mask, mask_step) = _beside(bias, f32), _beside(mask, np.bool_)
    steps_ = (*(s[:3] for s in steps_), bias_step, mask_step)
    return *arrays_, bias, mask, *steps_, (h, Tq, Tk, d, dv, offset), f32(scale)


def _split(heads, Tk):
    """(how many pieces the keys of a head are split into, their length): one unless heads are fewer than threads."""
    pieces = -(-threads.COUNT // max(heads, 1)) if heads < threads.COUNT else 1
    length = up(-(-Tk // pieces), LANES)
    return max(1, -(-Tk // max(length, 1))), length


def attention_backward(saved, dy, needs_input_grad, *, causal, causal_offset, scale):
    q, k, v, mask, bias, bias_shape, y, level, total = saved
    (B, h, Tq, d), (Tk, dv) = q.shape, v.shape[2:]
    given, (dy, dy_step) = arguments(q, k, v, mask, bias, causal, causal_offset, scale), flat(dy, f32)
    splits, length = _split(B * h, Tk)
    dq = np.empty((splits, B, Tq, h, d), f32)
    dk, dv_ = np.empty((B, Tk, h, d), f32), np.empty((B, Tk, h, dv), f32)
    row = y.transpose(0, 2, 1, 3), level, total
    wide, wide_v, keys = up(d, LANES), up(dv, LANES), up(length, LANES)

    def piece(start, stop):
        dbias = np.zeros(int(np.prod(bias_shape)) if needs_input_grad[4] else 0)
        sizes = *[QUERIES * w for w in (wide, wide_v, wide_v, wide)], QUERIES * KEYS, QUERIES * KEYS
        sizes += (*(keys * w for w in (wide, d, wide_v, dv, wide, wide_v)),)
        flat_ = [x.reshape(-1) for x in (*row, dq, dk, dv_)]
        steps_ = steps(bias_shape or ())
        _backward(*given, dy, *flat_[:3], dy_step[:3], tuple(flat_[3:]), dbias, steps_, (splits, length),
                  tuple(buffers(*sizes)), start, stop)  # fmt: skip
        return dbias

    parts = share(piece, B * h * splits, 1 + ENOUGH // max(1, 3 * Tq * length * (d + dv)))
    dq = dq[0] if splits == 1 else dq.sum(0)
    dq, dk, dv_ = (x.transpose(0, 2, 1, 3) for x in (dq, dk, dv_))
    return dq, dk, dv_, None, sum(parts).astype(f32).reshape(bias_shape) if needs_input_grad[4] else None
