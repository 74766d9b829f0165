"""The two shapes of work behind kernels/gpu/pointwise.py, and the operations sum, mean, max, min.

    mapped      y[i, j, k] = f(a[i, j, k], b[i, j, k], ...), operands broadcast      f is any function of one element
    reduced     y[o, k] = fold over i of x[o, i, k], over a divisor                  the fold is +, maximum or minimum

Shapes      mapped: axes of length 1 are dropped, and neighbours along which the same operands vary are one axis. What
            is left is nearly always (n), operands of one shape, or (rows, n), a row beside a matrix. Three axes (outer,
            middle, inner) are the kernel's; of more, the operands are written out in full
            reduced: axes that lie side by side are one; x is seen as (outer, n, inner), y as (outer, inner)
Plan        mapped: program = a tile of rows x columns, whose shape follows the lengths. The function is a constant of
            the kernel, as are the axes along which each operand varies, from which its strides follow. An operand
            without columns is read once a row, a number on the device once
            reduced: program = a tile of BLOCK_O x BLOCK_K results over a share of n. It walks down its share BLOCK_N at
            a time, keeps BLOCK_O x BLOCK_N x BLOCK_K running results in registers and folds them at the end. The tile
            follows x: (1, 32, 64) for the sum of a batch of rows, (2, 1024, 1) for short rows. Where n is longer than
            a share, the shares' results go to a float32 buffer that is reduced in the same way until one share holds
            all: no atomics, one fixed order. Axes apart, such as (0, 2), take a pass each
Cost        each element is read and written once: memory decides; the buffers hold 1/64 of x at most
Precision   float32; many short chains and a tree over them lose less than one long chain. nan wins, and ties share
Versions    mapped with strides as arguments: 12 more numbers a launch and no wide loads; with lengths as constants: a
            compilation for each shape. reduced with one shape of tile: most lanes idle on rows or on columns
Limits      floating results; fewer than 2^31 tiles, the most programs that CUDA starts
Status      untested on a device: all of it

# why: docs/kernels/others.md
# next: kernels/gpu/embedding.py
"""

import functools
import math

import triton
import triton.language as tl

from core.arrays import array_module
from core.engine import Op
from core.reference.reductions import _axes, _count, _keep
from kernels.gpu.common import cdiv, contiguous
from kernels.launch import blocks, launch

# --- map ----------------------------------------


@triton.jit
def _read(x, row, k, rows, middle, inner, AXES: tl.constexpr):
    """The tile of one operand: a number as it is, an array where its axes say: "ijk", "..k", "ij." or any other."""
    if AXES == "":
        tile = x
    else:
        o, length = tl.zeros((1, 1), tl.int64), 1
        if AXES[0] == "i":
            o, length = row // middle, rows // middle  # (BLOCK_M, 1)
        if AXES[1] == "j":
            o, length = o * middle + row % middle, length * middle
        inside = o < length
        if AXES[2] == "k":
            o, inside = o * inner + k, inside & (k < inner)  # (BLOCK_M or 1, BLOCK_N)
        tile = tl.load(x + o, mask=inside, other=0.0).to(tl.float32)
    return tile


@triton.jit
def _map(
    a, b, c, d, y_ptr, rows, middle, inner, FUNCTION: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y[row, k] = FUNCTION of one to four operands; row = i * middle + j. A to D are the operands' axes."""
    columns = tl.cdiv(inner, BLOCK_N)
    program = tl.program_id(0).to(tl.int64)
    row = program // columns * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]  # (BLOCK_M, 1)
    k = program % columns * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]  # (1, BLOCK_N)
    a = _read(a, row, k, rows, middle, inner, A)
    if B is None:
        y = FUNCTION(a)
    else:
        b = _read(b, row, k, rows, middle, inner, B)
        if C is None:
            y = FUNCTION(a, b)
        else:
            c = _read(c, row, k, rows, middle, inner, C)
            if D is None:
                y = FUNCTION(a, b, c)
            else:
                y = FUNCTION(a, b, c, _read(d, row, k, rows, middle, inner, D))
    tl.store(y_ptr + row * inner + k, y, mask=(row < rows) & (k < inner))


def mapped(function, shape, dtype, *operands):
    """function(*operands), one to four arrays or numbers broadcast to `shape`: a new array of `dtype`."""
    operands = [x if isinstance(x, float) else contiguous(_single(x)) for x in operands]
    xp = array_module(*operands)
    shapes = tuple(None if isinstance(x, float) else x.shape for x in operands)
    lengths, axes = _merged(shape, shapes)
    if len(lengths) > 3:
        operands = [x if isinstance(x, float) else contiguous(xp.broadcast_to(x, shape)) for x in operands]
        lengths, axes = _merged(shape, tuple(None if s is None else shape for s in shapes))
    outer, middle, inner = (1,) * (3 - len(lengths)) + lengths
    y = xp.empty(shape, dtype)
    config = blocks("reductions", "map", y.dtype)
    tile = config.pop("TILE")
    n = min(_power(inner), tile)
    m = min(_power(outer * middle), tile // n)
    grid = (cdiv(outer * middle, m) * cdiv(inner, n),)
    missing = (None,) * (4 - len(operands))
    constants = dict(zip("ABCD", (*axes, *missing)), FUNCTION=function, BLOCK_M=m, BLOCK_N=n)
    launch(_map, grid, *operands, *missing, y, outer * middle, middle, inner, **constants, **config)
    return y


def _single(x):
    """A view of `x` with the axes along which it is one number repeated, as after broadcast_to, cut to length 1."""
    return x[tuple(slice(1) if step == 0 else slice(None) for step in x.strides)]


@functools.lru_cache(4096)
def _merged(shape, shapes):
    """The lengths of the merged axes, and for each operand the axes along which it varies: ((4, 3), ("ijk", "..k"));
    "" for a number."""
    groups: list = []  # [length, which operands vary]
    for axis, length in zip(range(-len(shape), 0), shape):
        vary = tuple(s is not None and len(s) >= -axis and s[axis] != 1 for s in shapes)
        if groups and groups[-1][1] == vary:
            groups[-1][0] *= length
        elif length != 1:
            groups.append([length, vary])
    letters = "ijk"[-len(groups) :] if groups else ""
    axes = [
        "".join(letter if vary[p] else "." for letter, (_, vary) in zip(letters, groups)) for p in range(len(shapes))
    ]
    return tuple(n for n, _ in groups), tuple("" if s is None else a.rjust(3, ".") for a, s in zip(axes, shapes))


# --- reduce ----------------------------------------


@triton.jit
def add(x, y):
    return x + y


@triton.jit
def maximum(x, y):
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(x, y):
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _add_up(tile):
    return tl.sum(tile, 1, keep_dims=True)


@triton.jit
def _largest(tile):
    return tl.reduce(tile, 1, maximum, keep_dims=True)  # tl.max would pass over nan


@triton.jit
def _smallest(tile):
    return tl.reduce(tile, 1, minimum, keep_dims=True)


# fold: (of two tiles, along axis 1 of one tile, the number that changes nothing)
FOLDS = {
    "sum": (add, _add_up, 0.0),
    "max": (maximum, _largest, -math.inf),
    "min": (minimum, _smallest, math.inf),
}


@triton.jit
def _reduce(
    x_ptr, y_ptr, outer, n, inner, divisor, OF_TWO: tl.constexpr, ALONG: tl.constexpr, IDENTITY: tl.constexpr,
    SHARE: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """y[o, share, k] = the fold over i of x[o, i, k] / divisor, with i in the program's share of n."""
    columns, shares = tl.cdiv(inner, BLOCK_K), tl.maximum(tl.cdiv(n, SHARE), 1)
    program = tl.program_id(0).to(tl.int64)
    share = program // columns % shares
    o = program // columns // shares * BLOCK_O + tl.arange(0, BLOCK_O)[:, None, None]  # (BLOCK_O, 1, 1)
    k = program % columns * BLOCK_K + tl.arange(0, BLOCK_K)[None, None, :]  # (1, 1, BLOCK_K)
    inside = (o < outer) & (k < inner)
    total = tl.full((BLOCK_O, BLOCK_N, BLOCK_K), IDENTITY, tl.float32)
    for start in range(share * SHARE, tl.minimum(n, (share + 1) * SHARE), BLOCK_N):
        i = start + tl.arange(0, BLOCK_N)[None, :, None]  # (1, BLOCK_N, 1)
        x = tl.load(x_ptr + (o * n + i) * inner + k, mask=inside & (i < n), other=IDENTITY)
        total = OF_TWO(total, x.to(tl.float32))
    y = ALONG(total) / divisor  # (BLOCK_O, 1, BLOCK_K)
    tl.store(y_ptr + (o * shares + share) * inner + k, y, mask=inside)


def reduced(x, axes, dtype, fold="sum", divisor=1):
    """`x` folded over `axes`, which stay as ones, and divided by a number: a new array of `dtype`."""
    x, shape = contiguous(x), x.shape
    runs = _runs(shape, axes)
    for first, stop in reversed(runs):
        lengths = [math.prod(part) for part in (shape[:first], shape[first:stop], shape[stop:])]
        x = _fold(x, *lengths, fold, *((dtype, divisor) if (first, stop) == runs[0] else ("float32", 1)))
        shape = (*shape[:first], *(1,) * (stop - first), *shape[stop:])
    return x.reshape(shape)


def _runs(shape, axes):
    """[(first, stop)] of the reduced axes that lie side by side; an empty run where none is reduced: a plain copy."""
    runs: list = []
    for a in sorted(axes):
        if runs and runs[-1][1] == a:
            runs[-1] = (runs[-1][0], a + 1)
        elif shape[a] != 1:
            runs.append((a, a + 1))
    return runs or [(0, 0)]


def _fold(x, outer, n, inner, fold, dtype, divisor):
    """x, seen as (outer, n, inner), folded over n in as many launches as its length takes."""
    config = blocks("reductions", "reduce", x.dtype, x.size)
    tile, columns, iterations = (config.pop(name) for name in ("TILE", "COLUMNS", "TRIPS"))
    block_k = min(_power(inner), columns)
    block_n = min(_power(n), tile // block_k)
    block_o = min(_power(outer), tile // block_k // block_n)
    shares = max(1, cdiv(n, iterations * block_n))
    last = shares == 1
    y = array_module(x).empty(outer * shares * inner, dtype if last else "float32")
    grid = (cdiv(outer, block_o) * shares * cdiv(inner, block_k),)
    of_two, along, identity = FOLDS[fold]
    sizes = {"SHARE": iterations * block_n, "BLOCK_O": block_o, "BLOCK_N": block_n, "BLOCK_K": block_k}
    arguments = (x, y, outer, n, inner, float(divisor if last else 1))
    launch(_reduce, grid, *arguments, OF_TWO=of_two, ALONG=along, IDENTITY=identity, **sizes, **config)
    return y if last else _fold(y, outer, shares, inner, fold, dtype, divisor)


def _power(n):
    """The smallest power of two not below n; 1 for nothing."""
    return 1 << max(n - 1, 0).bit_length()


def unbroadcast(dy, shape):
    """The adjoint of broadcasting: `dy` summed over the axes along which an array of `shape` was repeated."""
    if dy.shape == shape:
        return dy
    padded = (1,) * (dy.ndim - len(shape)) + shape
    return reduced(dy, [a for a, n in enumerate(padded) if n != dy.shape[a]], "float32").reshape(shape)


@triton.jit
def divide(x, y):
    return x / y


@triton.jit
def _equal(x, y):
    return tl.where(x == y, 1.0, 0.0)


@triton.jit
def _share(dy, x, y, ties):
    """The elements that are the largest share its gradient equally; 0 / 0 where it is nan, which equals nothing."""
    return dy * _equal(x, y) / ties


def _folded(x, axes, keepdims, **how):
    y = reduced(x, axes, x.dtype, **how)
    return y if keepdims else y.reshape(tuple(n for a, n in enumerate(x.shape) if a not in axes))


def _sum(x, *, axis, keepdims):
    axes = _axes(x, axis)
    return _folded(x, axes, keepdims), (x.shape, axes)


def _sum_backward(saved, dy, needs_input_grad, *, axis, keepdims):
    shape, axes = saved
    return (array_module(dy).broadcast_to(_keep(dy, shape, axes), shape),)


def _mean(x, *, axis, keepdims):
    axes = _axes(x, axis)
    return _folded(x, axes, keepdims, divisor=_count(x.shape, axes)), (x.shape, axes)


def _mean_backward(saved, dy, needs_input_grad, *, axis, keepdims):
    dy = mapped(divide, dy.shape, dy.dtype, dy, float(max(_count(*saved), 1)))
    return _sum_backward(saved, dy, needs_input_grad, axis=axis, keepdims=keepdims)


def _extreme(name):
    def forward(x, *, axis, keepdims):
        axes = _axes(x, axis)
        for a in axes:
            if not x.shape[a]:
                raise ValueError(f"{name}: shape is {x.shape}, should not be empty along axis {a}")
        y = _folded(x, axes, keepdims, fold=name)
        return y, (x, y, axes)

    def backward(saved, dy, needs_input_grad, *, axis, keepdims):
        x, y, axes = saved
        dy, y = _keep(dy, x.shape, axes), _keep(y, x.shape, axes)
        ties = reduced(mapped(_equal, x.shape, x.dtype, x, y), axes, "float32")
        return (mapped(_share, x.shape, dy.dtype, dy, x, y, ties),)

    return Op(name, forward, backward, backend="triton")


REDUCTIONS = {
    "sum": Op("sum", _sum, _sum_backward, backend="triton"),
    "mean": Op("mean", _mean, _mean_backward, backend="triton"),
    "max": _extreme("max"),
    "min": _extreme("min"),
}


def __getattr__(name):
    """Each under its own name, for the dispatch table; in this file max, min and sum are Python's."""
    if name in REDUCTIONS:
        return REDUCTIONS[name]
    raise AttributeError(name)
