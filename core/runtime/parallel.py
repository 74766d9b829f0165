"""A batch split over the cores: each thread takes a part through the whole model, and the gradients are added up.

Operations that are split one by one wait for each other at every end, and only the large ones are worth splitting. A
part of the batch needs no waiting, all of its arithmetic runs on its core, and its tensors stay in that core's cache.
It suits every model whose step takes no statistics across the batch (batch norm does). On a GPU, whose operations fill
it, and while draws are recorded, there is one part.

A part draws the random numbers that its examples have in the whole batch, so that the split changes nothing but the
order in which gradients are added; that order is the parts', whatever the timing.

# next: models/training/objective.py, which cuts a batch above that, and weighs what the parts give
"""

from itertools import pairwise

import numpy as np

from core import random
from core.engine import accumulate
from core.runtime import threads


def edges(n: int, count: int) -> list:
    """Where `count` parts of n examples begin and end: parts i and i + 1 meet at edge i + 1."""
    return [i * n // count for i in range(count + 1)]


def forward(function, *arrays) -> list:
    """function(*arrays) of a part of the examples in each thread, at the same time: what each gave, in order.

    Examples are the first axis of every array; None stands for an array that there is not."""
    generator, n = random.current(), len(arrays[0])
    single = generator.xp is not np or random.recording()
    count = 1 if single else max(1, min(threads.COUNT, n))  # a part without examples would have a mean of nothing
    if count == 1:
        return [function(*arrays)]
    first = generator.share[0] if generator.share else 0
    cuts = list(pairwise(edges(n, count)))
    generators = [generator.part(first + start, first + stop) for start, stop in cuts]

    def part(own, start, stop):
        with own:
            return function(*(a if a is None else a[start:stop] for a in arrays))

    results = threads.run([lambda g=g, cut=cut: part(g, *cut) for g, cut in zip(generators, cuts)])
    generator.draw = generators[0].draw  # each has made the whole batch's draws
    return results


def backward(losses, dys, on_leaf_grad=None):
    """Add the gradients of `losses`, Tensors with graphs of their own, to `.grad`: they go backward at the same time,
    and what they give is added in their order. dys: what each begins with. on_leaf_grad: as in `Tensor.gradients`, for
    one loss, since several add to the same gradients."""
    tasks = [lambda loss=loss, dy=dy: loss.gradients(dy, on_leaf_grad=on_leaf_grad) for loss, dy in zip(losses, dys)]
    for gradients in threads.run(tasks):
        accumulate(gradients)
