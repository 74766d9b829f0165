"""Random bits on the device, from their position alone: Philox-4x32; dropout, uniforms, normals.

    counter (block low, block high, draw, step), key (seed low, seed high)  ->  ten rounds  ->  words a, b, c, d
    dropout   y_i = x_i / (1 - p) where the 16-bit lane i mod 8 of block i // 8 is at least round(65536 p), else 0 x_i
    uniform   word i mod 4 of block i // 4, its upper 24 bits over 2^24
    normal    sqrt(-2 log u) cos(2 pi v), then with sin for cos; (u, v) from words (a, b), (c, d) of block i // 4

Shapes      any, n elements in C order; a mask has the shape of x; step is the generator's 0-dimensional int64 array
Plan        program i works on BLOCK elements as a tile (blocks, 8 lanes; 4 for uniforms and normals). Words are drawn
            once a block, on (blocks, 1), and a lane picks its part. Dropout's backward is the same kernel on dy: it
            draws again. A part of a batch begins within a block; its masks are drawn ahead, with the same kernel
Cost        dropout reads and writes n elements each way, no mask is stored; a round is two products of 64 bits and two
            xors: by this count, ten rounds for eight elements hide behind memory, and ten for each would not
Precision   masks and uniforms have the bits of core/reference/random.py. Normals are float32: u and v are exact, an
            angle is taken from its nearest quarter turn, where sine and cosine are short polynomials with all digits
Versions    seed and draw as constants of the kernel would compile one for every draw of a model: they are arguments
            that nothing is specialised on. tl.rand has other counters, tl.cos a slow path for angles that cannot occur
Limits      any shape; a grid has fewer than 2^31 programs, of BLOCK elements each
Source      Salmon et al. 2011; Box & Muller 1958; polynomials of Cephes' sinf and cosf
Status      untested on a device: all of it

# why: docs/kernels/others.md
# next: kernels/gpu/optim.py
"""

import numpy as np
import triton
import triton.language as tl

from core.arrays import array_module
from core.engine import Op
from kernels.gpu.common import cdiv, contiguous
from kernels.launch import blocks, launch

# for do_not_specialize: no kernel is compiled for their values
KEY = "seed_low", "seed_high", "draw", "threshold", "first_low", "first_high"


@triton.jit
def philox(block_low, block_high, draw, step, seed_low, seed_high):
    """The four words (uint32) of a counter. Integers of any type and shape; their lowest 32 bits count."""
    c0, c1, c2, c3 = block_low.to(tl.uint32), block_high.to(tl.uint32), draw.to(tl.uint32), step.to(tl.uint32)
    k0, k1 = seed_low.to(tl.uint32), seed_high.to(tl.uint32)
    m0, m1 = 0xD2511F53, 0xCD9E8D57
    for _ in tl.static_range(10):
        c0, c1, c2, c3 = tl.umulhi(c2, m1) ^ c1 ^ k0, c2 * m1, tl.umulhi(c0, m0) ^ c3 ^ k1, c0 * m0
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def keep_lane(block, lane, seed_low, seed_high, draw, step, threshold):
    """True where dropout keeps element 8 block + lane: int64 blocks, say (B, 1), beside lanes, say (1, 8)."""
    a, b, c, d = philox(block, block >> 32, draw, step, seed_low, seed_high)
    word = tl.where(lane < 4, tl.where(lane < 2, a, b), tl.where(lane < 6, c, d))
    return ((word >> (lane % 2 * 16).to(tl.uint32)) & 0xFFFF).to(tl.int32) >= threshold


@triton.jit
def keep(offsets, seed_low, seed_high, draw, step, threshold):
    """True where dropout keeps the elements at these int64 offsets: any order, at eight times the work."""
    return keep_lane(offsets >> 3, (offsets & 7).to(tl.int32), seed_low, seed_high, draw, step, threshold)


@triton.jit(do_not_specialize=KEY)
def _dropout_kernel(
    x_ptr, mask_ptr, step_ptr, y_ptr, n, scale, threshold, seed_low, seed_high, draw, BLOCK: tl.constexpr
):
    """y = x * scale where kept, x * 0 elsewhere; the mask is read if there is one, else drawn."""
    block = tl.program_id(0).to(tl.int64) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)[:, None]  # (BLOCK / 8, 1)
    lane = tl.arange(0, 8)[None, :]  # (1, 8)
    o = block * 8 + lane  # (BLOCK / 8, 8)
    inside = o < n
    if mask_ptr is None:
        kept = keep_lane(block, lane, seed_low, seed_high, draw, tl.load(step_ptr), threshold)
    else:
        kept = tl.load(mask_ptr + o, mask=inside, other=0) != 0
    x = tl.load(x_ptr + o, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + o, x * tl.where(kept, scale, 0.0), mask=inside)


@triton.jit
def quarter(x, q):
    """cos(x + q pi / 2) for x in [-pi / 4, pi / 4] and int32 q in [0, 4)."""
    u = x * x
    sin = x + x * u * ((-1.9515295891e-4 * u + 8.3321608736e-3) * u - 1.6666654611e-1)
    cos = 1.0 - 0.5 * u + u * u * ((2.443315711809948e-5 * u - 1.388731625493765e-3) * u + 4.166664568298827e-2)
    y = tl.where((q & 1) == 0, cos, sin)  # 0: cos, 1: -sin, 2: -cos, 3: sin
    return tl.where(((q + 1) & 2) == 0, y, -y)


@triton.jit
def _cos_turn(w, q):
    """cos(2 pi w / 2^24 - q pi / 2) for int32 w in [0, 2^24): exact down to an eighth of a turn, then a polynomial."""
    nearest = (w + (1 << 21)) >> 22  # quarter turn
    x = (w - (nearest << 22)).to(tl.float32) * 3.7450703e-07  # pi / 2^23: in [-pi / 4, pi / 4]
    return quarter(x, (nearest - q) & 3)


@triton.jit
def normal_lane(block, lane, seed_low, seed_high, draw, step):
    """The standard normals of elements 4 block + lane: int64 blocks (B, 1), lanes (1, 4). Cosine and sine from the
    block's words (a, b), then from (c, d)."""
    a, b, c, d = philox(block, block >> 32, draw, step, seed_low, seed_high)
    u = ((tl.where(lane < 2, a, c) >> 8).to(tl.int32) + 1).to(tl.float32) * 5.9604644775390625e-8  # / 2^24: in (0, 1]
    turn = (tl.where(lane < 2, b, d) >> 8).to(tl.int32)
    return tl.sqrt(-2.0 * tl.log(u)) * _cos_turn(turn, lane % 2)


@triton.jit
def _uniform_lane(block, lane, seed_low, seed_high, draw, step):
    """The uniform numbers of elements 4 block + lane, in [0, 1)."""
    a, b, c, d = philox(block, block >> 32, draw, step, seed_low, seed_high)
    word = tl.where(lane < 2, tl.where(lane == 0, a, b), tl.where(lane == 2, c, d))
    return (word >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-8


@triton.jit(do_not_specialize=KEY)
def _draw_kernel(
    y_ptr, step_ptr, n, first_low, first_high, threshold, seed_low, seed_high, draw,
    LANE: tl.constexpr, GROUP: tl.constexpr, SKIP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y = what LANE draws, GROUP elements from each block; the first is number SKIP of block `first`. A threshold is
    keep_lane's. SKIP is a constant because it is nearly always 0, and stores are aligned then."""
    i = tl.program_id(0).to(tl.int64) * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)[:, None]  # (BLOCK / GROUP, 1)
    lane = tl.arange(0, GROUP)[None, :]  # (1, GROUP)
    block = i + (first_high.to(tl.int64) << 32) + first_low.to(tl.uint32).to(tl.int64)
    o = i * GROUP + lane - SKIP  # (BLOCK / GROUP, GROUP)
    if GROUP == 8:
        y = LANE(block, lane, seed_low, seed_high, draw, tl.load(step_ptr), threshold)
    else:
        y = LANE(block, lane, seed_low, seed_high, draw, tl.load(step_ptr))
    tl.store(y_ptr + o, y, mask=(o >= 0) & (o < n))


def key(seed: int, draw: int) -> tuple:
    """(seed low, seed high, draw) as kernels take them."""
    return _signed(seed, seed >> 32, draw)


def _signed(*words):
    """The low 32 bits of each, signed, so that a kernel's argument is always int32."""
    return tuple((v + 2**31) % 2**32 - 2**31 for v in words)


def _drawn(lane, group, y, seed, draw, step, offset, threshold=0):
    """y, filled with what `lane` draws for the elements from number `offset` on."""
    (first, skip), config = divmod(offset, group), blocks("random", "normal", y.dtype)
    grid, numbers = (cdiv(skip + y.size, config["BLOCK"]),), (*_signed(first, first >> 32), threshold, *key(seed, draw))
    launch(_draw_kernel, grid, y, step, y.size, *numbers, LANE=lane, GROUP=group, SKIP=skip, **config)
    return y


def normal(shape, seed: int, draw: int, step, dtype, offset: int = 0):
    """Standard normals as an array of float32 or float16, on the device of `step`.

    Here and below `offset` is the number of the first element, where `shape` is a part of something larger."""
    return _drawn(normal_lane, 4, array_module(step).empty(shape, dtype), seed, draw, step, offset)


def uniform(shape, seed: int, draw: int, step, dtype, offset: int = 0):
    """Uniform numbers in [0, 1) as an array of float32 or float16, on the device of `step`."""
    return _drawn(_uniform_lane, 4, array_module(step).empty(shape, dtype), seed, draw, step, offset)


def keep_mask(shape, p: float, seed: int, draw: int, step, offset: int = 0):
    """Boolean array: True, with probability 1 - p (in steps of 1/65536), where dropout keeps an element."""
    kept = array_module(step).empty(shape, np.uint8)
    return _drawn(keep_lane, 8, kept, seed, draw, step, offset, round(65536 * p)).view(bool)


# --- dropout ----------------------------------------


def frozen(step):
    """The generator's step as it is now, for a backward pass that may come after the step has ended; None stays None.
    The device copies it, so that each replay of a captured step has its own."""
    return None if step is None else step.copy()


def dropped(x, mask, step, p, seed, draw):
    """dropout(x) by the mask given or the one drawn with this key; x itself where there is neither."""
    if p == 0 and mask is None:
        return x
    x, mask = contiguous(x), contiguous(mask)
    y = array_module(x).empty_like(x)
    scale, threshold = 1 / (1 - p) if p < 1 else 0.0, round(65536 * p)
    config = blocks("random", "dropout", x.dtype)
    grid = (cdiv(x.size, config["BLOCK"]),)
    launch(_dropout_kernel, grid, x, mask, step, y, x.size, scale, threshold, *key(seed, draw), **config)
    return y


def _dropout(x, mask, step, *, p, seed, draw):
    return dropped(x, mask, step, p, seed, draw), (mask, frozen(step))


def _dropout_backward(saved, dy, needs_input_grad, *, p, seed, draw):
    return dropped(dy, *saved, p, seed, draw) if needs_input_grad[0] else None, None, None


dropout = Op("dropout", _dropout, _dropout_backward, backend="triton")


@triton.jit
def _advance(step_ptr):
    tl.store(step_ptr, tl.load(step_ptr) + 1)


def advance_(step):
    """The last operation of a training step: its random numbers will not come again."""
    launch(_advance, (1,), step)
