"""What several kernel files need: numbers computed without losing digits, and arrays made ready for a launch.

# next: kernels/gpu/variational.py, the simplest kernels
"""

import math

import triton
import triton.language as tl

from core.arrays import array_module
from core.dispatch import tf32
from kernels.launch import launch


@triton.jit
def log1p(e):
    """log(1 + e) for e >= 0 with all digits: the logarithm of the rounded u = 1 + e, corrected by e / (u - 1)."""
    u = 1.0 + e
    return tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def _add_up(part_ptr, y_ptr, n, factor, BLOCK: tl.constexpr):
    """y = factor * (the sum of n partial sums): one program, in a fixed order."""
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        o = start + tl.arange(0, BLOCK)
        total += tl.load(part_ptr + o, mask=o < n, other=0.0)
    tl.store(y_ptr, tl.sum(total, 0) * factor)


def add_up(parts, dtype, factor):
    """`factor` times the sum of `parts` (n,) float32: 0-dimensional, of `dtype`.

    The second of two launches: a sum over many programs in an order that no timing changes."""
    y = array_module(parts).empty((), dtype)
    launch(_add_up, (1,), parts, y, parts.size, float(factor), BLOCK=1024, num_warps=8)
    return y


def precision_of(*arrays) -> str:
    """The input_precision of a product: three TF32 passes, one where `use(tf32=True)` says so. Of float16 one always:
    TF32 holds it."""
    return "tf32" if tf32() or all(x.dtype == "float16" for x in arrays) else "tf32x3"


def contiguous(x):
    """`x` as a C-contiguous array, itself if it is one; None stays None."""
    return None if x is None else array_module(x).ascontiguousarray(x).reshape(x.shape)


def write_back(arrays, flats):
    """The results in `flats`, which `contiguous` made, to the arrays that it had to copy."""
    for array, flat in zip(arrays, flats):
        if address(array) != address(flat):
            array[...] = flat


def address(a) -> int:
    """Where an array of CuPy's, or under the interpreter of NumPy's, starts."""
    return a.data.ptr if hasattr(a.data, "ptr") else a.ctypes.data


def cdiv(n: int, block: int) -> int:
    return -(-n // block)


def rows_of(x) -> int:
    """How many rows there are if the last axis is the row."""
    return math.prod(x.shape[:-1])
