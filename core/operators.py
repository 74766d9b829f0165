"""What a Tensor can do: arithmetic, comparisons, indexing, shapes and reductions, each one operation of the table.

core/engine.py knows none of them. Loading this file attaches every method of `Operators` to Tensor, which
`from core import Tensor` and core.functional do.

# next: core/functional/__init__.py, the public functions
"""

import numbers
import operator

import numpy as np

from core import arrays, check
from core.dispatch import run
from core.engine import Tensor, operands, value


class Operators(Tensor):
    """The methods that are attached."""

    __slots__ = ()
    T = property(lambda self: self.transpose())

    def __len__(self):
        if not self.ndim:
            raise TypeError("len: the tensor is 0-dimensional, should have a first axis")
        return len(self.data)

    def __bool__(self):
        return bool(self.item())

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype=None, copy=None):
        if self.requires_grad:
            raise TypeError("a Tensor that requires a gradient does not turn into an array by itself: use .numpy()")
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **options):
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.data.__dlpack_device__()

    # Arithmetic, as NumPy broadcasts.
    def __add__(self, other):
        return run("add", self, other)

    def __sub__(self, other):
        return run("sub", self, other)

    def __rsub__(self, other):
        return run("sub", other, self)

    def __mul__(self, other):
        return run("mul", self, other)

    def __truediv__(self, other):
        return run("div", self, other)

    def __rtruediv__(self, other):
        return run("div", other, self)

    def __pow__(self, other):
        return run("pow", self, other)

    def __rpow__(self, other):
        return run("pow", other, self)

    def __neg__(self):
        return run("neg", self)

    def __abs__(self):
        return run("abs", self)

    def __matmul__(self, other):
        return run("matmul", self, other)

    def __rmatmul__(self, other):
        return run("matmul", other, self)

    __radd__, __rmul__ = __add__, __mul__

    # Comparisons give boolean tensors without a gradient. `==` is identity, so that tensors can be dictionary keys.
    def __eq__(self, other):
        if isinstance(other, numbers.Number | np.ndarray):
            raise TypeError("== between Tensors is identity; compare values by tensor.data == other")
        return self is other

    __hash__ = object.__hash__

    def __lt__(self, other):
        return _compare("lt", self, other)

    def __le__(self, other):
        return _compare("le", self, other)

    def __gt__(self, other):
        return _compare("gt", self, other)

    def __ge__(self, other):
        return _compare("ge", self, other)

    # Shapes.
    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        return run("getitem", self, index=tuple(_fixed(i) for i in parts))

    def reshape(self, *shape):
        return run("reshape", self, shape=check.sizes("reshape", "shape", _unpack(shape), -1))

    def transpose(self, *axes):
        axes = check.sizes("transpose", "axes", _unpack(axes), -self.ndim) or tuple(reversed(range(self.ndim)))
        return run("transpose", self, axes=axes)

    def astype(self, dtype):
        return run("astype", self, dtype=check.real_dtype("astype", "dtype", dtype))

    # Reductions.
    def sum(self, axis=None, keepdims=False):
        return _reduce("sum", self, axis, keepdims)

    def mean(self, axis=None, keepdims=False):
        return _reduce("mean", self, axis, keepdims)

    def max(self, axis=None, keepdims=False):
        return _reduce("max", self, axis, keepdims)

    def min(self, axis=None, keepdims=False):
        return _reduce("min", self, axis, keepdims)


def _reduce(name, x, axis, keepdims):
    check.flag(name, "keepdims", keepdims)
    return run(name, x, axis=check.axes(name, x, axis), keepdims=keepdims)


def _compare(name, x, other):
    if other is None:
        check.fail(name, "an operand", "None", "a Tensor, an array or a number", TypeError)
    _, y = operands(name, (x, other))
    try:
        return Tensor(getattr(operator, name)(x.data, y))
    except ValueError:
        raise ValueError(f"{name}: shapes {x.shape} and {y.shape} do not broadcast") from None


def _fixed(index):
    """One part of an index; an array is copied, since the gradient needs it as it was."""
    index = value(index)
    return index.copy() if hasattr(index, "dtype") and hasattr(index, "copy") else index


def _unpack(args):
    """f(2, 3) and f((2, 3)) mean the same."""
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], tuple | list) else tuple(args)


for _name, _method in vars(Operators).items():
    if _name not in ("__module__", "__doc__", "__slots__"):
        setattr(Tensor, _name, _method)


def from_dlpack(x) -> Tensor:
    """A Tensor on the memory of any array that speaks DLPack (a torch tensor, say), without a copy."""
    if not hasattr(x, "__dlpack_device__"):
        check.fail("from_dlpack", "x", f"a {type(x).__name__}", "an array that speaks DLPack", TypeError)
    kind, _ = x.__dlpack_device__()
    return Tensor(arrays.module_for("cpu" if kind == 1 else "cuda").from_dlpack(x))
