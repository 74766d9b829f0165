"""The sampling step of a VAE, its noise given."""

import torch

from bench.parity.cases.inputs import Case, F, normal
from bench.parity.cases.variational import PAIR

CASES = [
    Case(
        "reparameterize/noise-given",
        lambda m, v, n: F.reparameterize(m, v, noise=n),
        lambda m, v, n: m + torch.exp(0.5 * v) * n,
        (*PAIR, normal(4, 3)),
        fixed=(2,),
    ),
    Case(  # more than a kernel's block, the last one partial
        "reparameterize/noise-given-many",
        lambda m, v, n: F.reparameterize(m, v, noise=n),
        lambda m, v, n: m + torch.exp(0.5 * v) * n,
        (normal(5, 9), normal(5, 9), normal(5, 9)),
        fixed=(2,),
    ),
]
