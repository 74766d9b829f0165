"""Tensor, the graph it leaves behind, and the walk back through that graph.

`apply` runs one operation and, if an input wants a gradient, records one Node. `Tensor.backward` visits the nodes from
the last made to the first: inputs are always made before outputs, so that order is a topological one and no recursion
is needed. Gradients live in a table of the walk and reach only leaves; a node knows where each of its inputs came from
(another node, or a leaf), not the input's data, so only what an operation put into `saved` stays alive.

# next: core/dispatch.py, which chooses the implementation; core/reference/pointwise.py, the simplest operations.
"""

import contextlib
import itertools
import numbers
from contextvars import ContextVar

import numpy as np

from core import arrays, dispatch

_grad_enabled: ContextVar[bool] = ContextVar("grad_enabled", default=True)
_counter = itertools.count()


@contextlib.contextmanager
def no_grad():
    """`with no_grad():` records no graph."""
    token = _grad_enabled.set(False)
    try:
        yield
    finally:
        _grad_enabled.reset(token)


class Node:
    """One recorded operation: the implementation that ran, what it saved, and where its inputs came from."""

    __slots__ = ("op", "name", "attrs", "saved", "needs", "edges", "inputs", "versions", "outputs", "many", "order")

    def __init__(self, op, name, attrs, saved, tensors, outputs, many):
        self.op, self.name, self.attrs, self.saved = op, name, attrs, saved
        self.needs = tuple(t is not None and t.requires_grad for t in tensors)
        self.edges = [t._source() if need else None for t, need in zip(tensors, self.needs)]
        self.inputs = [(t.shape, t.dtype) if need else None for t, need in zip(tensors, self.needs)]
        self.versions = [(t._version, t._version[0]) for t in tensors if t is not None]
        self.outputs, self.many = outputs, many  # how many, and whether they came as a tuple
        self.order = next(_counter)

    def gradients(self, dys):
        """This node's input gradients, checked against its inputs' shapes and cast to their dtypes."""
        for version, then in self.versions:
            if version[0] != then:
                raise RuntimeError(
                    f"{self.name}: an input was changed in place after the forward pass "
                    f"(version {then} then, {version[0]} now); its gradient would be wrong"
                )
        dy = tuple(dys) if self.many else dys[0]
        grads = dispatch.backward(self.op, self.saved, dy, self.needs, self.attrs)
        for i, (g, meta) in enumerate(zip(grads, self.inputs)):
            if meta is None or g is None:
                continue
            if g.shape != meta[0]:
                raise AssertionError(f"{self.name}: gradient of input {i} has shape {g.shape}, should be {meta[0]}")
            yield self.edges[i], g.astype(meta[1], copy=False)


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
            raise TypeError(
                "Tensor: array is a Tensor, should be an array; use tensor.detach() for one without a graph"
            )
        self.data = arrays.as_array(array)
        if self.data.dtype == object or self.data.dtype.kind in "USc":
            raise TypeError(f"Tensor: array has dtype {self.data.dtype}, should be a real number type")
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
        return self.numpy().item()

    def detach(self) -> "Tensor":
        """The same array without its history."""
        t = Tensor(self.data)
        t._version = self._version
        return t

    def assign_(self, array) -> "Tensor":
        """Write `array` into this tensor's memory, whose address stays the same."""
        if array.shape != self.shape:
            raise ValueError(f"assign_: array has shape {array.shape}, should be {self.shape}")
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
        """
        if not self.requires_grad:
            raise RuntimeError("backward: this tensor does not require a gradient")
        xp = arrays.array_module(self.data)
        if dy is None:
            if self.size != 1:
                raise ValueError(f"backward: the tensor has shape {self.shape}, should be a scalar unless dy is given")
            dy = xp.ones(self.shape, self.dtype)
        dy = xp.asarray(dy.data if isinstance(dy, Tensor) else dy, dtype=self.dtype)
        if dy.shape != self.shape:
            raise ValueError(f"backward: dy has shape {dy.shape}, should be {self.shape}")
        _walk(self._source(), dy, retain_graph)

    def __repr__(self):
        return f"Tensor({self.numpy()}{', requires_grad=True' if self.requires_grad else ''})"

    def __len__(self):
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

    # Comparisons give boolean tensors without a gradient. `==` stays identity, so that tensors can be dictionary keys.
    def __lt__(self, other):
        return Tensor(self.data < _value(other))

    def __le__(self, other):
        return Tensor(self.data <= _value(other))

    def __gt__(self, other):
        return Tensor(self.data > _value(other))

    def __ge__(self, other):
        return Tensor(self.data >= _value(other))

    # Shapes.
    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        return apply("getitem", self, index=tuple(_value(i) for i in parts))

    def reshape(self, *shape):
        return apply("reshape", self, shape=_unpack(shape))

    def transpose(self, *axes):
        return apply("transpose", self, axes=_unpack(axes) or tuple(reversed(range(self.ndim))))

    def astype(self, dtype):
        return apply("astype", self, dtype=np.dtype(dtype))

    # Reductions.
    def sum(self, axis=None, keepdims=False):
        return apply("sum", self, axis=axis, keepdims=keepdims)

    def mean(self, axis=None, keepdims=False):
        return apply("mean", self, axis=axis, keepdims=keepdims)

    def max(self, axis=None, keepdims=False):
        return apply("max", self, axis=axis, keepdims=keepdims)

    def min(self, axis=None, keepdims=False):
        return apply("min", self, axis=axis, keepdims=keepdims)


def _value(x):
    return x.data if isinstance(x, Tensor) else x


def _unpack(args):
    """f(2, 3) and f((2, 3)) mean the same."""
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], tuple | list) else tuple(args)


def from_dlpack(x) -> Tensor:
    """A Tensor on the memory of any array that speaks DLPack (a torch tensor, say), without a copy."""
    kind, _ = x.__dlpack_device__()
    return Tensor(arrays.module_for("cpu" if kind == 1 else "cuda").from_dlpack(x))


def apply(name: str, *inputs, **attrs):
    """Run operation `name` on Tensors, arrays, numbers or None, and record it: a Tensor, or a tuple of them."""
    tensors = [x if isinstance(x, Tensor) else None for x in inputs]
    like = next((_value(x) for x in inputs if hasattr(x, "dtype")), None)
    values = [_value(x) if x is None or hasattr(x, "dtype") else _number(name, x, like) for x in inputs]
    op, y, saved = dispatch.forward(name, values, attrs)
    many = isinstance(y, tuple)
    outputs = [Tensor(v) for v in (y if many else (y,))]
    _share_versions(outputs, tensors)
    if _grad_enabled.get() and any(t is not None and t.requires_grad for t in tensors):
        node = Node(op, name, attrs, saved, tensors, len(outputs), many)
        for i, t in enumerate(outputs):
            t._node, t._index, t.requires_grad = node, i, arrays.is_float(t.data)
    return tuple(outputs) if many else outputs[0]


def _number(name, x, like):
    if isinstance(x, numbers.Number | list | tuple | np.ndarray):
        return arrays.as_array(x, like if isinstance(x, numbers.Number) else None)
    raise TypeError(f"{name}: an operand is a {type(x).__name__}, should be a Tensor, an array or a number")


def _share_versions(outputs, tensors):
    """An output that is a view of an input shares its version: writing to one changes the other."""
    for out in outputs:
        for t in tensors:
            if t is not None and arrays.share_memory(out.data, t.data):
                out._version = t._version


def _walk(source, dy, retain_graph):
    """Visit the nodes behind `source` from the last made to the first, carrying gradients along the edges."""
    root, index = source
    pending: dict = {}  # id of a node or leaf -> its outputs' gradients so far, each (array, owned by the engine?)
    _add(pending, root, index, dy, False)
    leaves = {}
    if isinstance(root, Tensor):
        leaves[id(root)] = root
    for node in _reachable(root):
        arrived = pending.pop(id(node), None)
        if arrived is None:  # reached only through gradients that are None
            _free(node, retain_graph)
            continue
        dys = [arrived[i][0] if i in arrived else None for i in range(node.outputs)]
        grads = list(node.gradients(dys))
        for (target, i), g in grads:
            others = [d for d in dys if d is not None] + [h for _, h in grads if h is not g]
            owned = sum(h is g for _, h in grads) == 1 and not any(arrays.share_memory(g, h) for h in others)
            _add(pending, target, i, g, owned)
            if isinstance(target, Tensor):
                leaves[id(target)] = target
        _free(node, retain_graph)
    for leaf in leaves.values():
        g, owned = pending[id(leaf)][0]
        if leaf.grad is None:
            leaf.grad = g if owned else g.copy()
        else:
            leaf.grad += g


def _reachable(root):
    """Every node that `root` was made from, last made first."""
    if isinstance(root, Tensor):
        return []
    seen, stack = {id(root): root}, [root]
    while stack:
        node = stack.pop()
        if node.edges is None:
            raise RuntimeError(
                f"backward: {node.name} was already walked and what it saved is freed; "
                "call backward(retain_graph=True) the first time to go through a graph twice"
            )
        for edge in node.edges:
            if edge is not None and isinstance(edge[0], Node) and id(edge[0]) not in seen:
                seen[id(edge[0])] = edge[0]
                stack.append(edge[0])
    return sorted(seen.values(), key=lambda n: -n.order)


def _add(pending, target, index, g, owned):
    """Add `g` to the gradient waiting for `target`; in place only where the engine owns the buffer."""
    slots = pending.setdefault(id(target), {})
    if index not in slots:
        slots[index] = (g, owned)
    elif slots[index][1] and slots[index][0].ndim:
        slots[index][0].__iadd__(g)
    else:
        slots[index] = (slots[index][0] + g, True)


def _free(node, retain_graph):
    if not retain_graph:
        node.saved = node.edges = None
