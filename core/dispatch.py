"""Which implementation runs: the one place where a choice is made.

core/table.py holds, for each operation, its reference and, per device, the kernel that may replace it (with its dtypes
and its limits in words) or the reason why there is none. `run` chooses one and hands it to `engine.apply`. `use` sets
the modes, `explain` says what runs and why.

    auto       the kernel where dtype and limits allow it, else the reference        (the default)
    kernels    an operation that has a kernel uses it or raises KernelLimit
    reference  no kernel

Two switches stand beside the mode. tf32 is read by products on a GPU: float32 goes through the tensor cores in three
passes, as exact as float32, or in one with `use(tf32=True)`, about three digits for speed. With `use(half=True)`
products take float16 and losses float32, whatever they are given (the table says which).

# next: core/arrays.py, what dtype a result has, and long sums
"""

import functools
from collections import Counter
from contextvars import ContextVar

import numpy as np

from core import arrays
from core.engine import Op, Tensor, apply, observers, operands, scoped, value
from core.observe import recording
from core.reference import pointwise, shape
from core.table import TABLE, Kernel


class KernelLimit(ValueError):
    """Raised in mode "kernels" when an operation has a kernel that cannot take these arguments."""


MODES = ("auto", "kernels", "reference")
OPERATORS = {*pointwise.OPS, *shape.MOVES, "matmul"}  # operations none of whose operands may be left out
_mode: ContextVar[str] = ContextVar("mode", default="auto")
_tf32: ContextVar[bool] = ContextVar("tf32", default=False)
_half: ContextVar[bool] = ContextVar("half", default=False)
_device: ContextVar[str | None] = ContextVar("device", default=None)


def use(mode: str | None = None, *, tf32: bool | None = None, half: bool | None = None):
    """`with use("reference"):` chooses among implementations for the operations called inside; `with use(tf32=True):`
    lets float32 products inside, forward or backward, take one TF32 pass; with `use(half=True)` products called inside
    take float16 copies of float32 inputs, and losses float32 ones of float16, as torch.autocast does: gradients come
    back in the dtype of the originals. What is None stays as it is."""
    if mode not in (None, *MODES):
        raise ValueError(f"use: mode is {mode!r}, should be one of {', '.join(MODES)}")
    for name, switch in (("tf32", tf32), ("half", half)):
        if not isinstance(switch, bool | None):
            raise ValueError(f"use: {name} is {switch!r}, should be True, False or None")
    modes: list[tuple[ContextVar, object]] = [(_mode, mode), (_tf32, tf32), (_half, half)]
    return scoped(*(setting for setting in modes if setting[1] is not None))


def tf32() -> bool:
    """Whether a float32 product may take one TF32 pass, here and now."""
    return _tf32.get()


def on(device: str):
    """`with on("cuda"):` kernels of this device run whatever the arrays are: Triton's interpreter takes NumPy's."""
    return scoped((_device, device))


def modes() -> tuple:
    """What `use` and `on` have set here: a step that was captured under other modes is another one."""
    return _mode.get(), _tf32.get(), _half.get(), _device.get()


def choose(name: str, inputs, attrs) -> tuple:
    """The implementation that runs in the current mode, and the reason in words."""
    row, mode = TABLE[name], _mode.get()
    inputs = [x for v in inputs for x in (v if isinstance(v, list) else (v,))]  # optimisers pass lists of arrays
    on_gpu = any(arrays.is_cupy(x) for x in inputs)
    device = _device.get() or ("cuda" if on_gpu else "cpu")
    kernel = row.kernels.get(device, f"no {device} kernel is written for it")
    if not isinstance(kernel, Kernel):
        return row.reference, kernel
    if mode == "reference":
        return row.reference, "mode is 'reference'"
    reason = kernel.fallback_reason(inputs, attrs, row.result == "first")
    if reason is None:
        return kernel.load(), f"{kernel.where} takes these arguments"
    if mode == "kernels":
        raise KernelLimit(f"{name}: {reason}")
    return row.reference, reason


def run(name: str, *inputs, **attrs):
    """Run operation `name` on Tensors, arrays, numbers or None, and record it: a Tensor, or a tuple of them."""
    if _half.get() and TABLE[name].autocast is not None:
        inputs = tuple(_as_dtype(x, TABLE[name].autocast) for x in inputs)
    if name in OPERATORS and any(x is None for x in inputs):
        raise TypeError(f"{name}: an operand is None, should be a Tensor, an array or a number")
    values = operands(name, inputs)
    op, _ = choose(name, values, attrs)
    op = _in_compute_dtype(name, op) if op.backend == "reference" else op
    return apply(op, *(x if isinstance(x, Tensor) else v for x, v in zip(inputs, values)), **attrs)


def run_(name: str, *inputs, **attrs):
    """Run one operation without a gradient: a drawing, or a state operation, which writes into its arrays."""
    op, _ = choose(name, inputs, attrs)
    watching = observers.get()
    before = [observer.before_state(inputs) for observer in watching]
    with np.errstate(all="ignore"):
        result = op(*inputs, **attrs)
    for observer, seen in zip(watching, before):
        observer.state(name, backend(op), inputs, attrs, seen, result)
    return result


def _as_dtype(x, dtype):
    """A float16 or float32 input in the other of the two, recorded; statistics and scalars stay as they are."""
    if getattr(x, "ndim", 0) == 0 or x.dtype not in (np.float16, np.float32) or x.dtype == dtype:
        return x
    return run("astype", x, dtype=dtype)


@functools.cache
def _in_compute_dtype(name, op):
    """A reference that is given the dtype it computes in (float32 for float16), with results in its inputs' dtype."""
    result, keep_float32 = TABLE[name].result, TABLE[name].keep_float32

    def forward(*inputs, **attrs):
        dtype = None if result == "given" else inputs[0].dtype if result == "first" else arrays.result_dtype(*inputs)
        y, saved = op.forward(*(_cast(x, arrays.compute_dtype(dtype)) for x in inputs), **attrs)
        if isinstance(y, tuple):
            return tuple(v if i in keep_float32 else _cast(v, dtype) for i, v in enumerate(y)), saved
        return _cast(y, dtype), saved

    def backward(saved, dy, needs_input_grad, **attrs):
        dy = tuple(_upcast(v) for v in dy) if isinstance(dy, tuple) else _upcast(dy)
        return op.backward(saved, dy, needs_input_grad, **attrs)

    return Op(name, forward, backward)


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
        op, why = choose(subject, [value(x) for x in inputs], attrs)
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
