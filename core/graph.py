"""The graph that operations leave behind, and the walk back through it.

Every recorded operation is one Node. `walk` visits the nodes from the last made to the first: inputs are always made
before outputs, so that order is a topological one and no recursion is needed. Gradients live in a table of the walk
and reach only leaves. A node knows where each of its inputs came from (another node, or a leaf), not the input's data,
so only what an operation put into `saved` stays alive. With x and w leaves that want a gradient:

    h = F.matmul(x, w)    node 0: edges [(x, 0), (w, 0)]      third:  dh -> dx and dw, which the leaves get
    y = h * h             node 1: edges [(node 0, 0)] * 2     second: dy -> dh twice, and their sum waits for node 0
    loss = y.sum()        node 2: edges [(node 1, 0)]         first:  1 -> dy

Threads may build and walk graphs of their own at the same time, and get the bits they would get alone: a walk keeps its
table to itself, modes and the current generator belong to a thread, kernels allocate what they write. Graphs may share
leaves that they only read, and `accumulate` loses nothing where two add to one leaf, but the order of adding is theirs.
Not safe: one graph walked by two threads, one Generator or one Trainer used by two, a parameter updated by one thread
while another's graph uses it.

# next: core/table.py, who computes each operation
"""

import contextlib
import itertools
import threading
from collections import Counter
from contextvars import ContextVar

import numpy as np

from core import anomaly, arrays, dispatch

grad_enabled: ContextVar[bool] = ContextVar("grad_enabled", default=True)
_counter = itertools.count()  # one step of it is not divided between threads
_adding = threading.Lock()


@contextlib.contextmanager
def no_grad():
    """`with no_grad():` records no graph."""
    token = grad_enabled.set(False)
    try:
        yield
    finally:
        grad_enabled.reset(token)


class Node:
    """One recorded operation: the implementation that ran, what it saved, and where its inputs came from."""

    __slots__ = ("op", "name", "attrs", "saved", "needs", "edges", "inputs", "versions", "outputs", "many", "order")

    def __init__(self, op, name, attrs, saved, tensors, results, many):
        self.op, self.name, self.attrs, self.saved = op, name, attrs, saved
        self.needs = tuple(t is not None and t.requires_grad for t in tensors)
        self.edges = [t._source() if need else None for t, need in zip(tensors, self.needs)]
        self.inputs = [(t.shape, t.dtype) if need else None for t, need in zip(tensors, self.needs)]
        self.versions = [(t._version, t._version[0]) for t in (*tensors, *results) if t is not None]
        self.outputs, self.many = len(results), many  # how many, and whether they came as a tuple
        self.order = next(_counter)

    def gradients(self, dys):
        """This node's input gradients, checked against its inputs' shapes and cast to their dtypes."""
        for version, then in self.versions:
            if version[0] != then:
                raise RuntimeError(
                    f"{self.name}: an input or result was changed in place after the forward pass "
                    f"(version {then} then, {version[0]} now); its gradient would be wrong"
                )
        dy = tuple(dys) if self.many else dys[0]
        grads = dispatch.backward(self.op, self.saved, dy, self.needs, self.attrs)
        for i, (g, meta) in enumerate(zip(grads, self.inputs)):
            if meta is None or g is None:
                continue
            if g.shape != meta[0]:
                raise AssertionError(f"{self.name}: gradient of input {i} has shape {g.shape}, should be {meta[0]}")
            with np.errstate(over="ignore"):
                g = arrays.array_module(g).asarray(g, meta[1])  # a 0-dimensional sum is no array yet
            if anomaly.watching.get() is not None:
                anomaly.check_gradient(self, dys, i, g)
            yield self.edges[i], g


def walk(roots, retain_graph, ready=None):
    """Visit the nodes behind `roots`, from the last made to the first, carrying gradients along the edges.

    roots: ((node, output number) or (leaf, 0), the gradient that starts there) each. When a node's turn comes, all that
    its outputs feed has been visited: what waits for it in `pending` is complete. Gives (leaf, its gradient, whether
    nothing else refers to that array) for every leaf that was reached; or calls ready(leaf, gradient, that) where it is
    given, as soon as nothing can be added to that gradient."""
    pending: dict = {}  # id of a node or leaf -> its outputs' gradients so far, each (array, owned by the engine?)
    leaves = {}
    for (root, index), dy in roots:
        _add(pending, root, index, dy, False)
        if not isinstance(root, Node):
            leaves[id(root)] = root
    nodes = _reachable(root for (root, _), _ in roots)
    uses = Counter(id(leaf) for node in nodes for leaf in _leaves(node)) if ready else Counter()
    for node in nodes:
        arrived = pending.pop(id(node), None)
        grads = []  # none where it was reached only through gradients that are None
        if arrived is not None:
            dys = [arrived[i][0] if i in arrived else None for i in range(node.outputs)]
            grads = list(node.gradients(dys))
        for (target, i), g in grads:
            _add(pending, target, i, g, _owned(g, [h for _, h in grads], dys))
            if not isinstance(target, Node):
                leaves[id(target)] = target
        for leaf in _leaves(node) if ready else ():
            uses[id(leaf)] -= 1
            if not uses[id(leaf)] and leaves.pop(id(leaf), None) is not None:
                ready(leaf, *pending.pop(id(leaf))[0])
        _free(node, retain_graph)
    return [(leaf, *pending[key][0]) for key, leaf in leaves.items()]


def _leaves(node):
    """The leaves among a node's inputs, as often as they stand there."""
    return [edge[0] for edge in node.edges if edge is not None and not isinstance(edge[0], Node)]


def accumulate(gradients):
    """Add what `walk` gave to the leaves' `.grad`."""
    with _adding, np.errstate(all="ignore"):
        for leaf, g, owned in gradients:
            if leaf.grad is None:
                leaf.grad = g if owned else arrays.array_module(g).array(g)
                continue
            if anomaly.watching.get() is not None:
                anomaly.check_sum(leaf, leaf.grad, g)
            leaf.grad += g


def _owned(g, grads, dys):
    """Whether nothing but the walk refers to `g`, one of a node's `grads`, so that it may be added to in place.

    Not so if `backward` gave dy itself or a view of it (add, reshape), one array for two inputs, or a broadcast number:
    adding to that would change a gradient that somebody else still reads."""
    others = [d for d in dys if d is not None] + [h for h in grads if h is not g]
    alone = sum(h is g for h in grads) == 1 and not any(arrays.share_memory(g, h) for h in others)
    return alone and not arrays.is_repeated(g)


def _reachable(roots):
    """Every node that one of `roots` was made from, last made first."""
    seen = {id(root): root for root in roots if isinstance(root, Node)}
    stack = list(seen.values())
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
    if index in slots and anomaly.watching.get() is not None:
        anomaly.check_sum(target, slots[index][0], g)
    if index not in slots:
        slots[index] = (g, owned)
    elif slots[index][1] and slots[index][0].ndim:
        slots[index][0].__iadd__(g)
    else:
        slots[index] = (arrays.array_module(g).asarray(slots[index][0] + g), True)


def _free(node, retain_graph):
    if not retain_graph:
        node.saved = node.edges = None
