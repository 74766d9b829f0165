"""Tensor, and `apply`, which runs an operation and records it. Of one result, and without modes, apply is

    op, y, saved = dispatch.forward(name, [x.data for x in inputs], attrs)
    output = Tensor(y)
    if any(x.requires_grad for x in inputs):
        output._node, output.requires_grad = Node(op, name, attrs, saved, inputs, [output], False), True
    return output

# next: core/graph.py, the recorded operations and the walk back through them
"""

import numbers
import operator

import numpy as np

from core import anomaly, arrays, check, dispatch
from core.graph import Node, accumulate, grad_enabled, walk
from core.reference import pointwise, shape
from core.table import TABLE

OPERATORS = {*pointwise.OPS, *shape.MOVES, "matmul"}  # operations none of whose operands may be left out


class Tensor:
    """An array that may want a gradient.

    Tensor(array, requires_grad=False): `array` is a NumPy or CuPy array, a Tensor's `.data`, a number or a list
    (floats in Python become float32). `.grad` is an array of the same shape and dtype, or None.
    """

    __slots__ = ("data", "grad", "requires_grad", "_node", "_index", "_version", "__weakref__")
    __array_priority__ = 1000  # array + tensor reaches Tensor.__radd__
    __array_ufunc__ = None

    def __init__(self, array, requires_grad: bool = False):
        if isinstance(array, Tensor):
            check.fail("Tensor", "array", "a Tensor", "an array; tensor.detach() gives one without a graph", TypeError)
        self.data = arrays.as_array(array)
        if requires_grad and not arrays.is_float(self.data):
            raise TypeError(f"Tensor: only floating tensors can require gradients, this one is {self.data.dtype}")
        self.requires_grad = requires_grad
        self.grad = None
        self._node: Node | None = None
        self._index = 0
        self._version = [0]  # shared with views, advanced by in-place updates

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)
    device = property(lambda self: arrays.device_of(self.data))
    T = property(lambda self: self.transpose())

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array (a copy from the GPU, the array itself on the CPU)."""
        return self.data.get() if arrays.is_cupy(self.data) else self.data

    def item(self):
        """The one number of a tensor that has one."""
        if self.size != 1:
            check.fail("item", "the tensor", f"of shape {self.shape}", "of one element")
        return self.numpy().item()

    def detach(self) -> "Tensor":
        """The same array without its history."""
        t = Tensor(self.data)
        t._version = self._version
        return t

    def assign_(self, array) -> "Tensor":
        """Write `array` into this tensor's memory, whose address stays the same."""
        array = arrays.as_array(array, "assign_: array")
        if array.shape != self.shape:
            raise ValueError(f"assign_: array has shape {array.shape}, should be {self.shape}")
        if arrays.is_repeated(self.data):
            check.fail("assign_", "the tensor", "read-only, or one number repeated", "memory that can be written")
        with np.errstate(all="ignore"):
            self.data[...] = arrays.array_module(self.data).asarray(array)
        return self.bump_()

    def bump_(self) -> "Tensor":
        """Note that the array was written in place, so that a graph made before refuses to go backward."""
        self._version[0] += 1
        return self

    def _source(self):
        """Where a gradient for this tensor goes: (node, output number), or (the leaf itself, 0)."""
        return (self, 0) if self._node is None else (self._node, self._index)

    def backward(self, dy=None, retain_graph: bool = False):
        """Add d(sum of self * dy)/d(leaf) to `.grad` of every leaf this tensor was made from.

        dy: array or Tensor of self's shape; may be left out where self is a scalar. What the nodes saved is freed on
        the way unless `retain_graph`. Raises RuntimeError on a second call, or where an input was changed in place.
        Graphs of their own may be walked by several threads at once (core/graph.py says what may not).
        """
        accumulate(self.gradients(dy, retain_graph))

    def gradients(self, dy=None, retain_graph: bool = False, ready=None) -> list:
        """What `backward` adds, as (leaf, array, whether it is nobody else's), with no `.grad` touched. What `ready` is
        called with, each as soon as it is complete, is not in that list."""
        if not self.requires_grad:
            raise RuntimeError("backward: this tensor does not require a gradient")
        xp = arrays.array_module(self.data)
        if dy is None:
            if self.size != 1:
                raise ValueError(f"backward: the tensor has shape {self.shape}, should be a scalar unless dy is given")
            dy = xp.ones(self.shape, self.dtype)
        with np.errstate(all="ignore"):
            dy = xp.asarray(arrays.as_array(_value(dy), "backward: dy"), dtype=self.dtype)
            if dy.shape != self.shape:
                raise ValueError(f"backward: dy has shape {dy.shape}, should be {self.shape}")
            return walk([(self._source(), dy)], retain_graph, ready)

    def __repr__(self):
        return f"Tensor({self.numpy()}{', requires_grad=True' if self.requires_grad else ''})"

    def __len__(self):
        if not self.ndim:
            raise TypeError("len: the tensor is 0-dimensional, should have a first axis")
        return len(self.data)

    def __bool__(self):
        return bool(self.item())

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __dlpack__(self, **options):
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.data.__dlpack_device__()

    # Arithmetic, as NumPy broadcasts.
    def __add__(self, other):
        return apply("add", self, other)

    def __sub__(self, other):
        return apply("sub", self, other)

    def __rsub__(self, other):
        return apply("sub", other, self)

    def __mul__(self, other):
        return apply("mul", self, other)

    def __truediv__(self, other):
        return apply("div", self, other)

    def __rtruediv__(self, other):
        return apply("div", other, self)

    def __pow__(self, other):
        return apply("pow", self, other)

    def __rpow__(self, other):
        return apply("pow", other, self)

    def __neg__(self):
        return apply("neg", self)

    def __abs__(self):
        return apply("abs", self)

    def __matmul__(self, other):
        return apply("matmul", self, other)

    def __rmatmul__(self, other):
        return apply("matmul", other, self)

    __radd__, __rmul__ = __add__, __mul__

    def __array__(self, dtype=None, copy=None):
        if self.requires_grad:
            raise TypeError("a Tensor that requires a gradient does not turn into an array by itself: use .numpy()")
        return np.array(self.numpy(), dtype=dtype, copy=copy)

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
        return apply("getitem", self, index=tuple(_fixed(i) for i in parts))

    def reshape(self, *shape):
        return apply("reshape", self, shape=check.sizes("reshape", "shape", _unpack(shape), -1))

    def transpose(self, *axes):
        axes = check.sizes("transpose", "axes", _unpack(axes), -self.ndim) or tuple(reversed(range(self.ndim)))
        return apply("transpose", self, axes=axes)

    def astype(self, dtype):
        return apply("astype", self, dtype=check.real_dtype("astype", "dtype", dtype))

    # Reductions.
    def sum(self, axis=None, keepdims=False):
        return apply("sum", self, **_reduced("sum", self, axis, keepdims))

    def mean(self, axis=None, keepdims=False):
        return apply("mean", self, **_reduced("mean", self, axis, keepdims))

    def max(self, axis=None, keepdims=False):
        return apply("max", self, **_reduced("max", self, axis, keepdims))

    def min(self, axis=None, keepdims=False):
        return apply("min", self, **_reduced("min", self, axis, keepdims))


def _reduced(name, x, axis, keepdims):
    """The options of a reduction, axis None or a tuple."""
    check.flag(name, "keepdims", keepdims)
    return {"axis": check.axes(name, x, axis), "keepdims": keepdims}


def _compare(name, x, other):
    if other is None:
        check.fail(name, "an operand", "None", "a Tensor, an array or a number", TypeError)
    y = other.data if isinstance(other, Tensor) else _operand(name, other, [x.data])
    try:
        return Tensor(getattr(operator, name)(x.data, y))
    except ValueError:
        raise ValueError(f"{name}: shapes {x.shape} and {y.shape} do not broadcast") from None


def _value(x):
    return x.data if isinstance(x, Tensor) else x


def _fixed(index):
    """One part of an index; an array is copied, since the gradient needs it as it was."""
    index = _value(index)
    return index.copy() if hasattr(index, "dtype") and hasattr(index, "copy") else index


def _unpack(args):
    """f(2, 3) and f((2, 3)) mean the same."""
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], tuple | list) else tuple(args)


def from_dlpack(x) -> Tensor:
    """A Tensor on the memory of any array that speaks DLPack (a torch tensor, say), without a copy."""
    if not hasattr(x, "__dlpack_device__"):
        check.fail("from_dlpack", "x", f"a {type(x).__name__}", "an array that speaks DLPack", TypeError)
    kind, _ = x.__dlpack_device__()
    return Tensor(arrays.module_for("cpu" if kind == 1 else "cuda").from_dlpack(x))


def apply(name: str, *inputs, **attrs):
    """Run operation `name` on Tensors, arrays, numbers or None, and record it: a Tensor, or a tuple of them."""
    if dispatch.half() and TABLE[name].half is not None:
        inputs = tuple(_as_dtype(x, TABLE[name].half) for x in inputs)
    tensors = [x if isinstance(x, Tensor) else None for x in inputs]
    known = [_value(x) for x in inputs if hasattr(x, "dtype")]
    values = [x.data if isinstance(x, Tensor) else _operand(name, x, known) for x in inputs]
    with np.errstate(all="ignore"):  # as torch: inf and nan are values, not warnings
        op, y, saved = dispatch.forward(name, values, attrs)
    many = isinstance(y, tuple)
    outputs = [Tensor(v) for v in (y if many else (y,))]
    if anomaly.watching.get() is not None:
        anomaly.check_forward(name, values, attrs, [t.data for t in outputs])
    _share_versions(outputs, tensors)
    if grad_enabled.get() and any(t is not None and t.requires_grad for t in tensors):
        node = Node(op, name, attrs, saved, tensors, outputs, many)
        for i, t in enumerate(outputs):
            t._node, t._index, t.requires_grad = node, i, arrays.is_float(t.data)
    return tuple(outputs) if many else outputs[0]


def _as_dtype(x, dtype):
    """A float16 or float32 input in the other of the two, recorded; statistics and scalars stay as they are."""
    if getattr(x, "ndim", 0) == 0 or x.dtype not in (np.float16, np.float32) or x.dtype == dtype:
        return x
    return apply("astype", x, dtype=dtype)


def _operand(name, x, known):
    """What is no Tensor: an array, a list, or a number, which adapts to the `known` arrays; None stays where it may."""
    if x is None and name not in OPERATORS:
        return None
    if hasattr(x, "dtype") or isinstance(x, list | tuple):
        return arrays.as_array(x, f"{name}: an operand")
    if not isinstance(x, numbers.Real):
        was = "None" if x is None else f"a {type(x).__name__}"
        raise TypeError(f"{name}: an operand is {was}, should be a Tensor, an array or a number")
    try:
        return arrays.number_beside(x, known)
    except OverflowError:
        raise ValueError(f"{name}: an operand is {x:.3g}, should fit in 64 bits") from None


def _share_versions(outputs, tensors):
    """An output that is a view of an input shares its version: writing to one changes the other."""
    for out in outputs:
        for t in tensors:
            if t is not None and arrays.share_memory(out.data, t.data):
                out._version = t._version
