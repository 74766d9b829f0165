"""Random bits that depend on their position alone: Philox-4x32 (Salmon et al. 2011), dropout and normals from it.

    key = (seed low, seed high);   counter = (block low, block high, draw, step)   ->   four 32-bit words a block

`step` is a device scalar that the last operation of a training step advances, `draw` a host integer that numbers the
draws inside one step. Element i, in C order, takes

    dropout   the 16-bit lane i mod 8 of block i // 8, low half of each word first; kept where lane >= round(65536 p)
    uniform   word i mod 4 of block i // 4, its upper 24 bits over 2^24: in [0, 1)
    normal    by Box-Muller from words (0, 1) or (2, 3) of block i // 4

so that every backend draws the same whatever the order in which it works.

# why: docs/kernels/others.md
# next: core/functional/__init__.py, what users call
"""

import numpy as np

from core.arrays import array_module
from core.engine import Op

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # golden ratio, sqrt(3) - 1
MASK = 0xFFFFFFFF
CHUNK = 1 << 14  # blocks worked on at once, so that they stay in cache


def philox(blocks, seed: int, draw, step):
    """Words (4, n) uint32 for an array of n block numbers (uint64); draw and step are below 2^32."""
    xp = array_module(blocks)
    m0, m1, mask, half = (xp.uint64(v) for v in (*MULTIPLIERS, MASK, 32))
    c0, c1 = blocks & mask, blocks >> half
    c2, c3 = xp.uint64(draw), xp.asarray(step).astype(xp.uint64) & mask
    k0, k1 = seed & MASK, (seed >> 32) & MASK
    for _ in range(ROUNDS):
        p0, p1 = c0 * m0, c2 * m1  # 32 x 32 -> 64 bits
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ xp.uint64(k0), p1 & mask, (p0 >> half) ^ c3 ^ xp.uint64(k1), p0 & mask
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    found = xp.empty((4, len(blocks)), xp.uint32)  # no stack: CuPy's would copy addresses from the host
    for word, c in zip(found, (c0, c1, c2, c3)):
        word[...] = c
    return found


def words(n: int, seed: int, draw, step, offset: int = 0):
    """n 32-bit words of one draw, from word number `offset` on: (n,) uint32."""
    xp = array_module(step)
    first, skip = divmod(offset, 4)
    count = -(-(skip + n) // 4)
    out = xp.empty((count, 4), xp.uint32)
    for start in range(0, count, CHUNK):
        blocks = xp.arange(first + start, first + min(start + CHUNK, count), dtype=xp.uint64)
        out[start : start + CHUNK] = philox(blocks, seed, draw, step).T
    return out.reshape(-1)[skip : skip + n]


def keep_mask(shape, p: float, seed: int, draw, step, offset: int = 0):
    """Boolean array: True, with probability 1 - p (in steps of 1/65536), where dropout keeps an element.

    Here and below `offset` is the number of the first element, where `shape` is a part of something larger."""
    n, skip = int(np.prod(shape)), offset % 2
    pairs = words(-(-(skip + n) // 2), seed, draw, step, offset // 2)
    lanes = pairs.astype("<u4", copy=False).view("<u2")[skip : skip + n]
    return (lanes >= round(65536 * p)).reshape(shape)


def uniform(shape, seed: int, draw, step, dtype, offset: int = 0):
    """Uniform numbers in [0, 1), multiples of 2^-24 (exact in float32)."""
    n = int(np.prod(shape))
    return ((words(n, seed, draw, step, offset) >> 8) * array_module(step).float64(2**-24)).astype(dtype).reshape(shape)


def normal(shape, seed: int, draw, step, dtype, offset: int = 0):
    """Standard normals by Box-Muller, computed in float64 and rounded once to `dtype`."""
    n, skip, xp = int(np.prod(shape)), offset % 2, array_module(step)
    pairs = words(-(-(skip + n) // 2) * 2, seed, draw, step, offset - skip)
    pairs = (pairs >> 8).reshape(-1, 2).astype(xp.float64)
    radius = xp.sqrt(-2 * xp.log((pairs[:, 0] + 1) * 2**-24))  # from (0, 1], so the logarithm is finite
    angle = 2 * np.pi * 2**-24 * pairs[:, 1]
    z = xp.empty((len(pairs), 2), xp.float64)
    z[:, 0], z[:, 1] = radius * xp.cos(angle), radius * xp.sin(angle)
    return z.reshape(-1)[skip : skip + n].astype(dtype).reshape(shape)


# --- operations ----------------------------------------


def _dropout(x, mask, step, *, p, seed, draw):
    """x / (1 - p) where kept, 0 elsewhere; `mask` may be given, else it is drawn. p = 0 does nothing."""
    if p == 0 and mask is None:
        return x, (None,)
    if mask is None:
        mask = keep_mask(x.shape, p, seed, draw, step)
    return x * (mask * _scale(x, p)), (mask,)


def _dropout_backward(saved, dy, needs_input_grad, *, p, seed, draw):
    (mask,) = saved
    dx = dy if mask is None else dy * (mask * _scale(dy, p))
    return dx if needs_input_grad[0] else None, None, None


def _scale(x, p):
    return x.dtype.type(1 / (1 - p) if p < 1 else 0)


dropout = Op("dropout", _dropout, _dropout_backward)


def advance_(step):
    """The last operation of a training step: its random numbers will not come again."""
    step += 1
