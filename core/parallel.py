"""A batch split over the cores: each thread takes a part through the whole model, and the gradients are added up.

Operations that are split one by one wait for each other at every end, and only the large ones are worth splitting. A
part of the batch needs no waiting, all of its arithmetic runs on its core, and its tensors stay in that core's cache.
It suits every model whose step takes no statistics across the batch (batch norm does). On a GPU, whose operations fill
it, and while draws are recorded, there is one part.

A part draws the random numbers that its examples have in the whole batch, so that the split changes nothing but the
order in which gradients are added; that order is the parts', whatever the timing.
"""

from itertools import pairwise

import numpy as np

from core import random, threads
from core.arrays import array_module
from core.graph import accumulate


def backward(losses, n: int, count: int, scale=None) -> list:
    """Add the gradient of a loss of n examples to `.grad`, and give back the losses of all, as arrays.

    losses(start, stop) -> (scalar Tensors, weight) of examples start to stop: what is minimised, then any others, each
    of which counts `weight` times (a mean's share of the whole, or 1 over the count for a sum). `count` is the number
    of parts, at most n, and one on a GPU. `scale`: a 0-dimensional array by which the gradients are multiplied.
    """
    generator = random.current()
    if generator.xp is not np or random.recording():
        count = 1
    count = max(1, min(count, n))  # a part without examples would have a mean of nothing

    def work(part, start, stop):
        with part:
            tensors, weight = losses(start, stop)
            dy = array_module(tensors[0].data).full((), weight, np.float64)
            dy = dy if scale is None else dy * scale
            return tensors[0].gradients(dy), [t.data * weight for t in tensors]

    edges = [i * n // count for i in range(count + 1)]
    parts = [(generator.part(a, b) if count > 1 else generator, a, b) for a, b in pairwise(edges)]
    done = threads.run([lambda part=part: work(*part) for part in parts])
    generator.draw = parts[0][0].draw  # each has made the whole batch's draws
    for gradients, _ in done:
        accumulate(gradients)
    return [sum(values) for values in zip(*(values for _, values in done))]
