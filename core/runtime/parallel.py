"""A batch split over the cores: each thread takes a part through the whole model, and the gradients are added up.

Operations that are split one by one wait for each other at every end, and only the large ones are worth splitting. A
part of the batch needs no waiting, all of its arithmetic runs on its core, and its tensors stay in that core's cache.
It suits every model whose step takes no statistics across the batch (batch norm does). On a GPU, whose operations fill
it, and while draws are recorded, there is one part.

The same cut is made twice above that. A rank takes its examples of the whole batch (core/runtime/distributed.py), and
rounds one after the other take theirs of the rank's, so that no more than one round's tensors are held at a time.

A part draws the random numbers that its examples have in the whole batch, so that the split changes nothing but the
order in which gradients are added; that order is the parts', whatever the timing.
"""

from itertools import pairwise

import numpy as np

from core import random
from core.arrays import array_module
from core.engine import accumulate
from core.runtime import threads


def backward(losses, n: int, count: int, scale=None, *, first: int = 0, rounds: int = 1, ready=None) -> list:
    """Add the gradient of a loss of n examples to `.grad`, and give back the losses of all, as arrays.

    losses(start, stop) -> (scalar Tensors, weight) of examples start to stop: what is minimised, then any others, each
    of which counts `weight` times (a mean's share of the whole, or 1 over the count for a sum). `count` is the number
    of parts at a time, at most n and one on a GPU, `rounds` how often. `scale`: a 0-dimensional array by which the
    gradients are multiplied. Where the n examples are some of a larger batch, `first` is the number of the first there.
    `ready`: called as `on_leaf_grad` of engine.backward_pass, for the last round where that is one part: others add to
    the same gradients at once.
    """
    generator = random.current()
    if generator.xp is not np or random.recording():
        count = 1
    count = max(1, min(count, n // rounds))  # a part without examples would have a mean of nothing
    edges = [i * n // (count * rounds) for i in range(count * rounds + 1)]
    parts = [(_drawing(generator, first, a, b, n), a, b) for a, b in pairwise(edges)]
    values: list = []
    for i in range(0, len(parts), count):
        last = i + count == len(parts)
        values += _round(losses, scale, ready if last and count == 1 else None, parts[i : i + count])
    generator.draw = parts[0][0].draw  # each has made the whole batch's draws
    return [sum(of_parts) for of_parts in zip(*values)]


def _drawing(generator, first, start, stop, n):
    """Who draws for examples start to stop of n: the generator itself where nothing stands before or beside them."""
    alone = first == 0 and (start, stop) == (0, n)
    return generator if alone else generator.part(first + start, first + stop)


def _round(losses, scale, ready, parts) -> list:
    """Parts at the same time: their gradients are added up, their losses given back."""
    done = threads.run([lambda part=part: _work(losses, scale, ready, *part) for part in parts])
    for gradients, _ in done:
        accumulate(gradients)
    return [values for _, values in done]


def _work(losses, scale, ready, generator, start, stop):
    """(gradients, losses) of one part."""
    with generator:
        tensors, weight = losses(start, stop)
        dy = array_module(tensors[0].data).full((), weight, np.float64)
        dy = dy if scale is None else dy * scale
        return tensors[0].gradients(dy, on_leaf_grad=ready), [t.data * weight for t in tensors]
