"""The same training in float32 PyTorch, five times, differing in nothing but rounding: how far torch parts from itself.

Each run is as right as the others. The first is torch as it comes; the others change the order of its sums (two
threads, another memory format or attention algorithm, the batch's examples permuted) or move every initial weight to
a neighbouring float32. What they disagree by is what nobody may hold against us. Where ours cuts its batch into parts
(tests/core/runtime/test_distributed.py) a sixth run does so too.
"""

import contextlib
import itertools

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.torch_models import COUNTERPARTS
from models.tokenizers import PAD

IMAGE_MODELS = ("gan", "vae", "diffusion")


class TorchRun:
    """One run: a counterpart in float32, and what is peculiar about the run."""

    def __init__(self, trainer, name, threads=1, permute=False, moved=False, other_algorithm=False):
        images = trainer.kind in IMAGE_MODELS
        options = {"memory_format": torch.channels_last} if other_algorithm and images else {}
        self.name, self.threads, self.permute = name, threads, permute
        self.math_attention = other_algorithm and not images
        self.counterpart = COUNTERPARTS[trainer.kind](trainer, **options)
        self.rng = np.random.default_rng(trainer.seed)
        if moved:
            self._move_weights()

    def _move_weights(self):
        """Every parameter one float32 up or down, at random."""
        for p in self.counterpart.model.parameters():
            up = self.rng.random(tuple(p.shape)) < 0.5
            w = p.detach().numpy()
            w[...] = np.where(up, np.nextafter(w, np.float32(np.inf)), np.nextafter(w, np.float32(-np.inf)))

    def step(self, batch, draws):
        """One training step; the losses."""
        if self.permute:
            order = self.rng.permutation(len(batch[0]))
            batch, draws = [a[order] for a in batch], [d[order] for d in draws]
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with sdpa_kernel(SDPBackend.MATH) if self.math_attention else contextlib.nullcontext():
                return self.counterpart.step(batch, draws)
        finally:
            torch.set_num_threads(before)


class CutRun(TorchRun):
    """A run that takes its batch in parts, one after the other, weighed as their mean is the whole batch's."""

    def __init__(self, trainer, parts):
        super().__init__(trainer, f"in {parts} parts")
        (name,) = self.counterpart.PARTS
        self.parts, self.whole = parts, getattr(self.counterpart, name)
        self.padded = trainer.kind == "seq2seq"
        setattr(self.counterpart, name, self.in_parts)

    def step(self, batch, draws):
        self.draws = draws
        return super().step(batch, draws)

    def in_parts(self, *inputs):
        """What the counterpart makes of a batch, part by part: a loss, or several."""
        batch = [x for x in inputs if x is not None]
        counted = batch[-1] != PAD if self.padded else torch.ones(len(batch[0]))
        edges = [i * len(batch[0]) // self.parts for i in range(self.parts + 1)]
        found = []
        for a, b in itertools.pairwise(edges):
            self.counterpart.feed([draw[a:b] for draw in self.draws])
            loss, share = self.whole(*(x[a:b] for x in batch)), counted[a:b].sum() / counted.sum()
            found.append([share * x for x in loss] if isinstance(loss, tuple) else [share * loss])
        sums = tuple(sum(column) for column in zip(*found))
        return sums if len(sums) > 1 else sums[0]


def torch_runs(trainer, parts=1) -> list[TorchRun]:
    """The five runs, from the trainer's weights as they are; where ours cuts its batch, one more that does."""
    other = "channels last" if trainer.kind in IMAGE_MODELS else "math attention"
    return [
        TorchRun(trainer, "1 thread"),
        TorchRun(trainer, "2 threads", threads=2),
        TorchRun(trainer, other, other_algorithm=True),
        TorchRun(trainer, "batch permuted", permute=True),
        TorchRun(trainer, "weights moved by an ulp", moved=True),
        *([CutRun(trainer, parts)] if parts > 1 else []),
    ]
