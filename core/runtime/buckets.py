"""Gradients on their way: parameters share a few flat buckets, each summed over the ranks as soon as it is full.

The backward pass finishes the last layers' gradients first, so buckets are filled from the last parameter to the first,
and a bucket's sum begins while earlier layers are still going back. Every gradient that arrives also moves the sums on
their way a step further: MPI makes progress only while it is called. A gradient ends as a view of its bucket.

# next: models/training/objective.py, which cuts a batch into parts and fills the buckets
"""

import itertools

import numpy as np

from core.arrays import array_module
from core.engine import accumulate

COUNT = 4  # buckets of a large model
LEAST = 1 << 18  # bytes of a bucket: below, a message costs more for being one than for its length


class Bucket:
    """Some parameters, the memory of their gradients, and its sum over the ranks."""

    def __init__(self, group, parameters):
        xp, size = array_module(parameters[0].data), sum(p.size for p in parameters)
        self.flat, self.views, start = xp.zeros(size, parameters[0].dtype), {}, 0
        for p in parameters:
            self.views[p] = self.flat[start : start + p.size].reshape(p.shape)
            start += p.size
        self.left: set = set()  # whose gradients have not come in this step
        self.sum, self.begun = group.sum_of(self.flat), False

    def begin(self):
        """Sum them: every gradient is here."""
        self.sum.begin()
        self.begun = True

    def add(self, p):
        """`p.grad` is complete: it moves here."""
        view = self.views[p]
        view[...] = p.grad
        p.grad = view
        self.left.discard(p)


class Buckets:
    """The buckets of some parameters, in a process group of several ranks."""

    def __init__(self, group, parameters):
        self.group = group
        self.buckets = [Bucket(group, members) for members in _groups(list(parameters)[::-1])]
        self.home = {p: bucket for bucket in self.buckets for p in bucket.views}

    def begin(self):
        """Before a backward pass that sums the last part's gradients."""
        for bucket in self.buckets:
            bucket.left, bucket.begun = set(bucket.views), False

    def on_leaf_grad(self, leaf, gradient, owned):
        """The gradient of a leaf, complete but for what it has been given before: its bucket may be full now."""
        accumulate([(leaf, gradient, owned)])
        if leaf in self.home:
            self.home[leaf].add(leaf)
        if self.group.overlap:
            self._go_on()

    def _go_on(self):
        """Begin the sums of full buckets, in the buckets' order on every rank, and advance those that have begun."""
        for bucket in self.buckets:
            if bucket.begun:
                bucket.sum.advance()
            elif bucket.left:
                break
            else:
                bucket.begin()

    def finish(self, values) -> list:
        """Wait until every gradient is the sum over the ranks; `values`, 0-dimensional arrays, are summed as well."""
        for bucket in self.buckets:
            for p in list(bucket.left):
                if p.grad is not None:
                    bucket.add(p)
                else:  # no rank has one: they have all taken the same steps
                    bucket.views[p][...] = 0
        numbers = array_module(*values).empty(len(values), np.float64)  # a stack of CuPy's asks the host
        for i, value in enumerate(values):
            numbers[i] = value
        for bucket in self.buckets:
            if not bucket.begun:
                bucket.begin()
        last = self.group.sum_of(numbers).begin()
        for one in (*(bucket.sum for bucket in self.buckets), last):
            one.finish()
        return list(numbers)


def mean_(group, arrays):
    """Make small arrays their mean over the ranks, all in one exchange."""
    if arrays:
        edges = np.cumsum([0, *(array.size for array in arrays)]).tolist()
        flat = array_module(*arrays).empty(edges[-1], arrays[0].dtype)
        pieces = [flat[a:b] for a, b in itertools.pairwise(edges)]
        for piece, array in zip(pieces, arrays):
            piece[...] = array
        group.sum_(flat)
        flat /= group.size
        for piece, array in zip(pieces, arrays):
            array[...] = piece


def _groups(parameters):
    """Contiguous groups of at most a COUNT-th of all bytes, about, and of one dtype each."""
    most = max(LEAST, sum(p.data.nbytes for p in parameters) // COUNT)
    groups: list = []
    for p in parameters:
        if not groups or groups[-1][-1].dtype != p.dtype or sum(q.data.nbytes for q in groups[-1]) >= most:
            groups.append([])
        groups[-1].append(p)
    return groups
