"""A minimal autograd engine on NumPy and CuPy arrays, and the reference of every operation built on it.

# next: core/tensor.py, core/graph.py, core/dispatch.py (who computes), core/reference (what is computed),
# core/functional (the public functions), core/nn.py and core/optim.py.
"""

from core import checkpoint, functional, interop, nn, optim, random
from core.anomaly import AnomalyError, detect_anomaly
from core.dispatch import KernelLimit, explain, use
from core.graph import no_grad
from core.random import Generator, manual_seed
from core.tensor import Tensor, from_dlpack

__all__ = [
    "AnomalyError",
    "Generator",
    "KernelLimit",
    "Tensor",
    "checkpoint",
    "detect_anomaly",
    "explain",
    "from_dlpack",
    "functional",
    "interop",
    "manual_seed",
    "nn",
    "no_grad",
    "optim",
    "random",
    "use",
]
