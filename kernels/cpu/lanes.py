"""Vectors as values in a compiled loop, and the matrix product that they make possible.

    y[i, j] (+)= sum_c a[i, c] b[c, j]            a, b, y in flat arrays, at any offset and stride

Shapes      a (M, K) at steps `a_row`, `a_column`, so that it may be read transposed; b (K, N) in blocks of LANES
            columns, whose rows are `b_row` and which are `b_block` apart; y (M, N), rows `y_row` apart. M is padded to
            a multiple of ROWS and N of LANES: what lies there is read and written
Plan        ROWS by LANES sums stay in registers while c runs: one vector of b is loaded and ROWS numbers of a, each of
            which multiplies it. 32 lanes are two AVX-512 registers (16 sums in 32 registers), 8 are one of AVX
Precision   float32, added up in the order of c
Versions    one core of a Zen 5 (peak 240 GF/s), in cache, M, N, K between 32 and 256: OpenBLAS 62 to 95 GF/s. Plain
            loops, four rows by four terms unrolled, which LLVM makes vectors of: 38 to 87, since the sums go through
            memory at every fourth term. This: 205 to 227
Limits      a compiled loop has numbers, no vectors: LLVM's vector type is given a name here, six operations and no more

# next: kernels/cpu/attention.py, which is made of such products
"""

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from kernels.cpu.common import EXACT, SUMS, f32

LANES = 32 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8
ROWS = 8

_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_NONE = ir.Constant(_VECTOR, ir.Undefined)
INDEX = types.int64


class _Lanes(types.Type):
    """LANES float32 numbers in registers."""

    def __init__(self):
        super().__init__(f"Lanes({LANES})")


lanes = _Lanes()


@register_model(_Lanes)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _VECTOR)


routine = numba.njit(error_model="numpy", fastmath=set(EXACT))  # what kernels call
summing = numba.njit(error_model="numpy", fastmath=set(SUMS))  # the same, for a sum in any order


# --- six operations ----------------------------------------


def _at(context, builder, kind, array, index):
    """The address of LANES neighbours in a flat array."""
    start = builder.gep(context.make_array(kind)(context, builder, array).data, [index])
    return builder.bitcast(start, _VECTOR.as_pointer())


def _repeat(builder, number):
    one = builder.insert_element(_NONE, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, _NONE, ir.Constant(ir.VectorType(ir.IntType(32), LANES), None))


@intrinsic
def load(_, x, i):
    """x[i : i + LANES]"""
    emit = lambda context, builder, signature, args: builder.load(
        _at(context, builder, signature.args[0], *args), align=4
    )
    return lanes(x, INDEX), emit


@intrinsic
def store(_, y, i, v):
    """y[i : i + LANES] = v"""

    def emit(context, builder, signature, args):
        builder.store(args[2], _at(context, builder, signature.args[0], *args[:2]), align=4)
        return context.get_dummy_value()

    return types.none(y, INDEX, lanes), emit


@intrinsic
def fill(_, number):
    """The number in every lane."""
    return lanes(types.float32), lambda context, builder, signature, args: _repeat(builder, *args)


@intrinsic
def add_product(_, total, number, v):
    """total + number * v, in one instruction where there is one."""

    def emit(context, builder, signature, args):
        product = builder.fmul(_repeat(builder, args[1]), args[2], flags=("contract",))
        return builder.fadd(args[0], product, flags=("contract",))

    return lanes(lanes, types.float32, lanes), emit


@intrinsic
def larger(_, a, b):
    """Of each pair the larger, `b` where there is a nan."""

    def emit(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return lanes(lanes, lanes), emit


@intrinsic
def largest(_, v):
    """The largest of all lanes."""

    def emit(context, builder, signature, args):
        kind = ir.FunctionType(ir.FloatType(), [_VECTOR])
        function = builder.module.declare_intrinsic(f"llvm.vector.reduce.fmax.v{LANES}f32", (), kind)
        return builder.call(function, args)

    return types.float32(lanes), emit


# --- a matrix product ----------------------------------------


@routine
def product(a, a_row, a_column, b, b_row, b_block, y, y_row, M, N, K, add):
    """y = a b, or y += a b: see the file's head."""
    for start in range(0, N, LANES):
        for i in range(0, M, ROWS):
            _tile(
                a[i * a_row :],
                a_row,
                a_column,
                b[start // LANES * b_block :],
                b_row,
                y[i * y_row + start :],
                y_row,
                K,
                add,
            )


@routine
def _tile(a, a_row, a_column, b, b_row, y, y_row, K, add):
    """ROWS rows of LANES columns."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = fill(f32(0))
    if add:
        s0, s1, s2, s3 = load(y, 0), load(y, y_row), load(y, 2 * y_row), load(y, 3 * y_row)
        s4, s5, s6, s7 = load(y, 4 * y_row), load(y, 5 * y_row), load(y, 6 * y_row), load(y, 7 * y_row)
    for c in range(K):
        v = load(b, c * b_row)
        i = c * a_column
        s0 = add_product(s0, a[i], v)
        s1 = add_product(s1, a[i + a_row], v)
        s2 = add_product(s2, a[i + 2 * a_row], v)
        s3 = add_product(s3, a[i + 3 * a_row], v)
        s4 = add_product(s4, a[i + 4 * a_row], v)
        s5 = add_product(s5, a[i + 5 * a_row], v)
        s6 = add_product(s6, a[i + 6 * a_row], v)
        s7 = add_product(s7, a[i + 7 * a_row], v)
    store(y, 0, s0)
    store(y, y_row, s1)
    store(y, 2 * y_row, s2)
    store(y, 3 * y_row, s3)
    store(y, 4 * y_row, s4)
    store(y, 5 * y_row, s5)
    store(y, 6 * y_row, s6)
    store(y, 7 * y_row, s7)


# --- buffers ----------------------------------------


@routine
def up(n, step):
    """n, or the next multiple of `step`."""
    return -(-n // step) * step


def buffers(*sizes):
    """Flat float32 arrays of at least these sizes, each at the start of a cache line, with nothing in them yet."""
    whole = np.empty(sum(up(n, 16) for n in sizes) + 16, f32)
    start, parts = -whole.ctypes.data % 64 // 4, []
    for n in sizes:
        parts.append(whole[start : start + n])
        start += up(n, 16)
    return parts
