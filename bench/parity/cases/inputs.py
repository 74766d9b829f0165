"""What a case is, and the makers of its inputs.

A Case is one operation at one setting, written twice: on our Tensors and on torch's. Its inputs are made in float64 and
rounded to the dtype under test by whoever runs it. Makers are named for what they avoid: a gradient check by finite
differences may not step over a kink, so `away` keeps off zero and `distinct` keeps off ties.

Cases call our functions through `F`, so that `instead` can put another implementation in one's place.
"""

import contextlib
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as TF

import core.functional
from core import Tensor


class Functions:
    """core.functional, except for what `instead` has replaced."""

    def __init__(self):
        self.replaced: dict = {}

    def __getattr__(self, name):
        return self.replaced.get(name) or getattr(core.functional, name)


F = Functions()


@contextlib.contextmanager
def instead(name, function):
    """`with instead("attention", mine):` cases call `mine` where they would call core.functional.attention."""
    F.replaced[name] = function
    try:
        yield
    finally:
        del F.replaced[name]


class Case(NamedTuple):
    name: str  # "operation/what is special"
    ours: Callable  # Tensors (and integer or boolean arrays) -> a Tensor or a tuple of them
    torch: Callable  # the same on torch tensors, layouts converted inside
    make: tuple  # one maker per input
    fixed: tuple = ()  # positions of floating inputs that want no gradient: targets, noise, running statistics
    oracle: Callable | None = None  # instead of `torch` in float64, where torch's own formula loses digits even there
    smooth: bool = True  # False where finite differences mean nothing: ties, kinks, infinities, float32 inside
    options: dict = {}  # how a convolution or attention is called: the GPU's benches call other libraries' like this

    @property
    def op(self) -> str:
        """The operation that this case is about, as core/dispatch.py calls it."""
        return self.name.partition("/")[0]

    def arrays(self, dtype=np.float64, draw=0) -> list:
        """This case's inputs, the same on each call with the same `draw`; floating ones rounded to `dtype`."""
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), draw])
        made = [np.asarray(m(rng)) for m in self.make]
        return [a.astype(dtype) if a.dtype.kind == "f" else a for a in made]

    def needs_input_grad(self, arrays) -> list:
        """Which inputs get a gradient: the floating ones that are not fixed."""
        return [a.dtype.kind == "f" and i not in self.fixed for i, a in enumerate(arrays)]


def normal(*shape, scale=1.0, mean=0.0):
    return lambda rng: mean + scale * rng.standard_normal(shape)


def unit(*shape):
    """Uniform in [0, 1)."""
    return lambda rng: rng.random(shape)


def positive(*shape):
    return lambda rng: rng.uniform(0.3, 3.0, shape)


def away(*shape):
    """Both signs, at least 0.3 from zero."""
    return lambda rng: rng.uniform(0.3, 2.0, shape) * rng.choice([-1.0, 1.0], shape)


def distinct(*shape):
    """No two elements closer than 0.1."""
    return lambda rng: 0.1 * (rng.permutation(int(np.prod(shape))).reshape(shape) - np.prod(shape) // 2)


def whole(*shape):
    """Whole numbers: a sum of products of them, plus a `half`, stays at least 1/2 away from the kink at zero."""
    return lambda rng: rng.integers(-2, 3, shape).astype(float)


def half(*shape):
    return lambda rng: rng.integers(-2, 3, shape) + 0.5


def ids(limit, *shape):
    return lambda rng: rng.integers(0, limit, shape)


def coin(*shape, p=0.7):
    """Booleans, True with probability p."""
    return lambda rng: rng.random(shape) < p


def copied(statistics):
    """A copy to move in place, of our Tensor or of torch's."""
    return statistics.clone() if hasattr(statistics, "clone") else Tensor(statistics.data.copy())


def value(x, dtype=None):
    """Exactly this."""
    return lambda rng: np.array(x, dtype)


ACTS = {  # torch's activations, by the names of ours
    None: lambda x: x,
    "relu": torch.relu,
    "leaky_relu": lambda x: TF.leaky_relu(x, 0.01),
    "gelu": TF.gelu,
    "gelu_tanh": lambda x: TF.gelu(x, approximate="tanh"),
    "tanh": torch.tanh,
}


KINKED = ("relu", "leaky_relu")
