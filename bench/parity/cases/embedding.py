"""Rows of a table, and numbers as waves."""

import math

import torch
import torch.nn.functional as TF

from bench.parity.cases.inputs import Case, F, ids, normal, value


def timesteps(name, n, dim, max_period=10_000.0, make=None):
    """Ho et al. 2020, appendix B, cosines first, as Dhariwal & Nichol write it in PyTorch."""

    def theirs(t):
        frequencies = torch.exp(-math.log(max_period) * torch.arange(dim // 2, dtype=t.dtype) / (dim // 2)).to(t.device)
        angles = t[:, None] * frequencies
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)

    ours = lambda t: F.timestep_embedding(t, dim, max_period=max_period)
    make = make or (lambda rng: rng.integers(0, 1000, n).astype(float))
    return Case(f"timestep_embedding/{name}", ours, theirs, (make,))


CASES = [
    Case("embedding/repeated", lambda i, w: F.embedding(i, w), TF.embedding, (ids(5, 4, 6), normal(5, 3))),
    Case("embedding/0d", lambda i, w: F.embedding(i, w), TF.embedding, (value(2), normal(5, 3))),
    Case("embedding/empty", lambda i, w: F.embedding(i, w), TF.embedding, (value([], int), normal(5, 3))),
    Case("embedding/one-row-often", lambda i, w: F.embedding(i, w), TF.embedding, (ids(2, 3000), normal(3, 2))),
    timesteps("steps", 5, 8),
    timesteps("odd-half", 7, 6),
    timesteps("shortest", 3, 2),
    timesteps("many", 37, 70),
    timesteps("none", 0, 8),
    timesteps("short-periods", 4, 8, max_period=1.0),
    timesteps("between-steps", 5, 8, make=normal(5)),
]
