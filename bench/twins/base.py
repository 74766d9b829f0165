"""What all twins share: weights from a trainer of ours, dropout that can be fed masks, optimisers, schedules."""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from core import interop


def channels_first(x):
    """(N, H, W, C) -> (N, C, H, W); anything else as it is."""
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def channels_last(x):
    """(N, C, H, W) -> (N, H, W, C); anything else as it is."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


class Dropout(nn.Module):
    """nn.Dropout, unless `draws` holds the masks to use (True = kept, images channels last)."""

    draws: Iterator | None = None

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        if self.draws is None or not self.training or not self.p:
            return F.dropout(x, self.p, self.training)
        mask = channels_first(torch.as_tensor(next(self.draws)))
        return x * mask / (1 - self.p)


class Twin:
    """One training step of a model in PyTorch. Subclasses say what the modules are and what a step does."""

    METRICS: tuple
    model: nn.Module

    def __init__(self, trainer, dtype=torch.float32, memory_format=torch.contiguous_format, fused=False):
        self.config, self.dtype, self.fused = trainer.config, dtype, fused
        self.model = self.build(trainer)
        self.load(trainer.model.state_dict())
        self.model.to(dtype)
        self.format = memory_format
        for p in self.model.parameters():
            if p.ndim == 4:
                p.data = p.data.contiguous(memory_format=memory_format)
        self.optimizers, self.schedules = self.optimisation()
        self.draws: Iterator | None = None

    def build(self, trainer) -> nn.Module:
        raise TypeError(f"{type(self).__name__} builds no model")

    def optimisation(self) -> tuple:
        """(optimizers, schedules)"""
        raise TypeError(f"{type(self).__name__} has no optimisers")

    def train_step(self, *batch) -> tuple:
        """Forward, backward and optimiser steps; the losses, one per METRICS."""
        raise TypeError(f"{type(self).__name__} has no step")

    def load(self, state: dict):
        """Weights from a state_dict of ours."""
        arrays = interop.to_torch_state_dict(state)
        self.model.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in arrays.items()})

    def state(self) -> dict:
        """The weights as a state_dict of ours."""
        return interop.from_torch_state_dict({name: t.detach() for name, t in self.model.state_dict().items()})

    def gradients(self) -> dict:
        """{name: gradient in our layout} of the parameters that have one."""
        grads = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        return interop.from_torch_state_dict(grads)

    def tensor(self, array):
        """An array as torch has it: floating ones in this twin's dtype, images channels first."""
        x = torch.as_tensor(array)
        x = x.to(self.dtype) if x.is_floating_point() else x
        return channels_first(x).contiguous(memory_format=self.format) if x.ndim == 4 else x

    def feed(self, draws):
        """Use these draws, in order, where the model would draw; None: draw."""
        self.draws = None if draws is None else iter(draws)
        for module in self.model.modules():
            if isinstance(module, Dropout):
                module.draws = self.draws

    def normal(self, *shape):
        """The next draw, or standard normals of torch's own."""
        return torch.randn(shape, dtype=self.dtype) if self.draws is None else self.tensor(next(self.draws))

    def step(self, batch, draws=None) -> dict:
        """One training step on a batch of ours; the losses as floats."""
        self.feed(draws)
        losses = self.train_step(*(self.tensor(a) for a in batch))
        if self.draws is not None and next(self.draws, None) is not None:
            raise ValueError(f"{type(self).__name__}: draws are left over: the twin drew less than we did")
        return dict(zip(self.METRICS, (float(x) for x in losses)))

    def update(self, optimizer):
        """Step one optimiser and its schedule."""
        self.optimizers[optimizer].step()
        self.schedules[optimizer].step()


def schedule(optimizer, lr):
    """lr(step), where `step` counts those already taken."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr(step) / optimizer.defaults["lr"])


def cosine(lr, total, warmup=0, floor=0.0):
    """A linear rise, then half a cosine down to `floor`."""

    def at(step):
        rise = min((step + 1) / warmup, 1.0) if warmup else 1.0
        done = min(max((step - warmup) / max(total - warmup, 1), 0.0), 1.0)
        return rise * (floor + (lr - floor) * (1 + math.cos(math.pi * done)) / 2)

    return at
