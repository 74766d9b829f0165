"""The one contract that every differentiable operation keeps, on every backend.

    forward(*arrays, **attrs)              -> (y, saved)
    backward(saved, dy, needs, **attrs)    -> one gradient (or None) per input of forward

`y` is an array or a tuple of arrays; then `dy` is a tuple too, with None for outputs that nobody used. `saved` is a
tuple of arrays, plain host values and such tuples: what survives until the backward pass is a visible decision, so it
never holds a Tensor, a closure or a generator. `needs` says for each input whether its gradient is wanted.

Neither function writes to an array it was given. `backward` may return `dy`, a view of it, or one array for two
inputs, but nothing that is in `saved`: the engine adds in place into any gradient that nothing else refers to.

# why: docs/backward.md, one gradient from `y.backward()` to its kernel; docs/add-an-operation.md, a new one
# next: core/reference/pointwise.py, the simplest operations
"""

from collections.abc import Callable
from typing import NamedTuple


class Op(NamedTuple):
    """One implementation of one operation; reference, Numba and Triton ones are interchangeable."""

    name: str
    forward: Callable
    backward: Callable
    backend: str = "reference"
