"""A minimal autograd engine on NumPy and CuPy arrays, and the reference of every operation built on it.

Names are loaded when they are first asked for (PEP 562), so that `import core.engine` loads the engine alone.

# next: core/engine.py, core/dispatch.py (who computes), core/reference (what is computed), core/functional (the public
# functions), core/nn.py and core/optim.py.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same for editors and type checkers
    from core import checkpoint, functional, interop, nn, optim, random
    from core.dispatch import KernelLimit, explain, use
    from core.engine import Tensor, no_grad
    from core.observe import AnomalyError, detect_anomaly
    from core.operators import from_dlpack
    from core.random import Generator, manual_seed

_HOME = {  # of each name, the module that holds it; operators are attached to Tensor where it is taken from here
    "AnomalyError": "observe",
    "Generator": "random",
    "KernelLimit": "dispatch",
    "Tensor": "operators",
    "detect_anomaly": "observe",
    "explain": "dispatch",
    "from_dlpack": "operators",
    "manual_seed": "random",
    "no_grad": "engine",
    "use": "dispatch",
}
_MODULES = ("checkpoint", "functional", "interop", "nn", "optim", "random")

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


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"core.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'core' has no attribute {name!r}")
    return getattr(importlib.import_module(f"core.{_HOME[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})
