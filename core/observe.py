"""Looking on while operations run: anomaly detection, recording and tracing attach to the engine's one hook.

    with core.detect_anomaly(model):     the operation that first makes a NaN or an infinity is named where it happens
        loss = ...
        loss.backward()
    with recording() as log:             (operation, backend) of everything that runs
    with tracing() as trace:             (operation, input arrays, attrs, output arrays) of every operation of a graph

The engine and core/dispatch.py tell each of `engine.observers` what happens; an Observer overrides what it wants to
hear. With none, an operation costs a look at a ContextVar, some 30 ns.

In anomaly mode an operation is blamed for a NaN where nothing that it was given holds one, and for an infinity where
all that it was given is finite: what comes in from outside or has passed through other operations is not its doing. So
log(0) raises, and an infinity that is meant, as a mask is, comes in as an array. -inf is an ordinary number among the
inputs of attention, whose bias forbids by it. Sums of gradients and state operations are watched in the same way. It
reads every array and waits for the device, so it is for finding a fault and not for training.
"""

import contextlib

from core.arrays import array_module, is_float
from core.engine import observers, scoped

MASKED = ("attention",)  # operations among whose inputs -inf is an ordinary number


class Observer:
    """What may look on; every method is called as said there, and does nothing unless a subclass overrides it."""

    def forward(self, op, inputs, attrs, outputs):
        """After an operation ran forward: arrays, numbers or None came in, `outputs` are arrays."""

    def gradient(self, node, dys, index, gradient):
        """After a node ran backward on `dys`: the gradient of its input `index`."""

    def sum(self, target, old, new):
        """Before two gradients that reach `target`, a node or a leaf, are added up."""

    def before_state(self, inputs):
        """Before an operation without a gradient runs, which may write into its inputs; the result goes to `state`."""

    def state(self, name, backend, inputs, attrs, before, result):
        """After it ran."""


def observed() -> bool:
    """Whether somebody looks on: a replayed graph would show nothing."""
    return bool(observers.get())


@contextlib.contextmanager
def _observing(observer):
    with scoped((observers, (*observers.get(), observer))):
        yield observer


# --- recording and tracing ----------------------------------------


class Recording(Observer):
    def __init__(self):
        self.log: list = []

    def forward(self, op, inputs, attrs, outputs):
        self.log.append((op.name, op.backend))

    def state(self, name, backend, inputs, attrs, before, result):
        self.log.append((name, backend))


class Tracing(Observer):
    def __init__(self):
        self.trace: list = []

    def forward(self, op, inputs, attrs, outputs):
        self.trace.append((op.name, inputs, attrs, outputs))


@contextlib.contextmanager
def recording():
    """`with recording() as log:` collects (operation, backend) of everything that runs inside."""
    with _observing(Recording()) as observer:
        yield observer.log


@contextlib.contextmanager
def tracing():
    """`with tracing() as trace:` collects (operation, input arrays, attrs, output arrays) of what runs inside."""
    with _observing(Tracing()) as observer:
        yield observer.trace


# --- anomaly detection ----------------------------------------


class AnomalyError(FloatingPointError):
    """Raised in anomaly mode by the operation that made the first NaN or infinity; one line says what is known."""


@contextlib.contextmanager
def detect_anomaly(module=None):
    """`with detect_anomaly(module):` operations inside raise AnomalyError where they make the first NaN or infinity;
    parameters are called what `module`, if given, calls them."""
    names = {id(t.data): name for name, t in module.named_tensors()} if module is not None else {}
    with _observing(AnomalyDetection(names)):
        yield


class AnomalyDetection(Observer):
    def __init__(self, names):
        self.names = names  # id of an array -> its name in the module

    def forward(self, op, inputs, attrs, outputs):
        given = [(f"input {i}", x) for i, x in enumerate(inputs)]
        labels = ["the result"] if len(outputs) == 1 else [f"result {i}" for i in range(len(outputs))]
        self._check(op.name, attrs, given, list(zip(labels, outputs)))

    def gradient(self, node, dys, index, gradient):
        given = [("the gradient that arrived", dy) for dy in dys] + [("what it saved", x) for x in _flat(node.saved)]
        label = f"the gradient of input {index}{self._called(getattr(node.edges[index][0], 'data', None))}"
        self._check(node.op.name, node.attrs, given, [(label, gradient)])

    def sum(self, target, old, new):
        node = getattr(target, "op", None)
        whose = f"the result of {node.name}" if node else f"a leaf{self._called(target.data)}"
        given = [("a gradient", old), ("a gradient", new)]
        self._check("backward", {}, given, [(f"the sum of two gradients of {whose}", old + new)])

    def before_state(self, inputs):
        return [x.copy() for x in _flat(inputs) if hasattr(x, "dtype")]

    def state(self, name, backend, inputs, attrs, before, result):
        made = [("the result", result)]
        for i, x in enumerate(inputs):
            each = [(f"input {i}", x)] if not isinstance(x, list) else [(f"list {i}[{j}]", a) for j, a in enumerate(x)]
            made += [(label + self._called(a), a) for label, a in each]
        self._check(name, attrs, [("an input", x) for x in before], made)

    def _check(self, name, attrs, given, made):
        """Raise if an array of `made`, (label, array) each, holds what none of `given` explains."""
        found = [(label, array, *count(array)) for label, array in made]
        if not any(nan or inf for *_, nan, inf in found):
            return
        known = [(label, x, *count(x, name in MASKED)) for label, x in given]
        nans, infs = sum(nan for *_, nan, _ in known), sum(inf for *_, inf in known)
        for label, array, nan, inf in found:
            if not nans and (nan or (inf and not infs)):
                what = f"{label}, {array.dtype} of shape {array.shape}, has {_words(nan, inf)}"
                raise AnomalyError(f"{name}: {what} among {array.size} numbers; {self._inputs(known)}{_options(attrs)}")

    def _inputs(self, known):
        """What is known about what came in, which holds no NaN."""
        bad = [f"{label}{self._called(x)} has {inf} infinite" for label, x, _, inf in known if inf]
        names = [
            f"{self.names.get(id(x), '')} {x.shape}".strip() for _, x, *_ in known if hasattr(x, "dtype") and x.ndim
        ]
        return f"{', '.join(bad) or 'all that came in is finite'}: {', '.join(names)[:300] or 'numbers'}"

    def _called(self, x):
        """What the module that is watched calls this array."""
        return f", {self.names[id(x)]}" if id(x) in self.names else ""


def count(x, masked=False) -> tuple:
    """(NaN, infinities) in an array; none in anything else. `masked`: -inf does not count."""
    if not hasattr(x, "dtype") or not is_float(x):
        return 0, 0
    xp = array_module(x)
    if bool(xp.isfinite(x).all()):
        return 0, 0
    return int(xp.isnan(x).sum()), int((xp.isposinf(x) if masked else xp.isinf(x)).sum())


def _words(nan, inf):
    return " and ".join(f"{n} {what}" for n, what in ((nan, "NaN"), (inf, "infinite")) if n)


def _options(attrs):
    words = [f"{k}={' '.join(repr(v).split())[:60]}" for k, v in attrs.items() if v is not None]
    return f"; {', '.join(words)}" if words else ""


def _flat(values):
    """Everything in nested tuples and lists."""
    for v in values:
        if isinstance(v, tuple | list):
            yield from _flat(v)
        else:
            yield v
