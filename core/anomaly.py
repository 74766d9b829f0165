"""Anomaly mode: the operation that first made a NaN or an infinity, forward or backward, is named where it happens.

    with core.detect_anomaly(model):
        loss = ...
        loss.backward()

An operation is blamed for a NaN where nothing that it was given holds one, and for an infinity where all that it was
given is finite: what comes in from outside or has passed through other operations is not its doing. So log(0) raises,
and an infinity that is meant, as a mask is, comes in as an array. -inf is an ordinary number among the inputs of
attention, whose bias forbids by it. Sums of gradients and state operations are watched in the same way.

It reads every array and waits for the device, so it is for finding a fault and not for training. Off, it costs a look
at a ContextVar an operation, some 30 ns.
"""

import contextlib
from contextvars import ContextVar

from core.arrays import array_module, is_float

watching: ContextVar[dict | None] = ContextVar("watching", default=None)  # id of an array -> its name in the module
MASKED = ("attention",)  # operations among whose inputs -inf is an ordinary number


class AnomalyError(FloatingPointError):
    """Raised in anomaly mode by the operation that made the first NaN or infinity; one line says what is known."""


@contextlib.contextmanager
def detect_anomaly(module=None):
    """`with detect_anomaly(module):` operations inside raise AnomalyError where they make the first NaN or infinity;
    parameters are called what `module`, if given, calls them."""
    names = {id(t.data): name for name, t in module.named_tensors()} if module is not None else {}
    token = watching.set(names)
    try:
        yield
    finally:
        watching.reset(token)


# --- what core/tensor.py, core/graph.py and core/dispatch.py ask for while it is on ----------------------------


def check_forward(name, inputs, attrs, outputs):
    """After an operation ran forward: arrays, numbers or None came in, `outputs` are arrays."""
    given = [(f"input {i}", x) for i, x in enumerate(inputs)]
    labels = ["the result"] if len(outputs) == 1 else [f"result {i}" for i in range(len(outputs))]
    _check(name, attrs, given, list(zip(labels, outputs)))


def check_gradient(node, dys, index, gradient):
    """After it ran backward: the gradient of its input `index`, which may be a leaf with a name."""
    given = [("the gradient that arrived", dy) for dy in dys] + [("what it saved", x) for x in _flat(node.saved)]
    label = f"the gradient of input {index}{_called(getattr(node.edges[index][0], 'data', None))}"
    _check(node.name, node.attrs, given, [(label, gradient)])


def check_sum(target, old, new):
    """Before two gradients of one tensor, the result of a node or a leaf, are added up."""
    whose = f"the result of {target.name}" if hasattr(target, "edges") else f"a leaf{_called(target.data)}"
    given = [("a gradient", old), ("a gradient", new)]
    _check("backward", {}, given, [(f"the sum of two gradients of {whose}", old + new)])


def check_state(name, inputs, attrs, before, result):
    """After a state operation, which wrote into its inputs; `before` is what `copies` gave."""
    made = [("the result", result)]
    for i, x in enumerate(inputs):
        each = [(f"input {i}", x)] if not isinstance(x, list) else [(f"list {i}[{j}]", a) for j, a in enumerate(x)]
        made += [(label + _called(a), a) for label, a in each]
    _check(name, attrs, [("an input", x) for x in before], made)


def copies(inputs):
    """What a state operation is given, before it writes there; None where nobody watches."""
    return [x.copy() for x in _flat(inputs) if hasattr(x, "dtype")] if watching.get() is not None else None


# --- the judgement ----------------------------------------


def _check(name, attrs, given, made):
    """Raise if an array of `made`, (label, array) each, holds what none of `given` explains."""
    found = [(label, array, *count(array)) for label, array in made]
    if not any(nan or inf for *_, nan, inf in found):
        return
    known = [(label, x, *count(x, name in MASKED)) for label, x in given]
    nans, infs = sum(nan for *_, nan, _ in known), sum(inf for *_, inf in known)
    for label, array, nan, inf in found:
        if not nans and (nan or (inf and not infs)):
            what = f"{label}, {array.dtype} of shape {array.shape}, has {_words(nan, inf)} among {array.size} numbers"
            raise AnomalyError(f"{name}: {what}; {_inputs(known)}{_attributes(attrs)}")


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


def _inputs(known):
    """What is known about what came in, which holds no NaN."""
    bad = [f"{label}{_called(x)} has {inf} infinite" for label, x, _, inf in known if inf]
    names = [f"{_name(x)} {x.shape}".strip() for _, x, *_ in known if hasattr(x, "dtype") and x.ndim]
    return f"{', '.join(bad) or 'all that came in is finite'}: {', '.join(names)[:300] or 'numbers'}"


def _name(x):
    """What the module that is watched calls this array."""
    return (watching.get() or {}).get(id(x), "")


def _called(x):
    return f", {_name(x)}" if _name(x) else ""


def _attributes(attrs):
    words = [f"{k}={' '.join(repr(v).split())[:60]}" for k, v in attrs.items() if v is not None]
    return f"; {', '.join(words)}" if words else ""


def _flat(values):
    """Everything in nested tuples and lists."""
    for v in values:
        if isinstance(v, tuple | list):
            yield from _flat(v)
        else:
            yield v
