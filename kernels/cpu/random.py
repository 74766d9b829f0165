"""Random bits from their position alone: Philox-4x32, and masks, uniforms, normals and dropout from its words.

    counter (block low, block high, draw, step), key (seed low, seed high)  ->  ten rounds  ->  words a, b, c, d
    mask      element i is kept where the 16-bit lane i mod 8 of block i // 8 is at least round(65536 p)
    uniform   word i mod 4 of block i // 4, its upper 24 bits over 2^24
    normal    sqrt(-2 log u) cos(2 pi v), then with sin for cos; (u, v) from words (a, b), (c, d) of block i // 4
    dropout   y = x / (1 - p) where kept, 0 x elsewhere;  dx = dropout(dy)

Shapes      any, n elements in C order, of which the first has the global number `offset`
Plan        a piece of the blocks for each thread, AT_ONCE blocks at a time: their words into a buffer in the first
            level of cache, then lanes into what is wanted. Counters are 64 bits wide, so that eight blocks share a
            vector register and a product of two words is one instruction. Dropout draws its mask once and keeps it
Cost        a round is 2 products, 2 shifts, 4 xors; ten of them for 8 bytes of a mask or 4 normals. Dropout 9n bytes in
            each direction, n of them for the mask
Precision   masks and uniforms have the bits of core/reference/random.py. Normals are float32: u and v are exact, an
            angle is taken from its nearest quarter turn, where sine and cosine are short polynomials; 3 units
Versions    drawing again in the backward pass, as the GPU does, costs more here than reading a byte an element
Limits      float32; blocks below 2^64
Source      Salmon et al. 2011; Box & Muller 1958; polynomials of Cephes' sinf and cosf

# why: docs/kernels/others.md
# next: kernels/cpu/optim.py
"""

import math

import numpy as np
from numba import types

from core.engine import Op
from core.reference.random import MULTIPLIERS, ROUNDS, WEYL
from core.runtime.threads import share
from kernels.cpu.common import PIECE, REAL, const, f32, floats, inline, kernel, log, out

BYTES = types.uint8  # of a mask: 1 where an element is kept
AT_ONCE = 64  # blocks whose words are buffered
GRAIN = 1 << 15  # blocks below which a second thread costs more than it brings
NUMBER = types.uint64
KEY = (NUMBER, NUMBER, NUMBER, NUMBER)  # first block, seed, draw, step

M0, M1 = (np.uint64(m) for m in MULTIPLIERS)
W0, W1 = (np.uint64(w) for w in WEYL)
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


@inline
def philox(block, seed, draw, step):
    """The four words of a counter, each in the lower half of 64 bits."""
    c0, c1, c2, c3 = block & LOW, block >> HALF, draw & LOW, step & LOW
    k0, k1 = seed & LOW, seed >> HALF
    for _ in range(ROUNDS):
        p0, p1 = c0 * M0, c2 * M1
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return c0, c1, c2, c3


@inline
def fill(words, first, count, seed, draw, step):
    """words[2 j], words[2 j + 1] = the words (a, b) and (c, d) of block first + j: uint64, lower half first."""
    for j in range(count):
        a, b, c, d = philox(first + np.uint64(j), seed, draw, step)
        words[2 * j] = a | (b << HALF)
        words[2 * j + 1] = c | (d << HALF)


@kernel(out(1, BYTES), types.uint16, *KEY, *PIECE)
def _keep(kept, threshold, first, seed, draw, step, start, stop):
    words = np.empty(2 * AT_ONCE, np.uint64)
    lanes = words.view(np.uint16)
    for block in range(start, stop, AT_ONCE):
        count = min(AT_ONCE, stop - block)
        fill(words, first + np.uint64(block), AT_ONCE, seed, draw, step)
        piece = kept[8 * block : 8 * (block + count)]
        for i in range(8 * count):
            piece[i] = lanes[i] >= threshold


@kernel(out(1), *KEY, *PIECE)
def _uniform(y, first, seed, draw, step, start, stop):
    words = np.empty(2 * AT_ONCE, np.uint64)
    lanes = words.view(np.uint32)
    for block in range(start, stop, AT_ONCE):
        count = min(AT_ONCE, stop - block)
        fill(words, first + np.uint64(block), AT_ONCE, seed, draw, step)
        piece = y[4 * block : 4 * (block + count)]
        for i in range(4 * count):
            piece[i] = f32(np.int32(lanes[i] >> np.uint32(8))) * f32(2**-24)


@inline
def turn(w):
    """(cos, sin) of 2 pi w / 2^24 for int32 w in [0, 2^24): exact down to an eighth of a turn, then polynomials."""
    quarter = (w + np.int32(1 << 21)) >> np.int32(22)
    x = f32(np.int32(w - (quarter << np.int32(22)))) * f32(3.7450703e-07)  # pi / 2^23: in [-pi / 4, pi / 4]
    u = x * x
    sin = x + x * u * ((f32(-1.9515295891e-4) * u + f32(8.3321608736e-3)) * u + f32(-1.6666654611e-1))
    cos = (f32(2.443315711809948e-5) * u + f32(-1.388731625493765e-3)) * u + f32(4.166664568298827e-2)
    cos = f32(1) - f32(0.5) * u + u * u * cos
    odd = quarter & np.int32(1) != 0
    c, s = sin if odd else cos, cos if odd else sin
    c = -c if (quarter + np.int32(1)) & np.int32(2) != 0 else c
    s = -s if quarter & np.int32(2) != 0 else s
    return c, s


@kernel(out(1), *KEY, *PIECE)
def _normal(y, first, seed, draw, step, start, stop):
    words = np.empty(2 * AT_ONCE, np.uint64)
    for block in range(start, stop, AT_ONCE):
        count = min(AT_ONCE, stop - block)
        fill(words, first + np.uint64(block), AT_ONCE, seed, draw, step)
        piece = y[4 * block : 4 * (block + count)]
        for i in range(2 * count):
            u = f32(np.int32((words[i] & LOW) >> np.uint64(8)) + np.int32(1)) * f32(2**-24)  # in (0, 1]
            radius = np.sqrt(f32(-2) * log(u))
            c, s = turn(np.int32(words[i] >> np.uint64(40)))
            piece[2 * i] = radius * c
            piece[2 * i + 1] = radius * s


def _drawn(loop, group, shape, dtype, offset, seed, draw, step, *arguments):
    """What loop(y, *arguments, first block, seed, draw, step, start, stop) draws, `group` elements from a block."""
    n, (first, skip) = math.prod(shape), divmod(offset, group)
    blocks = -(-(skip + n) // group)
    y = np.empty(blocks * group, dtype)  # whole blocks, of which a part is given back
    key = tuple(np.uint64(int(v) % 2**64) for v in (first, seed, draw, step))
    share(lambda start, stop: loop(y, *arguments, *key, start, stop), blocks, GRAIN)
    return y[skip : skip + n].reshape(shape)


def keep_mask(shape, p: float, seed: int, draw, step, offset: int = 0):
    """Boolean array: True, with probability 1 - p (in steps of 1/65536), where dropout keeps an element."""
    threshold = round(65536 * p)
    if threshold > 0xFFFF:
        return np.zeros(shape, bool)
    return _drawn(_keep, 8, shape, np.uint8, offset, seed, draw, step, np.uint16(threshold)).view(bool)


def uniform(shape, seed: int, draw, step, dtype=f32, offset: int = 0):
    """Uniform numbers in [0, 1), multiples of 2^-24, from float32."""
    return _drawn(_uniform, 4, shape, f32, offset, seed, draw, step).astype(dtype, copy=False)


def normal(shape, seed: int, draw, step, dtype=f32, offset: int = 0):
    """Standard normals by Box-Muller, computed in float32."""
    return _drawn(_normal, 4, shape, f32, offset, seed, draw, step).astype(dtype, copy=False)


# --- dropout ----------------------------------------


@kernel(const(1), const(1, BYTES), REAL, out(1), *PIECE)
def _drop(x, kept, scale, y, start, stop):
    x, kept, y = x[start:stop], kept[start:stop], y[start:stop]
    for i in range(x.size):
        y[i] = x[i] * (scale if kept[i] else f32(0))


def dropping_of(x, mask, step, p, seed, draw) -> tuple:
    """(mask, scale) of a dropout of `x`: the mask given, or the one drawn now, as bytes; None where nothing drops."""
    if mask is None and p > 0:
        mask = keep_mask(x.shape, p, seed, draw, step)
    if mask is not None:
        mask = np.require(mask, bool, "C").reshape(x.shape).view(np.uint8)
    return mask, f32(1 / (1 - p) if p < 1 else 0)


def drop(x, mask, scale):
    """x * scale where the mask is True, x * 0 elsewhere; x itself without a mask."""
    if mask is None:
        return x
    x = floats(x)
    y = np.empty_like(x)
    flat = x.reshape(-1), mask.reshape(-1), scale, y.reshape(-1)
    share(lambda start, stop: _drop(*flat, start, stop), y.size, 8 * GRAIN)
    return y


def _dropout(x, mask, step, *, p, seed, draw):
    dropping = dropping_of(x, mask, step, p, seed, draw)
    return drop(x, *dropping), dropping


def _dropout_backward(saved, dy, needs_input_grad, *, p, seed, draw):
    return drop(dy, *saved) if needs_input_grad[0] else None, None, None


dropout = Op("dropout", _dropout, _dropout_backward, backend="numba")
