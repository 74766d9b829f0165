"""What all counterparts share: weights from a trainer of ours, dropout that can be fed masks, optimisers, schedules."""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from core import interop
from core.arrays import is_cupy


def channels_first(x):
    """(N, H, W, C) -> (N, C, H, W); anything else as it is."""
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def channels_last(x):
    """(N, C, H, W) -> (N, H, W, C); anything else as it is."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def host(array):
    """An array of a trainer's, wherever it lies, as NumPy has it."""
    return array.get() if is_cupy(array) else array


class Dropout(nn.Module):
    """nn.Dropout, unless `draws` holds the masks to use (True = kept, images channels last)."""

    draws: Iterator | None = None

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        if self.draws is None or not self.training or not self.p:
            return F.dropout(x, self.p, self.training)
        mask = channels_first(torch.as_tensor(host(next(self.draws)))).to(x.device)
        return x * mask / (1 - self.p)


class Counterpart:
    """One training step of a model in PyTorch. Subclasses say what the modules are and what a step does.

    On a GPU ("cuda") weights, moments and draws lie there. `capturable` keeps the learning rate and the count of steps
    there too, as a step in a CUDA graph wants it; train_step then reads nothing that the host has to change. `scale`:
    what torch.amp.GradScaler begins with, and then forward passes and losses are torch.autocast's in float16; None:
    neither. One scaler serves all losses, as PyTorch's documentation has it.
    """

    METRICS: tuple
    PARTS: tuple  # methods from a batch to a loss: what torch.compile is for
    model: nn.Module

    def __init__(
        self,
        trainer,
        dtype=torch.float32,
        memory_format=torch.contiguous_format,
        fused=False,
        device="cpu",
        capturable=False,
        scale=None,
    ):
        self.config, self.dtype, self.device = trainer.config, dtype, device
        self.adam = {"fused": fused, "capturable": capturable}
        self.scaler = torch.amp.GradScaler(device, init_scale=scale or 1.0, enabled=scale is not None)
        self.model = self.build(trainer)
        self.load(trainer.model.state_dict())
        self.model.to(device, dtype)
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

    def rate(self, lr):
        """A learning rate as the optimisers take it: on the device where steps are captured."""
        return torch.tensor(lr, device=self.device) if self.adam["capturable"] else lr

    def autocast(self):
        """Around a forward pass and its loss: float16 where there is a scale, else what was there before."""
        return torch.autocast(self.device, torch.float16) if self.scaler.is_enabled() else contextlib.nullcontext()

    def backward(self, name, loss):
        """New gradients, scaled if there is a scale, of what this optimiser moves."""
        self.optimizers[name].zero_grad()
        self.scaler.scale(loss).backward()

    def descend(self, name, loss):
        """A step of this optimiser; the loss. A fused one divides by the scale itself, or stays where it is after an
        overflow, without the host's knowing: so this can be captured, when a few steps have been taken before."""
        self.backward(name, loss)
        self.scaler.step(self.optimizers[name])
        return loss.detach()

    def train_step(self, *batch) -> tuple:
        """Forward, backward and optimiser steps; the losses, one per METRICS."""
        raise TypeError(f"{type(self).__name__} has no step")

    def load(self, state: dict):
        """Weights from a state_dict of ours."""
        arrays = interop.to_torch_state_dict({name: host(a) for name, a in state.items()})
        self.model.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in arrays.items()})

    def restart(self, state: dict):
        """These weights, moments of zero and no step taken, all in the memory that is there: a graph points to it."""
        self.load(state)
        for optimizer in self.optimizers.values():
            for moments in optimizer.state.values():
                for tensor in moments.values():
                    tensor.zero_()

    def state(self) -> dict:
        """The weights as a state_dict of ours."""
        return interop.from_torch_state_dict({name: t.detach().cpu() for name, t in self.model.state_dict().items()})

    def gradients(self) -> dict:
        """{name: gradient in our layout} of the parameters that have one."""
        grads = {name: p.grad.cpu() for name, p in self.model.named_parameters() if p.grad is not None}
        return interop.from_torch_state_dict(grads)

    def tensor(self, array):
        """An array as torch has it: floating ones in this counterpart's dtype, images channels first."""
        x = torch.as_tensor(host(array))
        x = x.to(self.device, self.dtype) if x.is_floating_point() else x.to(self.device)
        return channels_first(x).contiguous(memory_format=self.format) if x.ndim == 4 else x

    def feed(self, draws):
        """Use these draws, in order, where the model would draw; None: draw."""
        self.draws = None if draws is None else iter(draws)
        for module in self.model.modules():
            if isinstance(module, Dropout):
                module.draws = self.draws

    def normal(self, *shape):
        """The next draw, or standard normals of torch's own."""
        if self.draws is None:
            return torch.randn(shape, dtype=self.dtype, device=self.device)
        return self.tensor(next(self.draws))

    def step(self, batch, draws=None) -> dict:
        """One training step on a batch of ours; the losses as floats."""
        self.feed(draws)
        losses = self.advance(*(self.tensor(a) for a in batch))
        if self.draws is not None and next(self.draws, None) is not None:
            raise ValueError(f"{type(self).__name__}: draws are left over: the counterpart drew less than we did")
        return dict(zip(self.METRICS, (float(x) for x in losses)))

    def advance(self, *inputs) -> tuple:
        """One training step on tensors; the losses, without waiting for them. The schedules are the host's affair."""
        losses = self.train_step(*inputs)
        for plan in self.schedules.values():
            plan.step()
        return losses


def schedule(optimizer, lr):
    """lr(step), where `step` counts those already taken."""
    base = float(optimizer.defaults["lr"])
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr(step) / base)


def cosine(lr, total, warmup=0, floor=0.0):
    """A linear rise, then half a cosine down to `floor`."""

    def at(step):
        rise = min((step + 1) / warmup, 1.0) if warmup else 1.0
        done = min(max((step - warmup) / max(total - warmup, 1), 0.0), 1.0)
        return rise * (floor + (lr - floor) * (1 + math.cos(math.pi * done)) / 2)

    return at
