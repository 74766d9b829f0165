"""Vectors as values in a compiled loop: LANES float32 numbers in registers.

Plain loops over arrays are turned into vector instructions by the compiler, but it keeps no array in registers from one
loop to the next. Where that decides (a product's sums, the 16 numbers of a tile), a kernel says what it means: `load` a
vector, calculate with it, `store` it.

Plan        LLVM's vector type is given a name here, and some of its operations. 32 lanes are two AVX-512 registers; 8
            are one of AVX, where there is no AVX-512
Precision   float32; exps has an error of 0.7 units of the last place
Limits      places are counted in C order and not checked

# why: docs/kernels/cpu.md
# next: kernels/cpu/tiles.py, the matrix product that they make possible
"""

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from kernels.cpu.common import EXACT, INDEX, REAL, f32, inline

LANES = 32 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8

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
def number(_, x, i, j):
    """x[i + j], counted in C order: the address of x[i] is found once for a loop over j."""

    def emit(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.load(builder.gep(builder.gep(array.data, [args[1]]), [args[2]]), align=4)

    return REAL(x, INDEX, INDEX), emit


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
def bent(_, v, low):
    """`low` where v is below zero, else v: an activation's kink."""

    def emit(context, builder, signature, args):
        below = builder.fcmp_ordered("<", args[0], ir.Constant(_VECTOR, [0.0] * LANES))
        return builder.select(below, args[1], args[0])

    return lanes(lanes, lanes), emit


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


@routine
def up(n, step):
    """n, or the next multiple of `step`."""
    return -(-n // step) * step


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
