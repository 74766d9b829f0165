"""Softmax and its logarithm along any axis.

    top = max_v z_v,  rest = log sum_v exp(z_v - top)          log-sum-exp = top + rest, kept apart (see Precision)
    softmax_v = exp(z_v - top) / exp(rest)                     dz = y (dy - sum(dy y));  of its log: dy - exp(y) sum(dy)

Shapes      x any, along any axis of n elements
Plan        a piece of the rows for each thread. A row is read twice: for its maximum, then, still in cache, for the sum
            of its exponentials
Cost        8n bytes, 12n backward
Precision   float32, in float64 from block to block. top + rest would lose the digits of rest where x is far from zero
Limits      none. Along another axis than the last x is copied

# why: docs/kernels/losses.md
# next: kernels/cpu/cross_entropy.py
"""

import numpy as np

from core.engine import Op
from core.runtime.threads import share
from kernels.cpu.common import INDEX, PIECE, const, f32, floats, inline, kernel, log, out
from kernels.cpu.lanes import (
    LANES,
    add_product,
    added_up,
    exps,
    fill,
    larger,
    largest,
    load_part,
    over,
    store_part,
    times,
)

BLOCK = 1024  # elements of a row that are added up in float32, a multiple of LANES
ENOUGH = 1 << 16  # elements below which a second thread, 12 to 20 us away, costs more than it brings


@inline
def highest(x, r, n):
    """The largest of a row, -inf if it is empty; a nan counts only where there is nothing else."""
    o, low = r * x.shape[1], f32(-np.inf)
    most = fill(low)
    for c in range(0, n, LANES):
        most = larger(load_part(x, o + c, n - c, low), most)
    return largest(most)


@inline
def shifted(v, top, rest):
    """(v - top) - rest"""
    return add_product(fill(-rest), f32(1), add_product(fill(-top), f32(1), v))


@inline
def sums(x, r, n, top, both):
    """The sums of exp(x - top) and, if `both` are wanted, of x - top in a row."""
    o, norm, shifted_sum = r * x.shape[1], 0.0, 0.0
    for first in range(0, n, BLOCK):
        e, s = fill(f32(0)), fill(f32(0))
        for c in range(first, min(n, first + BLOCK), LANES):
            e = add_product(e, f32(1), exps(shifted(load_part(x, o + c, n - c, f32(-np.inf)), top, f32(0))))
            if both:
                s = add_product(s, f32(1), shifted(load_part(x, o + c, n - c, top), top, f32(0)))
        norm += added_up(e)
        shifted_sum += added_up(s)
    return norm, shifted_sum


@inline
def sum_of_products(x, y, r, is_log):
    """The sum of x y in a row, or of x if is_log."""
    n, total_ = x.shape[1], 0.0
    for first in range(0, n, BLOCK):
        s = fill(f32(0))
        for c in range(first, min(n, first + BLOCK), LANES):
            v = load_part(x, r * n + c, n - c, f32(0))
            s = add_product(s, f32(1), v if is_log else times(v, load_part(y, r * n + c, n - c, f32(0))))
        total_ += added_up(s)
    return f32(total_)


@kernel(const(2), out(2), INDEX, *PIECE, _nrt=False)
def _softmax_forward(x, y, is_log, start, stop):
    n = x.shape[1]
    for r in range(start, stop):
        top = highest(x, r, n)
        norm = f32(sums(x, r, n, top, False)[0])
        rest = log(norm) if is_log else f32(0)
        for c in range(0, n, LANES):
            z = shifted(load_part(x, r * n + c, n - c, f32(0)), top, rest)
            store_part(y, r * n + c, n - c, z if is_log else over(exps(z), norm))


@kernel(const(2), const(2), out(2), INDEX, *PIECE, _nrt=False)
def _softmax_backward(y, dy, dx, is_log, start, stop):
    n = y.shape[1]
    for r in range(start, stop):
        s = sum_of_products(dy, y, r, is_log)
        for c in range(0, n, LANES):
            v, dv = load_part(y, r * n + c, n - c, f32(0)), load_part(dy, r * n + c, n - c, f32(0))
            store_part(
                dx, r * n + c, n - c, add_product(dv, -s, exps(v)) if is_log else times(v, shifted(dv, s, f32(0)))
            )


def _along(loop, axis, is_log, *inputs):
    """loop on the rows that run along `axis`; the result has the inputs' shape."""
    inputs = [floats(np.moveaxis(x, axis, -1)) for x in inputs]
    y = np.empty_like(inputs[0])
    n = y.shape[-1]
    rows = [x.reshape(y.size // max(n, 1), n) for x in (*inputs, y)]
    share(lambda start, stop: loop(*rows, is_log, start, stop), len(rows[0]), 1 + ENOUGH // max(n, 1))
    return np.moveaxis(y, -1, axis)


def _softmax_op(name, is_log):
    """softmax, or log_softmax."""

    def forward(x, *, axis):
        y = _along(_softmax_forward, axis, is_log, x)
        return y, (y,)

    def backward(saved, dy, needs_input_grad, *, axis):
        return (_along(_softmax_backward, axis, is_log, *saved, dy),)

    return Op(name, forward, backward, backend="numba")


softmax = _softmax_op("softmax", 0)
log_softmax = _softmax_op("log_softmax", 1)
