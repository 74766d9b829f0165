"""What the CPU kernels share: how they are compiled, and the functions that a loop can call without leaving it.

A kernel is a plain loop nest over a piece [start, stop) of the work, compiled by Numba for given types when its module
is imported and kept on disk. It lets go of Python's lock, so that core.runtime.threads runs pieces side by side;
nothing in it starts threads. Matrix products are those of kernels/cpu/tiles.py, inside a kernel, or NumPy's BLAS
between two.

`exp`, `tanh` and the like are short polynomials: they have no branches, so that the compiler turns the loop around them
into vector instructions, which it cannot do with a call of the mathematics library. Errors, in units of the last place
of float32 and measured against float64, are in their docstrings. The cache is named after the sources of all kernels,
and of the references whose constants they have compiled in, because Numba itself would not notice a change in what
another file gives.

A loop counts from 0 over slices that were taken before it. With an index whose sign the compiler cannot know, as in
range(start, stop), it would allow for a negative one at every store, element by element: gelu was five times slower.

# why: docs/kernels/cpu.md
# next: kernels/cpu/pointwise.py, the simplest kernels
"""

import hashlib
from pathlib import Path

import numba
import numpy as np
from numba import types

HERE = Path(__file__).parent
REFERENCES = ("pointwise", "random")  # of core/reference, whose constants are compiled into kernels
_files = [*sorted(HERE.glob("*.py")), *(HERE.parents[1] / "core" / "reference" / f"{name}.py" for name in REFERENCES)]
_sources = b"".join(p.read_bytes() for p in _files)
numba.config.CACHE_DIR = str(HERE / "__pycache__" / hashlib.sha256(_sources).hexdigest()[:16])

f32 = np.float32
EXACT = frozenset({"contract", "nsz"})  # a product and a sum may be one instruction; -0 may become 0
SUMS = EXACT | {"reassoc"}  # sums in any order, hence in vector registers
INDEX, REAL, DOUBLE = types.int64, types.float32, types.float64  # of a kernel's numbers
PIECE = (INDEX, INDEX)  # start and stop, the last two arguments of every kernel


def const(ndim, dtype=types.float32):
    """The type of an array that a kernel reads; it cannot write to it."""
    return types.Array(dtype, ndim, "C", readonly=True)


def out(ndim, dtype=types.float32):
    """The type of an array that a kernel writes."""
    return types.Array(dtype, ndim, "C")


def kernel(*arguments, fastmath=EXACT, **options):
    """The decorator of a kernel: compiled for arguments of these types now, or taken from the cache."""
    signature = types.void(*arguments)
    return numba.njit(signature, cache=True, nogil=True, error_model="numpy", fastmath=set(fastmath), **options)


inline = numba.njit(inline="always", error_model="numpy", fastmath=set(EXACT))


def floats(x):
    """`x` as an aligned C-contiguous float32 array, itself if it is one; None stays None."""
    return None if x is None else np.require(x, f32, "CA").reshape(x.shape)


# --- functions of one number ----------------------------------------


@inline
def exp(x):
    """exp(x) of a float32: 2^n times a polynomial on half a unit around 0 (Cephes' expf); 0.7 units; nan stays nan."""
    n = np.floor(min(max(x, f32(-87.33)), f32(88.72)) * f32(1.44269504) + f32(0.5))
    r = min(max(x, f32(-87.33)), f32(88.72)) - n * f32(0.693359375)
    r = r + n * f32(2.12194440e-4)  # log 2 in two parts, so that r is exact
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    p = p * r * r + r + f32(1)
    scale = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(f32)  # 2^n, by its exponent bits
    y = p * scale
    y = f32(0) if x < f32(-87.33) else y
    y = f32(np.inf) if x > f32(88.72) else y
    return x if x != x else y


@inline
def log(x):
    """log(x) of a positive, normal float32: exponent and mantissa apart (Cephes' logf); 0.6 units."""
    bits = np.int32(f32(x).view(np.int32))
    n = ((bits - np.int32(0x3F3504F3)) >> np.int32(23)) + np.int32(0)  # so that the mantissa is in [sqrt(1/2), sqrt(2))
    m = np.int32(bits - (n << np.int32(23))).view(f32) - f32(1)
    y = log_near(m, f32(n))
    return y if x < f32(np.inf) else x


@inline
def log_near(m, n):
    """log((1 + m) 2^n) for 1 + m in [sqrt(1/2), sqrt(2))."""
    u = m * m
    p = f32(7.0376836292e-2)
    p = p * m + f32(-1.1514610310e-1)
    p = p * m + f32(1.1676998740e-1)
    p = p * m + f32(-1.2420140846e-1)
    p = p * m + f32(1.4249322787e-1)
    p = p * m + f32(-1.6668057665e-1)
    p = p * m + f32(2.0000714765e-1)
    p = p * m + f32(-2.4999993993e-1)
    p = p * m + f32(3.3333331174e-1)
    y = p * m * u + n * f32(-2.12194440e-4) - f32(0.5) * u
    return (m + y) + n * f32(0.693359375)


@inline
def log1p(e):
    """log(1 + e) for e >= 0: the logarithm of the rounded sum u = 1 + e, corrected by e / (u - 1); 2 units."""
    u = f32(1) + e
    rest = u - f32(1)
    safe = f32(1) if rest == f32(0) else rest
    return e if rest == f32(0) else log(u) * (e / safe)


@inline
def tanh(x):
    """tanh(x): an odd polynomial near 0, else 1 - 2 / (exp(2 |x|) + 1); 1.3 units."""
    a = abs(x)
    u = x * x
    p = f32(-5.70498872745e-3)
    p = p * u + f32(2.06390887954e-2)
    p = p * u + f32(-5.37397155531e-2)
    p = p * u + f32(1.33314422036e-1)
    p = p * u + f32(-3.33332819422e-1)
    near = p * u * x + x
    far = f32(1) - f32(2) / (exp(a + a) + f32(1))
    far = -far if x < f32(0) else far
    return near if a < f32(0.625) else far


@inline
def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow."""
    e = exp(-abs(x))
    return (f32(1) if x >= f32(0) else e) / (f32(1) + e)


@inline
def erf(x):
    """The error function by the rational fit of core/reference/pointwise.py; 7 units, at |x| = 3.8."""
    x = min(max(x, f32(-3.95)), f32(3.95)) if x == x else x
    u = x * x
    p = f32(0.00000202916426)
    p = p * u + f32(0.000284276390)
    p = p * u + f32(0.00378961021)
    p = p * u + f32(0.0528173593)
    p = p * u + f32(0.191117375)
    p = p * u + f32(1.12837915)
    q = f32(0.0000378443414)
    q = q * u + f32(0.00116625731)
    q = q * u + f32(0.0150176169)
    q = q * u + f32(0.114379992)
    q = q * u + f32(0.502706104)
    q = q * u + f32(1)
    y = x * p / q
    return min(max(y, f32(-1)), f32(1)) if y == y else y
