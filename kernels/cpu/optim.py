"""Optimiser steps and gradient clipping over all parameters at once, in place.

    Adam     m += (1 - b1)(g - m);  v = b2 v + (1 - b2) g^2;  p -= lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)
    SGD      b = mu b + g;  p -= lr b      (nesterov: p -= lr (g + mu b))
    clip     norm = sqrt(sum of g^2);  g *= min(max_norm / (norm + 1e-6), 1)
    unscale  g /= scale, or 0 where any g is not finite; the scale grows or falls

Shapes      lists of arrays of any shape; lr, step, norm, scale and flags are 0-dimensional
Plan        the parameters, end to end, are shared out by element, so that threads have equal work whatever the shapes;
            a kernel is called for each parameter's part of a piece. clip: sums of SPAN elements, added in order.
            A step that is not taken returns at once: here the flag is in the host's own memory
Cost        Adam 28 bytes a parameter (reads p, g, m, v; writes p, m, v), SGD 12 (20 with momentum), clip 12, or 4 where
            nothing is cut, unscale 8. Memory decides, before the two divisions and the root
Precision   no operation is contracted or reordered: p, m and v have the bits of core/reference/optim.py. The norm is
            summed in float64, over the same spans whatever the number of threads
Versions    NumPy's own loops pass over memory a dozen times
Limits      float32; arrays of another layout are copied, and copied back where they change

# why: docs/kernels/others.md
# next: kernels/gpu/common.py
"""

import functools
from itertools import accumulate

import numpy as np

from core.runtime.threads import share
from kernels.cpu.common import DOUBLE, INDEX, REAL, SUMS, const, f32, floats, kernel, out

GRAIN = 1 << 16  # elements below which a second thread costs more than it brings
SPAN = 1 << 16  # elements whose squares are one sum


@kernel(out(1), const(1), out(1), out(1), *[REAL] * 8, fastmath=())
def _adam(p, g, m, v, rate, root, shrink, decay, new1, new2, b2, eps):
    """One step on a part of a parameter; new1 = 1 - b1, new2 = 1 - b2."""
    for i in range(p.size):
        old = p[i] * shrink
        slope = g[i] + decay * p[i] if decay != f32(0) else g[i]
        m[i] += (slope - m[i]) * new1
        v[i] = v[i] * b2 + slope * slope * new2
        p[i] = old - rate * m[i] / (np.sqrt(v[i]) / root + eps)


@kernel(out(1), const(1), out(1), *[REAL] * 4, fastmath=())
def _sgd(p, g, b, rate, momentum, decay, ahead):
    """One step on a part of a parameter; ahead is the momentum where it is Nesterov's, else 0."""
    for i in range(p.size):
        slope = g[i] + decay * p[i] if decay != f32(0) else g[i]
        if momentum != f32(0):
            b[i] = b[i] * momentum + slope
            slope = slope + ahead * b[i] if ahead != f32(0) else b[i]
        p[i] -= rate * slope


@kernel(const(1), out(1, DOUBLE), INDEX, fastmath=SUMS)
def _squares(g, sums, span):
    """sums[span] += the squares of g."""
    total = 0.0
    for i in range(g.size):
        total += np.float64(g[i]) * np.float64(g[i])
    sums[span] += total


@kernel(out(1), REAL)
def _scale(g, factor):
    for i in range(g.size):
        g[i] *= factor


@kernel(out(1), REAL, out(1, DOUBLE), INDEX)
def _unscale(g, factor, counts, span):
    """g *= factor; counts[span] += how many are not finite then."""
    bad = 0
    for i in range(g.size):
        g[i] *= factor
        bad += 0 if abs(g[i]) < f32(np.inf) else 1
    counts[span] += bad


class Flat:
    """Lists of arrays, one list a role, as flat float32 arrays: the given memory where it can be had."""

    def __init__(self, *roles):
        self.roles = roles
        self.flat = [[floats(a).reshape(-1) for a in role] for role in roles]
        self.sizes = tuple(a.size for a in roles[0])
        self.size = sum(self.sizes)

    def parts(self, start, stop):
        """What lies in [start, stop) of all elements end to end: one array of each role, parameter by parameter."""
        for i, first, end in _inside(self.sizes, start, stop):
            yield [role[i][first:end] for role in self.flat]

    def each(self, loop, *numbers):
        """loop(arrays of the roles, numbers) on all elements."""

        def piece(start, stop):
            for arrays in self.parts(start, stop):
                loop(*arrays, *numbers)

        share(piece, self.size, GRAIN)

    def spans(self, loop, *numbers):
        """What loop(array of the first role, numbers, sums, span) adds up, a sum for every SPAN elements."""
        sums = np.zeros(-(-self.size // SPAN))

        def piece(start, stop):
            for span in range(start, stop):
                for g, *_ in self.parts(span * SPAN, (span + 1) * SPAN):
                    loop(g, *numbers, sums, span)

        share(piece, sums.size)
        return sums

    def write_back(self, *changed):
        """The results of these roles to the arrays that had to be copied."""
        for role in changed:
            for array, flat in zip(self.roles[role], self.flat[role]):
                if not np.may_share_memory(array, flat):
                    array[...] = flat.reshape(array.shape)


@functools.lru_cache(maxsize=1024)
def _inside(sizes, start, stop):
    """(array, first, end) of the arrays that [start, stop) touches, when they lie end to end."""
    begins = [0, *accumulate(sizes)]
    spans = [(i, max(start - b, 0), min(stop - b, size)) for i, (b, size) in enumerate(zip(begins, sizes))]
    return [(i, first, end) for i, first, end in spans if first < end]


def _with_gradient(grads, *roles):
    """The lists without the arrays that have no gradient."""
    return [[a for a, g in zip(role, grads) if g is not None] for role in roles]


def adam_(params, grads, ms, vs, lr, step, taken=None, *, betas, eps, weight_decay, decoupled):
    """One step on lists of parameters; `step` counts this one already. Where a gradient is None nothing moves."""
    if taken is not None and not taken:
        return
    b1, b2 = betas
    lists = Flat(*_with_gradient(grads, params, grads, ms, vs))
    rate, root = lr / (1 - b1**step), np.sqrt(1 - b2**step)
    shrink, decay = (1 - lr * weight_decay, 0) if decoupled else (1, weight_decay)
    lists.each(_adam, *map(f32, (rate, root, shrink, decay, 1 - b1, 1 - b2, b2, eps)))
    lists.write_back(0, 2, 3)


def sgd_(params, grads, buffers, lr, taken=None, *, momentum, weight_decay, nesterov):
    """One step of gradient descent; buffers that start at zero make the first step's momentum g itself, as in torch."""
    if taken is not None and not taken:
        return
    lists = Flat(*_with_gradient(grads, params, grads, buffers))
    lists.each(_sgd, *map(f32, (lr, momentum, weight_decay, momentum if nesterov else 0)))
    lists.write_back(0, 2)


def clip_grad_norm_(grads, *, max_norm):
    """Scale all gradients in place so that their joint 2-norm is at most max_norm; returns the norm before."""
    lists = Flat(grads)
    norm = np.sqrt(np.sum(lists.spans(_squares)))
    factor = f32(np.minimum(max_norm / (norm + 1e-6), 1))
    if factor != 1:  # nan too
        lists.each(_scale, factor)
        lists.write_back(0)
    return norm


def unscale_(grads, scale, good, taken, *, growth, backoff, interval):
    """Divide all gradients by `scale` in place, or make them 0 where one is not finite; `taken` becomes 1, or 0."""
    lists = Flat(grads)
    finite = not lists.spans(_unscale, f32(1 / scale)).any()
    if not finite:
        for g in lists.flat[0]:
            g.fill(0)
    lists.write_back(0)
    taken[...] = finite
    good[...] = good + 1 if finite else 0
    grown = good >= interval and np.isfinite(scale * growth)
    scale *= f32((growth if grown else 1) if finite else backoff)
    good[...] = 0 if good >= interval else good
