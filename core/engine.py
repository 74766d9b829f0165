"""The engine: what an operation is, the Tensor, the graph that operations leave behind, and the pass back through it.

An operation is one record of two functions on plain arrays, and every implementation of it keeps this contract:

    forward(*arrays, **attrs)                         -> (y, saved)
    backward(saved, dy, needs_input_grad, **attrs)    -> one gradient (or None) per input of forward

`y` is an array or a tuple of arrays; then `dy` is a tuple too, with None for outputs that nobody used. `saved` is a
tuple of arrays, plain host values and such tuples: what survives until the backward pass is a visible decision, so it
never holds a Tensor, a closure or a generator. `needs_input_grad` says for each input whether its gradient is wanted.
Neither function writes to an array it was given. `backward` may return `dy`, a view of it, or one array for two
inputs, but nothing that is in `saved`: the engine adds in place into any gradient that nothing else refers to.

`apply(op, ...)` runs forward and records one Node. Inputs are always made before outputs, so visiting the nodes from
the last made to the first is a topological order, and no recursion is needed. A node knows where each of its inputs
came from (another node, or a leaf), not the input's data, so only what an operation put into `saved` stays alive.
Gradients live in a table of the backward pass and reach only leaves. `python -m core.engine` runs this example, with x
and w leaves that want a gradient:

    h = apply(MUL, x, w)     node 0: edges [(x, 0), (w, 0)]     third:  dh -> dx and dw, which the leaves get
    y = apply(MUL, h, h)     node 1: edges [(node 0, 0)] * 2    second: dy -> dh twice, and their sum waits for node 0
    loss = apply(SUM, y)     node 2: edges [(node 1, 0)]        first:  1 -> dy

Threads may build graphs of their own and go back through them at the same time, and get the bits they would get alone.
Graphs may share leaves that they only read, and `accumulate` loses nothing where two add to one leaf. Not safe: one
graph in two threads, or a parameter that one thread updates while another's graph uses it.

The file needs NumPy alone. Everything else attaches from outside: core/dispatch.py chooses among implementations and
calls `apply`, core/operators.py gives Tensor its arithmetic, core/observe.py looks on through `observers`.

# why: docs/backward.md, one gradient from `y.backward()` to its kernel; docs/add-an-operation.md, a new one
# next: core/reference/pointwise.py, the simplest operations
"""

import contextlib
import itertools
import numbers
import threading
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np

from core import arrays, check

grad_enabled: ContextVar[bool] = ContextVar("grad_enabled", default=True)
observers: ContextVar[tuple] = ContextVar("observers", default=())  # told of all that happens: core/observe.py
_counter = itertools.count()  # of nodes, in the order in which they are made
_adding = threading.Lock()


class Op(NamedTuple):
    """One implementation of one operation; reference, Numba and Triton ones are interchangeable."""

    name: str
    forward: Callable
    backward: Callable
    backend: str = "reference"


@contextlib.contextmanager
def scoped(*settings):
    """`with scoped((variable, value), ...):` these context variables have these values inside."""
    tokens = [(variable, variable.set(value)) for variable, value in settings]
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)


def no_grad():
    """`with no_grad():` records no graph."""
    return scoped((grad_enabled, False))


# --- tensors ----------------------------------------


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
        self._index = 0  # which of the node's outputs this is
        self._version = [0]  # shared with views, advanced by in-place updates

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)
    device = property(lambda self: arrays.device_of(self.data))

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

    def backward(self, dy=None, retain_graph: bool = False):
        """Add d(sum of self * dy)/d(leaf) to `.grad` of every leaf this tensor was made from.

        dy: array or Tensor of self's shape; may be left out where self is a scalar. What the nodes saved is freed on
        the way unless `retain_graph`. Raises RuntimeError on a second call, or where an input was changed in place.
        """
        accumulate(self.gradients(dy, retain_graph))

    def gradients(self, dy=None, retain_graph: bool = False, on_leaf_grad=None) -> list:
        """What `backward` adds, as `backward_pass` gives it, or hands it to `on_leaf_grad`; no `.grad` is touched."""
        if not self.requires_grad:
            raise RuntimeError("backward: this tensor does not require a gradient")
        xp = arrays.array_module(self.data)
        if dy is None:
            if self.size != 1:
                raise ValueError(f"backward: the tensor has shape {self.shape}, should be a scalar unless dy is given")
            dy = xp.ones(self.shape, self.dtype)
        with np.errstate(all="ignore"):
            dy = xp.asarray(arrays.as_array(value(dy), "backward: dy"), dtype=self.dtype)
            if dy.shape != self.shape:
                raise ValueError(f"backward: dy has shape {dy.shape}, should be {self.shape}")
            return backward_pass([(source(self), dy)], retain_graph, on_leaf_grad)

    def __repr__(self):
        return f"Tensor({self.numpy()}{', requires_grad=True' if self.requires_grad else ''})"


def value(x):
    """A Tensor's array; anything else as it is."""
    return x.data if isinstance(x, Tensor) else x


def source(tensor):
    """Where a gradient for this tensor goes: (the node that made it, output number), or (the leaf itself, 0)."""
    return (tensor, 0) if tensor._node is None else (tensor._node, tensor._index)


# --- the graph ----------------------------------------


class Node:
    """One recorded operation: the implementation that ran, what it saved, and where its inputs came from."""

    __slots__ = ("op", "attrs", "saved", "needs_input_grad", "edges", "inputs", "versions", "outputs", "many", "order")

    def __init__(self, op: Op, attrs, saved, inputs, outputs, many):
        self.op, self.attrs, self.saved = op, attrs, saved
        self.needs_input_grad = tuple(t is not None and t.requires_grad for t in inputs)
        self.edges = [source(t) if need else None for t, need in zip(inputs, self.needs_input_grad)]
        self.inputs = [(t.shape, t.dtype) if need else None for t, need in zip(inputs, self.needs_input_grad)]
        self.versions = [(t._version, t._version[0]) for t in (*inputs, *outputs) if t is not None]
        self.outputs, self.many = len(outputs), many  # how many, and whether they came as a tuple
        self.order = next(_counter)

    def gradients(self, dys):
        """This node's input gradients, checked against its inputs' shapes and cast to their dtypes."""
        for version, then in self.versions:
            if version[0] != then:
                raise RuntimeError(
                    f"{self.op.name}: an input or result was changed in place after the forward pass "
                    f"(version {then} then, {version[0]} now); its gradient would be wrong"
                )
        dy = tuple(dys) if self.many else dys[0]
        grads = self.op.backward(self.saved, dy, self.needs_input_grad, **self.attrs)
        for i, (g, meta) in enumerate(zip(grads, self.inputs)):
            if meta is None or g is None:
                continue
            if g.shape != meta[0]:
                raise AssertionError(f"{self.op.name}: gradient of input {i} has shape {g.shape}, should be {meta[0]}")
            with np.errstate(over="ignore"):
                g = arrays.array_module(g).asarray(g, meta[1])  # a 0-dimensional sum is no array yet
            for observer in observers.get():
                observer.gradient(self, dys, i, g)
            yield self.edges[i], g

    def leaves(self):
        """The leaves among its inputs, as often as they stand there."""
        return [edge[0] for edge in self.edges if edge is not None and not isinstance(edge[0], Node)]


def apply(op: Op, *inputs, **attrs):
    """Run `op` on Tensors, arrays, numbers or None, and record it: a Tensor, or a tuple of them."""
    tensors = [x if isinstance(x, Tensor) else None for x in inputs]
    values = operands(op.name, inputs)
    with np.errstate(all="ignore"):  # as torch: inf and nan are values, not warnings
        y, saved = op.forward(*values, **attrs)
    many = isinstance(y, tuple)
    outputs = [Tensor(v) for v in (y if many else (y,))]
    for observer in observers.get():
        observer.forward(op, values, attrs, tuple(t.data for t in outputs))
    _share_versions(outputs, tensors)
    if grad_enabled.get() and any(t is not None and t.requires_grad for t in tensors):
        node = Node(op, attrs, saved, tensors, outputs, many)
        for i, t in enumerate(outputs):
            t._node, t._index, t.requires_grad = node, i, arrays.is_float(t.data)
    return tuple(outputs) if many else outputs[0]


def operands(name, inputs) -> list:
    """The array of each input of operation `name`; None stays None, and a number adapts to the arrays beside it."""
    known = [value(x) for x in inputs if hasattr(x, "dtype")]
    return [value(x) if x is None or isinstance(x, Tensor) else _operand(name, x, known) for x in inputs]


def _operand(name, x, known):
    if hasattr(x, "dtype") or isinstance(x, list | tuple):
        return arrays.as_array(x, f"{name}: an operand")
    if not isinstance(x, numbers.Real):
        raise TypeError(f"{name}: an operand is a {type(x).__name__}, should be a Tensor, an array or a number")
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


# --- the backward pass ----------------------------------------


def backward_pass(roots, retain_graph, on_leaf_grad=None):
    """Visit the nodes behind `roots`, from the last made to the first, carrying gradients along the edges.

    roots: ((node, output number) or (leaf, 0), the gradient that starts there) each. When a node's turn comes, all that
    its outputs feed has been visited, so its gradient in `pending` is complete. Gives (leaf, its gradient, whether
    nothing else refers to that array) for every leaf that was reached; or calls on_leaf_grad with these three, where it
    is given, as soon as nothing can be added to that gradient."""
    pending: dict = {}  # node or leaf -> {output number: (gradient so far, whether the engine owns it)}
    for (root, index), dy in roots:
        _add(pending, root, index, dy, False)
    nodes = _reachable(root for (root, _), _ in roots)
    uses = Counter(leaf for node in nodes for leaf in node.leaves()) if on_leaf_grad else Counter()
    for node in nodes:
        arrived = pending.pop(node, None)
        grads = []  # none where it was reached only through gradients that are None
        if arrived is not None:
            dys = [arrived[i][0] if i in arrived else None for i in range(node.outputs)]
            grads = list(node.gradients(dys))
        for (target, i), g in grads:
            _add(pending, target, i, g, _owned(g, [h for _, h in grads], dys))
        for leaf in node.leaves() if on_leaf_grad else ():
            uses[leaf] -= 1
            if not uses[leaf] and leaf in pending:
                on_leaf_grad(leaf, *pending.pop(leaf)[0])
        if not retain_graph:
            node.saved = node.edges = None
    return [(leaf, *slots[0]) for leaf, slots in pending.items()]


def accumulate(gradients):
    """Add what `backward_pass` gave to the leaves' `.grad`."""
    with _adding, np.errstate(all="ignore"):
        for leaf, g, owned in gradients:
            if leaf.grad is None:
                leaf.grad = g if owned else arrays.array_module(g).array(g)
                continue
            for observer in observers.get():
                observer.sum(leaf, leaf.grad, g)
            leaf.grad += g


def _add(pending, target, index, g, owned):
    """Add `g` to the gradient waiting for `target`; in place only where the engine owns the buffer."""
    slots = pending.setdefault(target, {})
    if index not in slots:
        slots[index] = (g, owned)
        return
    waiting, owns = slots[index]
    for observer in observers.get():
        observer.sum(target, waiting, g)
    if owns and waiting.ndim:
        waiting += g
    else:
        slots[index] = (arrays.array_module(g).asarray(waiting + g), True)


def _owned(g, grads, dys):
    """Whether nothing but the pass refers to `g`, one of a node's `grads`, so that it may be added to in place.

    Not so if `backward` gave dy itself or a view of it (add, reshape), one array for two inputs, or a broadcast number:
    adding to that would change what somebody else still reads."""
    others = [d for d in dys if d is not None] + [h for h in grads if h is not g]
    alone = sum(h is g for h in grads) == 1 and not any(arrays.share_memory(g, h) for h in others)
    return alone and not arrays.is_repeated(g)


def _reachable(roots):
    """Every node that one of `roots` was made from, last made first."""
    seen = {root for root in roots if isinstance(root, Node)}
    stack = list(seen)
    while stack:
        node = stack.pop()
        if node.edges is None:
            raise RuntimeError(
                f"backward: {node.op.name} was already walked and what it saved is freed; "
                "call backward(retain_graph=True) the first time to go through a graph twice"
            )
        for edge in node.edges:
            if edge is not None and isinstance(edge[0], Node) and edge[0] not in seen:
                seen.add(edge[0])
                stack.append(edge[0])
    return sorted(seen, key=lambda node: -node.order)


if __name__ == "__main__":
    MUL = Op("mul", lambda a, b: (a * b, (a, b)), lambda saved, dy, needs_input_grad: (dy * saved[1], dy * saved[0]))
    SUM = Op("sum", lambda a: (a.sum(), a.shape), lambda shape, dy, needs_input_grad: (np.broadcast_to(dy, shape),))
    x, w = Tensor([1.0, 2.0], requires_grad=True), Tensor([3.0, 4.0], requires_grad=True)
    h = apply(MUL, x, w)
    loss = apply(SUM, apply(MUL, h, h))
    loss.backward()
    print(f"loss = sum (x w)^2 = {loss.item()}\ndloss/dx = 2 x w^2 = {x.grad}\ndloss/dw = 2 x^2 w = {w.grad}")
