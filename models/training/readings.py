"""The losses of a run's steps, read without making the device wait.

On the CPU a step's losses are there when it ends. On a GPU the host is ahead of the device, and reading them after
every step would stop it there each time: they are kept on the device, and fetched together every EVERY steps.
"""

import time

import numpy as np

EVERY = 20  # steps between two reads of a GPU's losses


class Readings:
    """Readings(trainer): `step(batches)` takes a training step on the next of them; `ready()` gives what can be told
    without a needless wait, `all()` everything: a list of (step, losses, seconds), each once, in order.

    On a GPU a step's seconds are the mean over the steps that were fetched with it.
    """

    def __init__(self, trainer):
        self.trainer, self.steps, self.waiting = trainer, trainer.steps, 0
        self.every = 1 if trainer.xp is np else EVERY
        self.kept = trainer.xp.empty((self.every, len(trainer.METRICS)), np.float32)
        self.known: list = []  # on the CPU: the losses of the last step
        self.began = time.perf_counter()

    def step(self, batches):
        if not self.waiting:
            self.began = time.perf_counter()
        if self.every == 1:
            self.known = [self.trainer.step(next(batches))]
        else:
            self.trainer.step(next(batches), read=False)
            self.kept[self.waiting] = self.trainer.losses
        self.steps, self.waiting = self.steps + 1, self.waiting + 1

    def ready(self):
        return self.all() if self.waiting == self.every else []

    def all(self):
        """Everything that was not told yet: waits for the device."""
        known = self.known if self.every == 1 else self._fetched()
        seconds = (time.perf_counter() - self.began) / max(self.waiting, 1)
        first, self.waiting, self.known = self.steps - self.waiting + 1, 0, []
        return [(first + i, losses, seconds) for i, losses in enumerate(known)]

    def _fetched(self):
        return [dict(zip(self.trainer.METRICS, row)) for row in self.kept[: self.waiting].tolist()]
