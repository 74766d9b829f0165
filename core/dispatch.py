"""Which implementation runs: the one place where a choice is made.

core/table.py holds, for each operation, its reference and, per device, the kernel that may replace it (with its dtypes
and its limits in words) or the reason why there is none. `use` sets the modes, `explain` says what runs and why.

    auto       the kernel where dtype and limits allow it, else the reference        (the default)
    kernels    an operation that has a kernel uses it or raises KernelLimit
    reference  no kernel

Two switches stand beside the mode. tf32 is read by products on a GPU: float32 goes through the tensor cores in three
passes, as exact as float32, or in one with `use(tf32=True)`, about three digits for speed. half is read by
core/tensor.py: with `use(half=True)` products take float16 and losses float32, whatever they are given (the table says
which).

# next: core/arrays.py, what dtype a result has, and long sums
"""

import contextlib
from collections import Counter
from contextvars import ContextVar

import numpy as np

from core import anomaly, arrays
from core.op import Op
from core.table import TABLE, Kernel


class KernelLimit(ValueError):
    """Raised in mode "kernels" when an operation has a kernel that cannot take these arguments."""


MODES = ("auto", "kernels", "reference")
_mode: ContextVar[str] = ContextVar("mode", default="auto")
_tf32: ContextVar[bool] = ContextVar("tf32", default=False)
_half: ContextVar[bool] = ContextVar("half", default=False)
_log: ContextVar[list | None] = ContextVar("log", default=None)
_trace: ContextVar[list | None] = ContextVar("trace", default=None)
_device: ContextVar[str | None] = ContextVar("device", default=None)


@contextlib.contextmanager
def use(mode: str | None = None, *, tf32: bool | None = None, half: bool | None = None):
    """`with use("reference"):` chooses among implementations for the operations called inside; `with use(tf32=True):`
    lets float32 products inside, forward or backward, take one TF32 pass; with `use(half=True)` products called inside
    take float16 copies of float32 inputs, and losses float32 ones of float16, as torch.autocast does: gradients come
    back in the dtype of the originals. What is None stays as it is."""
    if mode not in (None, *MODES):
        raise ValueError(f"use: mode is {mode!r}, should be one of {', '.join(MODES)}")
    for name, value in (("tf32", tf32), ("half", half)):
        if not isinstance(value, bool | None):
            raise ValueError(f"use: {name} is {value!r}, should be True, False or None")
    modes: list[tuple[ContextVar, object]] = [(_mode, mode), (_tf32, tf32), (_half, half)]
    tokens = [(variable, variable.set(value)) for variable, value in modes if value is not None]
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)


def tf32() -> bool:
    """Whether a float32 product may take one TF32 pass, here and now."""
    return _tf32.get()


def half() -> bool:
    """Whether products take float16, here and now."""
    return _half.get()


@contextlib.contextmanager
def on(device: str):
    """`with on("cuda"):` kernels of this device run whatever the arrays are: Triton's interpreter takes NumPy's."""
    token = _device.set(device)
    try:
        yield
    finally:
        _device.reset(token)


def choose(name: str, inputs, attrs) -> tuple:
    """The implementation that runs in the current mode, and the reason in words."""
    row, mode = TABLE[name], _mode.get()
    inputs = [x for v in inputs for x in (v if isinstance(v, list) else (v,))]  # optimisers pass lists of arrays
    device = _device.get() or arrays.device_of(next((x for x in inputs if arrays.is_cupy(x)), None)).partition(":")[0]
    kernel = row.kernels.get(device, f"no {device} kernel is written for it")
    if not isinstance(kernel, Kernel):
        return row.reference, kernel
    if mode == "reference":
        return row.reference, "mode is 'reference'"
    refusal = kernel.refusal(inputs, attrs, row.result == "first")
    if refusal is None:
        return kernel.load(), f"{kernel.where} takes these arguments"
    if mode == "kernels":
        raise KernelLimit(f"{name}: {refusal}")
    return row.reference, refusal


def forward(name: str, inputs, attrs) -> tuple:
    """Run one operation: (the implementation that ran, y, saved)."""
    op, _ = choose(name, inputs, attrs)
    record(name, op)
    y, saved = _run(name, op, inputs, attrs)
    trace = _trace.get()
    if trace is not None:
        trace.append((name, inputs, attrs, y if isinstance(y, tuple) else (y,)))
    return op, y, saved


def _run(name, op, inputs, attrs) -> tuple:
    """(y, saved); a reference is given the dtype it computes in, and its results go back into the inputs'."""
    if op.backend != "reference":
        return op.forward(*inputs, **attrs)
    dtype = _dtype(name, inputs)
    y, saved = op.forward(*(_cast(x, arrays.compute_dtype(dtype)) for x in inputs), **attrs)
    if isinstance(y, tuple):
        return tuple(v if i in TABLE[name].wide else _cast(v, dtype) for i, v in enumerate(y)), saved
    return _cast(y, dtype), saved


def modes() -> tuple:
    """What `use` and `on` have set here: a step that was captured under other modes is another one."""
    return _mode.get(), _tf32.get(), _half.get(), _device.get()


def backward(op: Op, saved, dy, needs, attrs) -> tuple:
    """The gradients of one operation, by the implementation that ran forward."""
    if op.backend != "reference":
        return op.backward(saved, dy, needs, **attrs)
    dy = tuple(_upcast(v) for v in dy) if isinstance(dy, tuple) else _upcast(dy)
    return op.backward(saved, dy, needs, **attrs)


def run_(name: str, *inputs, **attrs):
    """Run one operation without a gradient: a drawing, or a state operation, which writes into its arrays."""
    op, _ = choose(name, inputs, attrs)
    record(name, op)
    before = anomaly.copies(inputs)
    with np.errstate(all="ignore"):
        result = op(*inputs, **attrs)
    if before is not None:
        anomaly.check_state(name, inputs, attrs, before, result)
    return result


def _dtype(name, inputs):
    if TABLE[name].result == "given":
        return None
    return inputs[0].dtype if TABLE[name].result == "first" else arrays.result_dtype(*inputs)


def _cast(x, dtype):
    """Floating arrays in `dtype`; everything else as it is."""
    if dtype is None or x is None or not hasattr(x, "dtype") or not arrays.is_float(x):
        return x
    return x.astype(dtype, copy=False)


def _upcast(x):
    return None if x is None else _cast(x, arrays.compute_dtype(x.dtype))


# --- what ran, and why ----------------------------------------


BACKENDS = {"kernels.gpu": "triton", "kernels.cpu": "numba"}  # of plain functions, by where they stand


def backend(op) -> str:
    """Who computes: an Op says so itself."""
    return op.backend if isinstance(op, Op) else BACKENDS.get(".".join(op.__module__.split(".")[:2]), "reference")


def record(name, op):
    log = _log.get()
    if log is not None:
        log.append((name, backend(op)))


def watched() -> bool:
    """Whether somebody records or watches what runs: a replayed graph would show nothing."""
    return _log.get() is not None or anomaly.watching.get() is not None


@contextlib.contextmanager
def recording():
    """`with recording() as log:` collects (operation, backend) of everything that runs inside."""
    log: list = []
    token = _log.set(log)
    try:
        yield log
    finally:
        _log.reset(token)


@contextlib.contextmanager
def tracing():
    """`with tracing() as trace:` collects (operation, input arrays, attrs, output arrays) of what runs inside."""
    trace: list = []
    token = _trace.set(trace)
    try:
        yield trace
    finally:
        _trace.reset(token)


def explain(subject, *inputs, **attrs):
    """What runs, and why not the other.

    explain("conv2d") or explain("conv2d", x, w, ...): a sentence on one operation, with arguments a definite one.
    explain(trainer): {operation: {backend: how many times}} over one training step; the trainer's state is put back.
    """
    if not isinstance(subject, str):
        return _explain_step(subject)
    if subject not in TABLE:
        raise ValueError(f"explain: operation is {subject!r}, should be one of {', '.join(sorted(TABLE))}")
    if inputs:
        values = [x.data if hasattr(x, "requires_grad") else x for x in inputs]  # of Tensors: arrays have a `data` too
        op, why = choose(subject, values, attrs)
        return f"{subject}: {backend(op)} ({why})"
    row = TABLE[subject]
    words = []
    for device in ("cpu", "cuda"):
        kernel = row.kernels.get(device, "reference: no kernel is written for it")
        words.append(f"{device} {kernel.where if isinstance(kernel, Kernel) else kernel}")
    return f"{subject}: " + "; ".join(words)


def _explain_step(trainer):
    before = {name: array.copy() for name, array in trainer.state().items()}
    try:
        with recording() as log:
            trainer.feed(next(trainer.batches("train")))
            trainer.update()
    finally:
        trainer.load_state(before)
    table: dict[str, Counter] = {}
    for name, backend in log:
        table.setdefault(name, Counter())[backend] += 1
    return {name: dict(count) for name, count in sorted(table.items())}
