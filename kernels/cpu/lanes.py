"""Vectors as values in a compiled loop, and the matrix product that they make possible.

    y[i, j] (+)= sum_c a[i, c] b[c, j]            a, b, y in flat arrays, at any offset and stride

Shapes      a (M, K) at steps `a_row`, `a_column`, so that it may be read transposed; b (K, N) in blocks of LANES
            columns, whose rows are `b_row` and which are `b_block` apart; y (M, N), rows `y_row` apart. M is padded to
            a multiple of ROWS and N of LANES: what lies there is read and written
Plan        ROWS by LANES sums stay in registers while c runs: one vector of b is loaded and ROWS numbers of a, each of
            which multiplies it. 32 lanes are two AVX-512 registers (16 sums in 32 registers), 8 are one of AVX
Precision   float32, DEPTH terms after another and then these sums; exps has an error of 0.7 units of the last place
Versions    one core of a Zen 5 (peak 240 GF/s), in cache, M, N, K between 32 and 256: OpenBLAS 62 to 95 GF/s. Plain
            loops, four rows by four terms unrolled, which LLVM makes vectors of: 38 to 87, since the sums go through
            memory at every fourth term. This: 205 to 227
Limits      a compiled loop has numbers, no vectors: LLVM's vector type is given a name here, and some of its operations

# next: kernels/cpu/attention.py, which is made of such products
"""

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from kernels.cpu.common import EXACT, INDEX, REAL, f32, inline

LANES = 32 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8
ROWS = 8
DEPTH = 256  # terms of a sum that stay in registers: then b's block stays in cache, and rounding errors stay small

_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_I32 = ir.IntType(32)


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


# --- operations ----------------------------------------


def _at(context, builder, kind, array, index):
    """The address of LANES neighbours in an array, counted in C order."""
    start = builder.gep(context.make_array(kind)(context, builder, array).data, [index])
    return builder.bitcast(start, _VECTOR.as_pointer())


def _repeat(builder, number):
    """A vector of one number."""
    empty = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    one = builder.insert_element(empty, number, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, empty, ir.Constant(ir.VectorType(_I32, LANES), None))


def _first(builder, n):
    """Truth in the first n lanes."""
    lane = ir.Constant(ir.VectorType(_I32, LANES), list(range(LANES)))
    return builder.icmp_signed("<", lane, _repeat(builder, builder.trunc(n, _I32)))


def _call(builder, name, result, *arguments, fastmath=()):
    """One of LLVM's own functions of vectors."""
    kind = ir.FunctionType(result, [x.type for x in arguments])
    return builder.call(builder.module.declare_intrinsic(f"llvm.{name}", (), kind), arguments, fastmath=fastmath)


def _fma(builder, a, b, c):
    """a b + c, in one instruction where there is one."""
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


@intrinsic
def load(_, x, i):
    """x[i : i + LANES], counted in C order."""
    emit = lambda context, builder, signature, args: builder.load(
        _at(context, builder, signature.args[0], *args), align=4
    )
    return lanes(x, INDEX), emit


@intrinsic
def number(_, x, i):
    """x[i], counted in C order, of an index that is known not to be negative."""

    def emit(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.load(builder.gep(array.data, [args[1]]), align=4)

    return REAL(x, INDEX), emit


@intrinsic
def _load_masked(_, x, i, n, other):
    """The first n lanes of x[i : i + LANES], and `other` in those beyond."""

    def emit(context, builder, signature, args):
        at, rest = _at(context, builder, signature.args[0], *args[:2]), _repeat(builder, args[3])
        return _call(builder, f"masked.load.v{LANES}f32.p0", _VECTOR, at, _I32(4), _first(builder, args[2]), rest)

    return lanes(x, INDEX, INDEX, REAL), emit


@intrinsic
def store(_, y, i, v):
    """y[i : i + LANES] = v"""

    def emit(context, builder, signature, args):
        builder.store(args[2], _at(context, builder, signature.args[0], *args[:2]), align=4)
        return context.get_dummy_value()

    return types.none(y, INDEX, lanes), emit


@intrinsic
def _store_masked(_, y, i, n, v):
    """y[i : i + n] = the first n lanes of v."""

    def emit(context, builder, signature, args):
        at = _at(context, builder, signature.args[0], *args[:2])
        name, nothing = f"masked.store.v{LANES}f32.p0", ir.VoidType()
        _call(builder, name, nothing, args[3], at, _I32(4), _first(builder, args[2]))
        return context.get_dummy_value()

    return types.none(y, INDEX, INDEX, lanes), emit


@intrinsic
def fill(_, number):
    """The number in every lane."""
    return lanes(REAL), lambda context, builder, signature, args: _repeat(builder, *args)


@intrinsic
def add_product(_, total, number, v):
    """total + number * v"""

    def emit(context, builder, signature, args):
        return _fma(builder, _repeat(builder, args[1]), args[2], args[0])

    return lanes(lanes, REAL, lanes), emit


@intrinsic
def times(_, a, b):
    """a * b"""
    return lanes(lanes, lanes), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def over(_, v, number):
    """v / number"""

    def emit(context, builder, signature, args):
        return builder.fdiv(args[0], _repeat(builder, args[1]))

    return lanes(lanes, REAL), emit


@intrinsic
def larger(_, a, b):
    """Of each pair the larger, `b` where there is a nan."""

    def emit(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return lanes(lanes, lanes), emit


@intrinsic
def largest(_, v):
    """The largest of all lanes, none of which is nan."""

    def emit(context, builder, signature, args):
        return _call(builder, f"vector.reduce.fmax.v{LANES}f32", ir.FloatType(), *args, fastmath=("nnan",))

    return REAL(lanes), emit


@intrinsic
def added_up(_, v):
    """The sum of all lanes, in a tree."""

    def emit(context, builder, signature, args):
        zero = ir.Constant(ir.FloatType(), -0.0)
        return _call(builder, f"vector.reduce.fadd.v{LANES}f32", zero.type, zero, *args, fastmath=("reassoc",))

    return REAL(lanes), emit


@intrinsic
def exps(_, v):
    """exp of lanes that are not above 88, by the polynomial of common.exp; nan stays nan."""

    def emit(context, builder, signature, args):
        (x,), whole = args, ir.VectorType(_I32, LANES)
        put = lambda number: ir.Constant(_VECTOR, [float(f32(number))] * LANES)
        fixed = lambda number: ir.Constant(whole, [number] * LANES)
        low = builder.fcmp_ordered("<", x, put(-87.33))
        x = builder.select(low, put(-87.33), x)
        n = _call(builder, f"floor.v{LANES}f32", _VECTOR, _fma(builder, x, put(1.44269504), put(0.5)))
        r = _fma(builder, n, put(2.12194440e-4), _fma(builder, n, put(-0.693359375), x))
        p = put(1.9875691500e-4)
        for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            p = _fma(builder, p, r, put(c))
        p = builder.fadd(_fma(builder, builder.fmul(p, r), r, r), put(1.0))
        scale = builder.shl(builder.add(builder.fptosi(n, whole), fixed(127)), fixed(23))  # 2^n, by its exponent bits
        return builder.select(low, put(0.0), builder.fmul(p, builder.bitcast(scale, _VECTOR)))

    return lanes(lanes), emit


@inline
def load_part(x, i, n, other):
    """x[i : i + LANES], of which only the first n are there: `other` beyond."""
    return load(x, i) if n >= LANES else _load_masked(x, i, n, other)


@inline
def store_part(y, i, n, v):
    """y[i : i + LANES] = v, of which only the first n are there."""
    if n >= LANES:
        store(y, i, v)
    else:
        _store_masked(y, i, n, v)


# --- a matrix product ----------------------------------------


@routine
def product(a, a_row, a_column, b, b_row, b_block, y, y_row, M, N, K, add):
    """y = a b, or y += a b: see the file's head."""
    for k in range(0, max(K, 1), DEPTH):
        depth, more = min(DEPTH, K - k), add or k > 0
        for start in range(0, N, LANES):
            j = start // LANES * b_block + k * b_row
            for i in range(0, M, ROWS):
                _tile(
                    a, i * a_row + k * a_column, a_row, a_column, b, j, b_row, y, i * y_row + start, y_row, depth, more
                )


@inline
def _tile(a, i, a_row, a_column, b, j, b_row, y, o, y_row, K, add):
    """ROWS rows of LANES columns, from a[i], b[j] and y[o] on."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = fill(f32(0))
    for _ in range(K):
        v = load(b, j)
        s0 = add_product(s0, a[i], v)
        s1 = add_product(s1, a[i + a_row], v)
        s2 = add_product(s2, a[i + 2 * a_row], v)
        s3 = add_product(s3, a[i + 3 * a_row], v)
        s4 = add_product(s4, a[i + 4 * a_row], v)
        s5 = add_product(s5, a[i + 5 * a_row], v)
        s6 = add_product(s6, a[i + 6 * a_row], v)
        s7 = add_product(s7, a[i + 7 * a_row], v)
        i, j = i + a_column, j + b_row
    _put_all(y, o, y_row, s0, s1, s2, s3, s4, s5, s6, s7, add)


@inline
def _put_all(y, o, y_row, s0, s1, s2, s3, s4, s5, s6, s7, add):
    """ROWS sums into their rows of y."""
    _put(y, o, s0, add)
    _put(y, o + y_row, s1, add)
    _put(y, o + 2 * y_row, s2, add)
    _put(y, o + 3 * y_row, s3, add)
    _put(y, o + 4 * y_row, s4, add)
    _put(y, o + 5 * y_row, s5, add)
    _put(y, o + 6 * y_row, s6, add)
    _put(y, o + 7 * y_row, s7, add)


@inline
def found_tile(a, rows, columns, b, j, b_row, y, o, y_row, add):
    """ROWS rows of LANES columns of y (+)= a b, where a's element (r, c) is a[rows[r] + columns[c]]."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = fill(f32(0))
    i0, i1, i2, i3, i4, i5, i6, i7 = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
    for k in range(columns.size):
        v, c = load(b, j), columns[k]
        s0 = add_product(s0, number(a, i0 + c), v)
        s1 = add_product(s1, number(a, i1 + c), v)
        s2 = add_product(s2, number(a, i2 + c), v)
        s3 = add_product(s3, number(a, i3 + c), v)
        s4 = add_product(s4, number(a, i4 + c), v)
        s5 = add_product(s5, number(a, i5 + c), v)
        s6 = add_product(s6, number(a, i6 + c), v)
        s7 = add_product(s7, number(a, i7 + c), v)
        j += b_row
    _put_all(y, o, y_row, s0, s1, s2, s3, s4, s5, s6, s7, add)


@inline
def _put(y, o, s, add):
    """y = s or y += s"""
    store(y, o, add_product(load(y, o), f32(1), s) if add else s)


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
