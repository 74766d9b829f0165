"""Generators: who draws next, and with which numbers.

A Generator is a seed, a `step` (a 0-dimensional array on the device, advanced once a training step, so that a captured
step draws anew each time it is replayed) and a `draw` (a host integer that counts the draws inside a step). The
numbers themselves are a pure function of these, see core/reference/random.py.
"""

import contextlib
import copy
import math
import threading
from contextvars import ContextVar

import numpy as np

from core import arrays, check, dispatch
from core.engine import scoped
from core.reference import random as reference


class Generator:
    """Generator(seed, device): a stream of random draws. `with generator:` makes it the current one.

    Like `no_grad` and `use`, that holds for the thread it is said in; a new thread starts without. One generator
    serves one thread at a time.
    """

    def __init__(self, seed: int = 0, device: str = "cpu"):
        if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed < 2**64:
            raise ValueError(f"Generator: seed is {seed!r}, should be an integer in [0, 2^64)")
        self.seed, self.draw = int(seed), 0
        self.share: tuple | None = None  # (start, stop): it draws for these examples of a batch only
        self.xp = arrays.module_for(device)
        self.step = self.xp.zeros((), np.int64)

    def next(self) -> dict:
        """The arguments of the next draw: seed, draw and the step array."""
        draw, self.draw = self.draw, self.draw + 1
        return {"seed": self.seed, "draw": draw, "step": self.step}

    def offset(self, shape) -> int:
        """The number of the first element of a draw of `shape`: in a part of a batch, where it lies in the whole."""
        if self.share is None:
            return 0
        start, stop = self.share
        if not shape or shape[0] != stop - start:
            raise ValueError(f"a part of a batch draws numbers of shape {shape}, should have its examples first")
        return start * math.prod(shape[1:])

    def part(self, start: int, stop: int) -> "Generator":
        """A generator that draws what examples start to stop have when the whole batch draws."""
        part = copy.copy(self)
        part.share = (start, stop)
        return part

    def advance_(self):
        """End a training step: draws restart at 0 under the next step number."""
        dispatch.run_("advance_", self.step)
        self.draw = 0

    def __enter__(self):
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(self, *error):
        _entered.set(_entered.get()[:-1])


_default = Generator()
_lock = threading.Lock()
_entered: ContextVar[tuple] = ContextVar("entered", default=())  # generators in use, the current one last
_draws: ContextVar[list | None] = ContextVar("draws", default=None)


def manual_seed(seed: int) -> Generator:
    """Restart the default generator from `seed`, and return it."""
    global _default
    with _lock:
        _default = Generator(seed)
    return _default


def current() -> Generator:
    return _entered.get()[-1] if _entered.get() else _default


@contextlib.contextmanager
def record():
    """`with core.random.record() as draws:` collects every draw made inside, in order, as arrays.

    Dropout masks are boolean (True = kept), normals and uniforms floating: enough to feed a PyTorch counterpart."""
    draws: list = []
    with scoped((_draws, draws)):
        yield draws


def _recorded(x):
    draws = _draws.get()
    if draws is not None:
        draws.append(x)
    return x


def recording() -> bool:
    """Whether draws are being recorded, which needs them one after the other."""
    return _draws.get() is not None


def _next(shape) -> dict:
    """The arguments of the current generator's next draw, which has this shape."""
    generator = current()
    offset = generator.offset(shape)
    return {**generator.next(), **({"offset": offset} if offset else {})}


def _run(name, shape, *arguments, seed, draw, step, **attrs):
    return _recorded(dispatch.run_(name, shape, *arguments, seed, draw, step, **attrs))


def normal(shape, dtype=np.float32):
    """Standard normals of the current generator, as an array of `shape`."""
    shape, dtype = check.shape("normal", shape), check.real_dtype("normal", "dtype", dtype, "f")
    return _run("normal", shape, **_next(shape), dtype=dtype)


def uniform(shape, dtype=np.float32):
    """Uniform numbers in [0, 1) of the current generator, as an array of `shape`."""
    shape, dtype = check.shape("uniform", shape), check.real_dtype("uniform", "dtype", dtype, "f")
    return _run("uniform", shape, **_next(shape), dtype=dtype)


def dropout_draw(shape, p: float, mask=None):
    """What an operation with dropout needs: (mask or None, step or None, {"seed", "draw"}).

    The mask is left to the operation, which may draw it in registers, unless it is given, recorded, or of a part."""
    if mask is not None or p == 0:
        return mask, None, {"seed": 0, "draw": 0}
    key = _next(shape)
    if recording() or current().share:
        return _run("keep_mask", shape, p, **key), None, {"seed": 0, "draw": 0}
    return None, key.pop("step"), key


def normal_draw(shape, dtype, noise=None):
    """What an operation with noise needs: (noise or None, step or None, {"seed", "draw"}).

    Unless it is given or of a part, the operation draws it, in registers where it can; `record` sees the same numbers.
    """
    if noise is not None:
        return noise, None, {"seed": 0, "draw": 0}
    key = _next(shape)
    if current().share:
        return _run("normal", shape, **key, dtype=np.dtype(dtype)), None, {"seed": 0, "draw": 0}
    if recording():
        _run("normal", shape, **key, dtype=np.dtype(dtype))
    return None, key.pop("step"), key


def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """A shuffle of range(n) that depends on (seed, epoch) alone: the order of one epoch's examples, on the host."""
    keys = reference.words(2 * n, seed, 0xFFFFFFFF, np.asarray(epoch)).view(np.uint64)  # a draw no step reaches
    return np.argsort(keys, kind="stable")
