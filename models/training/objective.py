"""A loss that a trainer minimises: between the lines of a model's `train_step` and the gradient of a whole batch.

A batch is cut three times: ranks take their examples of it (core/runtime/distributed.py), micro-batches follow each
other so that one's tensors are held at a time, and threads share the examples of a micro-batch. A model says what the
loss of some examples is; here the gradients of all are added up.

    objective = self.objective("loss", parameters)
    for batch in objective.micro_batches(images, labels):    # one, unless the trainer is told to accumulate
        losses = objective.on_threads(self.loss, *batch)     # the loss of each thread's examples
        objective.backward(*losses)                          # added to `.grad`; after the last, summed over the ranks
    optimizer.step(objective.unscale_())

# next: core/runtime/parallel.py, the threads; core/runtime/buckets.py, the ranks; optim.LossScale
"""

from itertools import pairwise

import numpy as np

from core import random
from core.arrays import array_module
from core.runtime import parallel


class Objective:
    """One step's way to the gradient of one loss, in `parameters`, of a batch of `batch` examples, all ranks' together.

    accumulate: how many micro-batches a rank's examples are taken in. scale: an optim.LossScale, or None. buckets:
    those of the parameters (core/runtime/buckets.py), or None of one rank.
    `losses`: after the last `backward`, those of the whole batch, 0-dimensional arrays."""

    def __init__(self, parameters, batch: int, accumulate: int = 1, scale=None, buckets=None):
        self.parameters, self.batch, self.accumulate = parameters, batch, accumulate
        self.scale, self.buckets = scale, buckets
        self.examples, self.left = 0, accumulate  # of the micro-batch; micro-batches that have not gone backward
        self.parts: list = []  # the weighted losses of each part so far
        self.losses: list = []

    def micro_batches(self, *arrays):
        """Equal parts of this rank's examples, one after the other, as tuples of arrays; None stays None.

        Each draws the random numbers that its examples have in the whole batch."""
        if self.buckets:
            self.buckets.begin()
        generator, n = random.current(), len(arrays[0])
        draw, share = generator.draw, generator.share
        for start, stop in pairwise(parallel.edges(n, self.accumulate)):
            if self.accumulate > 1:
                first = share[0] if share else 0
                generator.draw, generator.share = draw, (first + start, first + stop)
            self.examples = stop - start
            yield tuple(a if a is None else a[start:stop] for a in arrays)
        generator.share = share

    def on_threads(self, loss, *arrays) -> list:
        """loss(*arrays) of some of the examples in each thread: for models that compute nothing across the batch."""
        return parallel.forward(loss, *arrays)

    def backward(self, *losses, weight=None):
        """Add the gradient of a micro-batch's loss to `.grad`; the last micro-batch's ends with the sum over the ranks.

        losses: one, or one for each thread; each is a Tensor, or a tuple of what is minimised and others to be told.
        weight: of a sum, what each term counts; by default losses are means, and count as their share of the batch."""
        self.left -= 1
        several = [loss if isinstance(loss, tuple) else (loss,) for loss in losses]
        cuts = pairwise(parallel.edges(self.examples, len(losses)))
        weights = [(b - a) / self.batch if weight is None else weight for a, b in cuts]
        overlap = self.buckets and not self.left and len(losses) == 1  # nothing is added to a gradient after this
        minimised = [loss[0] for loss in several]
        dys = [self._dy(loss, w) for loss, w in zip(minimised, weights)]
        parallel.backward(minimised, dys, self.buckets.on_leaf_grad if overlap else None)
        self.parts += [[t.data * w for t in tensors] for tensors, w in zip(several, weights)]
        if not self.left:
            self.losses = [sum(of_parts) for of_parts in zip(*self.parts)]
            self.losses = self.buckets.finish(self.losses) if self.buckets else self.losses

    def _dy(self, loss, weight):
        """What the gradient of a part's loss begins with: its weight, times the loss scale."""
        dy = array_module(loss.data).full((), weight, np.float64)
        return dy * self.scale.scale if self.scale else dy

    def unscale_(self):
        """Divide the gradients by the scale; what `Optimizer.step` takes: None, or a flag, 0 after an overflow."""
        return self.scale.unscale_(self.parameters) if self.scale else None
