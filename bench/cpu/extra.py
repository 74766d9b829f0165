"""Rows that are no cases of the accuracy test: an optimiser's step, which has no gradient, and dropout that draws its
own bits.

Beside torch's fused Adam and its dropout. An Adam step is checked against the float64 one written out below; of dropout
what can be compared is what it promises: each number is 0 or x / (1 - p), and about p of them are 0.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from core import Generator, Tensor, dispatch, optim
from core import functional as F

P = 0.1  # of dropout
LR, BETAS, EPS = 1e-3, (0.9, 0.999), 1e-8


class Timed(NamedTuple):
    """What is timed, as contenders.Run; without a backward pass `both` is None."""

    forward: Callable
    both: Callable | None = None


class Extra(NamedTuple):
    name: str
    make: Callable  # who -> Timed, or what is wrong with its answer
    moved: tuple  # bytes that forward, and both, must read and write
    passes: tuple


def _shapes(width, layers):
    """Parameters of a small GPT: many of one row, and matrices."""
    block = [(4 * width, width), (width, 4 * width), (3 * width, width), (width, width), *[(width,)] * 6, (4 * width,)]
    return block * layers


def _arrays(shapes, seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s, np.float32) for s in shapes]


def _adam(shapes):
    """Contenders of a step on parameters of these shapes, their first step checked."""

    def make(who):
        params, grads = _arrays(shapes, 1), _arrays(shapes, 2)
        expected = [p - LR * g / (np.abs(g) + EPS) for p, g in zip(params, (g.astype(np.float64) for g in grads))]
        step, read = (_torch_adam if who == "torch eager" else _our_adam)(params, grads, who)
        step()
        off = max(np.abs(a - e).max() for a, e in zip(read(), expected))
        return Timed(step) if off < 1e-6 else f"{who} is off by {off} after a step of Adam"

    return make


def _our_adam(arrays, grads, who):
    params = {str(i): Tensor(a, requires_grad=True) for i, a in enumerate(arrays)}
    for p, g in zip(params.values(), grads):
        p.grad = g
    adam = optim.Adam(params, LR, BETAS, EPS)

    def step():
        with dispatch.use("reference" if who == "reference" else "auto"):
            adam.step()

    return step, lambda: [p.data for p in params.values()]


def _torch_adam(arrays, grads, who):
    import torch

    params = [torch.from_numpy(a).requires_grad_() for a in arrays]
    for p, g in zip(params, grads):
        p.grad = torch.from_numpy(g)
    return torch.optim.Adam(params, LR, BETAS, EPS, fused=True).step, lambda: [p.detach().numpy() for p in params]


def _dropout(shape):
    def make(who):
        (x,), (dy,) = _arrays([shape], 1), _arrays([shape], 2)
        forward, both = (_torch_dropout if who == "torch eager" else _our_dropout)(x, dy, who)
        y, dx = both()
        kept = y != 0
        share = 1 - kept.mean()
        right = all(np.allclose(a[kept], b[kept] / (1 - P), rtol=1e-6) for a, b in ((y, x), (dx, dy)))
        bound = 6 * math.sqrt(P * (1 - P) / x.size)
        good = right and not dx[~kept].any() and abs(share - P) < bound
        return Timed(forward, both) if good else f"{who}: dropout left out {share} and is {right and 'right'} elsewhere"

    return make


def _our_dropout(x, dy, who):
    leaf, generator = Tensor(x, requires_grad=True), Generator(0)

    def forward():
        with generator, dispatch.use("reference" if who == "reference" else "auto"):
            return F.dropout(leaf, P)

    def both():
        leaf.grad = None
        y = forward()
        y.backward(dy)
        return y.data, leaf.grad

    return forward, both


def _torch_dropout(x, dy, who):
    import torch

    leaf, dy = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)
    forward = lambda: torch.nn.functional.dropout(leaf, P)

    def both():
        leaf.grad = None
        y = forward()
        y.backward(dy)
        return y.detach().numpy(), np.asarray(leaf.grad)

    return forward, both


def _bytes(shapes):
    return 4 * sum(map(math.prod, shapes))


GPT_SMALL, TOKENS = _shapes(256, 6), (4096, 256)
EXTRAS = {
    e.name: e
    for e in (
        Extra("adam/gpt-small", _adam(GPT_SMALL), (7 * _bytes(GPT_SMALL),), ("forward",)),
        Extra("dropout/gpt-small", _dropout(TOKENS), (2 * _bytes([TOKENS]), 4 * _bytes([TOKENS])), ("forward", "both")),
    )
}
