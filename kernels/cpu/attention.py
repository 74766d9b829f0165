"""Scaled dot-product attention, masked by causality, a boolean mask and an additive bias, in any combination.

    s = scale q k^T + bias, -inf where hidden;   p = softmax(s);   y = p v

    ds = p (dp - delta)   with dp = dy v^T and delta = rowsum(p dp), which is rowsum(dy y)
    dq = scale ds k;   dk = scale ds^T q;   dv = p^T dy;   dbias = ds, added up over the axes the bias does not have

Shapes      q (B, h, Tq, d), k (B, h, Tk, d), v (B, h, Tk, dv) -> y (B, h, Tq, dv); mask and bias broadcast to
            (B, h, Tq, Tk). z counts B and h. Results and gradients lie in memory as (B, T, h, d): putting the heads
            together again copies nothing. Inputs are read where they lie if their last axis is dense
Plan        forward   work = QUERIES rows of one head: keys, transposed, and values of a head are packed once; then KEYS
                      at a time scores, their exponentials around a running maximum, and their product with v. Stored
                      are y, and of each row the maximum and the sum, with log-sum-exp = maximum + log(sum)
            backward  work = one head: the scores again, a tile at a time, and all five products while it is in cache.
                      Fewer heads than threads: the keys of a head are shared out, and their parts of dq added up
            causal: the loop over keys ends with the last one a tile of queries sees. dbias: a float64 sum a thread
Cost        forward 2 Tq Tk (d + dv) flops a head, backward 2 Tq Tk (3 d + 2 dv). A thread holds its head's keys and
            values two or three times and tiles of QUERIES rows; nothing has Tq Tk elements but a mask or bias given so
Precision   float32. Maximum and sum stay apart: one log-sum-exp would lose digits where scores are large. The row's sum
            leaves p for dy. delta is taken of dp itself where a tile has all keys of a row (up to KEYS of them), and of
            what is left once more: with dy y the error was up to five times torch's where one key has nearly all weight
Versions    one core of a Zen 5. Products: by BLAS 62 to 95 GF/s at such sizes, by kernels/cpu/tiles.py 200. Tiles
            by flat index, which may be negative for all the compiler knows, are gathered element by element; as rows of
            a 2-d view, or slices, they are vectors: 0.64 -> 0.41 ms at (12, 4, 64, 32). Keys transposed straight from
            memory wait for every line of it; copied first: 15 -> 7 ms at (32, 8, 128, 32). Prefetching bought nothing
Limits      d and dv at most 256. Inputs whose last axis is strided are copied first
Source      Dao et al. 2022, "FlashAttention", algorithms 1 and 4

# why: docs/kernels/attention.md
# next: kernels/cpu/attention_backward.py
"""

import numpy as np

from core.engine import Op
from core.runtime.threads import share
from kernels.cpu import attention_backward as both
from kernels.cpu.attention_backward import KEYS, QUERIES, exponentials, mask_scores
from kernels.cpu.common import PIECE, REAL, exp, f32, inline, kernel, out
from kernels.cpu.lanes import LANES, add_product, fill, larger, largest, load, routine, store, up
from kernels.cpu.tiles import buffers, pack, product, turn


@inline
def highest(s, start, stop):
    """The largest of s[start : stop], whose length is a multiple of LANES."""
    most = fill(f32(-np.inf))
    for c in range(start, stop, LANES):
        most = larger(load(s, c), most)
    return largest(most)


@routine
def soften(s, width, rows, level, total, y, y_width):
    """The rows' exponentials in place of their scores; level, total and y follow when the maximum grows."""
    for r in range(rows):
        most = max(level[r], highest(s, r * width, (r + 1) * width))
        new = f32(0) if most == -np.inf else most  # a row that has seen nothing yet must not become nan
        added = exponentials(s, r * width, (r + 1) * width, new)
        shrink = exp(level[r] - new)
        total[r] = total[r] * shrink + added
        level[r] = most
        if shrink != 1:
            for c in range(r * y_width, (r + 1) * y_width, LANES):
                store(y, c, add_product(fill(f32(0)), shrink, load(y, c)))


@kernel(*both.ARRAYS, *both.STEPS, both.SIZES, REAL, *(out(1),) * 3, *(out(1),) * 6, *PIECE)
def _forward(
    q, k, v, bias, mask, q_step, k_step, v_step, bias_step, mask_step, sizes, scale, y, levels, totals,
    q_tile, k_rows, k_turned, v_rows, s, y_tile, start, stop,
):  # fmt: skip
    """Tiles start, ..., stop - 1 of queries: y, and of each row the maximum (0 if it sees nothing) and the sum."""
    h, Tq, Tk, d, dv, offset = sizes
    tiles, wide, packed = -(-Tq // QUERIES), up(dv, LANES), -1
    level, total = np.empty(QUERIES, np.float32), np.empty(QUERIES, np.float32)
    for tile in range(start, stop):
        z, i = tile // tiles, tile % tiles * QUERIES
        b, head, rows = z // h, z % h, min(QUERIES, Tq - i)
        if z != packed:
            pack(k[b * k_step[0] + head * k_step[1] :], k_step[2], Tk, d, k_rows, d)
            turn(k_rows, d, Tk, d, scale, k_turned)
            pack(v[b * v_step[0] + head * v_step[1] :], v_step[2], Tk, dv, v_rows, wide)
            packed = z
        pack(q[b * q_step[0] + head * q_step[1] + i * q_step[2] :], q_step[2], rows, d, q_tile, d)
        level[:], total[:], y_tile[:] = -np.inf, 0, 0
        for j in range(0, min(Tk, i + rows + offset), KEYS):
            keys = min(KEYS, min(Tk, i + rows + offset) - j)
            width = up(keys, LANES)
            product(q_tile, d, 1, k_turned[j * d :], LANES, LANES * d, s, width, rows, keys, d, False)
            o = b * bias_step[0] + head * bias_step[1], b * mask_step[0] + head * mask_step[1]
            mask_scores(s, width, i, rows, j, keys, offset, bias[o[0] :], bias_step, mask[o[1] :], mask_step)
            soften(s, width, rows, level, total, y_tile, wide)
            product(s, width, 1, v_rows[j * wide :], wide, LANES, y_tile, wide, rows, dv, keys, True)
        row = y_tile.reshape(QUERIES, wide)
        for r in range(rows):
            o = ((b * Tq + i + r) * h + head) * dv
            to, divisor = y[o : o + dv], total[r] if total[r] else f32(1)
            for c in range(dv):
                to[c] = row[r, c] / divisor
            levels[z * Tq + i + r] = level[r] if total[r] else f32(0)
            totals[z * Tq + i + r] = total[r]


# --- on the host ----------------------------------------


def _attention(q, k, v, mask, bias, *, causal, causal_offset, scale):
    (B, h, Tq, d), (Tk, dv) = q.shape, v.shape[2:]
    given = both.arguments(q, k, v, mask, bias, causal, causal_offset, scale)
    y = np.empty((B, Tq, h, dv), f32)  # so that the heads can be put together without a copy
    level, total = np.empty((B, h, Tq), f32), np.empty((B, h, Tq), f32)

    def piece(start, stop):
        keys, wide = up(Tk, LANES), up(dv, LANES)
        sizes = QUERIES * d, keys * d, keys * d, keys * wide, QUERIES * KEYS, QUERIES * wide
        _forward(*given, *(x.reshape(-1) for x in (y, level, total)), *buffers(*sizes), start, stop)

    share(piece, B * h * -(-Tq // QUERIES), 1 + both.ENOUGH // max(1, QUERIES * Tk * (d + dv)))
    y = y.transpose(0, 2, 1, 3)
    return y, (q, k, v, mask, bias, None if bias is None else bias.shape, y, level, total)


attention = Op("attention", _attention, both.attention_backward, backend="numba")
