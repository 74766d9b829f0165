"""Which implementation runs: the one table of operations, and the one place where a choice is made.

Each row of TABLE holds an operation's reference and, per device, the kernel that may replace it (with its dtypes and
its limits in words) or the reason why there is none. `use` sets the mode, `explain` says what runs and why.

    auto       the kernel where dtype and limits allow it, else the reference        (the default)
    kernels    an operation that has a kernel uses it or raises KernelLimit
    reference  no kernel
"""

import contextlib
import importlib
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np

from core import arrays
from core.op import Op
from core.reference import attention, conv, losses, matmul, norm, optim, pointwise, random, shape


class KernelLimit(ValueError):
    """Raised in mode "kernels" when an operation has a kernel that cannot take these arguments."""


def _named(place: str):
    """What "module:name" names, imported now."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Kernel:
    """A kernel's place ("kernels.cpu.conv:conv2d", imported when first used), its dtypes and its limits."""

    where: str
    dtypes: tuple = ("float32",)
    limits: Callable = lambda arrays, attrs: None  # -> None, or the reason in words why these arguments are refused

    def load(self):
        return _named(self.where)

    def refusal(self, arrays_, attrs):
        arrays_ = [x for x in arrays_ if hasattr(x, "dtype")]
        dtype = arrays.result_dtype(*arrays_)
        if dtype is not None and str(dtype) not in self.dtypes:
            return f"dtype is {dtype}, the kernel takes {', '.join(self.dtypes)}"
        return self.limits(arrays_, attrs)


@dataclass(frozen=True)
class Row:
    """One operation: its reference, its kernels per device ("cpu", "cuda"), the dtype of its results."""

    reference: Op | Callable
    kernels: dict = field(default_factory=dict)  # device -> Kernel, or "reference by design: <why>"
    result: str = "widest"  # "widest" floating dtype among the inputs, that of the "first" input, or "given" by attrs
    wide: tuple = ()  # outputs that stay in the dtype of the arithmetic: statistics of float16 data


def _views(why):
    return {"cpu": f"reference by design: {why}", "cuda": f"reference by design: {why}"}


def _floating(inputs, attrs):
    return None if any(arrays.is_float(x) for x in inputs) else "no input is floating"


def _heads(inputs, attrs):
    width = max(inputs[0].shape[-1], inputs[2].shape[-1])
    return None if width <= 256 else f"heads are {width} wide, the kernel takes 256 at most"


def _taps(inputs, attrs):
    taps = max(inputs[1].shape[:2])
    return None if taps <= 31 else f"the kernel has {taps} taps on an axis, 31 are the most"


def _in_place(file, op):
    """The row's Triton kernel of a state operation."""
    return {"cuda": Kernel(f"kernels.gpu.{file}:{op}")}


def _cpu(file, op, limits=_floating):
    """The row's Numba kernel, kernels/cpu/<file>.py:<op>."""
    return {"cpu": Kernel(f"kernels.cpu.{file}:{op}", ("float32",), limits)}


def _gpu(file, op, limits=_floating):
    """The row's Triton kernel, kernels/gpu/<file>.py:<op>."""
    return {"cuda": Kernel(f"kernels.gpu.{file}:{op}", ("float32", "float16"), limits)}


def _both(file, op, limits=_floating):
    """The row's kernels, which lie in files of one name."""
    return {**_cpu(file, op, limits), **_gpu(file, op, limits)}


CPU_POINTWISE = ("gelu",)  # elementwise operations with a loop of their own


def _pointwise(name):
    """The row's kernels of an elementwise operation."""
    plain = {"cpu": "reference by design: NumPy's own loop waits for memory, no other would be faster"}
    return {**(_cpu("pointwise", name) if name in CPU_POINTWISE else plain), **_gpu("pointwise", name)}


TABLE: dict[str, Row] = {
    **{name: Row(op, _pointwise(name)) for name, op in pointwise.OPS.items()},
    **{name: Row(op, _views("a view or a copy, no arithmetic")) for name, op in shape.MOVES.items()},
    "astype": Row(shape.MOVES["astype"], _views("a view or a copy, no arithmetic"), result="given"),
    **{name: Row(op, _gpu("pointwise", name)) for name, op in shape.REDUCTIONS.items()},
    "matmul": Row(matmul.matmul, _gpu("matmul", "matmul")),
    "linear": Row(matmul.linear, _gpu("matmul", "linear")),
    "conv2d": Row(conv.conv2d, _gpu("conv", "conv2d", _taps)),
    "conv_transpose2d": Row(conv.conv_transpose2d, _gpu("conv", "conv_transpose2d", _taps)),
    "attention": Row(attention.attention, _both("attention", "attention", _heads)),
    "layer_norm": Row(norm.layer_norm, _gpu("norm", "layer_norm"), result="first"),
    "add_layer_norm": Row(norm.add_layer_norm, _gpu("norm", "add_layer_norm"), result="first"),
    "batch_norm": Row(norm.batch_norm, _gpu("norm", "batch_norm"), result="first", wide=(1, 2)),
    "batch_norm_eval": Row(norm.batch_norm_eval, _gpu("norm", "batch_norm_eval"), result="first"),
    "embedding": Row(shape.embedding, _gpu("embedding", "embedding")),
    "dropout": Row(random.dropout, _gpu("random", "dropout")),
    "softmax": Row(losses.softmax, _both("losses", "softmax")),
    "log_softmax": Row(losses.log_softmax, _both("losses", "log_softmax")),
    "cross_entropy": Row(losses.cross_entropy, _both("losses", "cross_entropy")),
    "linear_cross_entropy": Row(
        losses.linear_cross_entropy,
        {**_cpu("linear_losses", "linear_cross_entropy"), **_gpu("losses", "linear_cross_entropy")},
    ),
    "bce_with_logits": Row(losses.bce_with_logits, _both("variational", "bce_with_logits")),
    "gaussian_kl": Row(losses.gaussian_kl, _both("variational", "gaussian_kl")),
    "reparameterize": Row(losses.reparameterize, _gpu("variational", "reparameterize")),
    "elbo": Row(losses.elbo, _both("variational", "elbo")),
    # State operations: no gradient, and they write into the arrays they are given. These are all of them.
    "running_stats_": Row(norm.running_stats_, _in_place("norm", "running_stats_")),
    "adam_": Row(optim.adam_, _in_place("optim", "adam_")),
    "sgd_": Row(optim.sgd_, _in_place("optim", "sgd_")),
    "clip_grad_norm_": Row(optim.clip_grad_norm_, _in_place("optim", "clip_grad_norm_")),
    "advance_": Row(random.advance_, _in_place("optim", "advance_")),
    "cache_": Row(shape.cache_, _in_place("optim", "cache_")),
}

MODES = ("auto", "kernels", "reference")
_mode: ContextVar[str] = ContextVar("mode", default="auto")
_log: ContextVar[list | None] = ContextVar("log", default=None)
_device: ContextVar[str | None] = ContextVar("device", default=None)


@contextlib.contextmanager
def use(mode: str):
    """`with use("reference"):` chooses among implementations for the operations called inside."""
    if mode not in MODES:
        raise ValueError(f"use: mode is {mode!r}, should be one of {', '.join(MODES)}")
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


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
    refusal = kernel.refusal(inputs, attrs)
    if refusal is None:
        return kernel.load(), f"{kernel.where} takes these arguments"
    if mode == "kernels":
        raise KernelLimit(f"{name}: {refusal}")
    return row.reference, refusal


def forward(name: str, inputs, attrs) -> tuple:
    """Run one operation: (the implementation that ran, y, saved)."""
    op, _ = choose(name, inputs, attrs)
    record(name, op)
    if op.backend != "reference":
        return op, *op.forward(*inputs, **attrs)
    dtype = _dtype(name, inputs)
    with np.errstate(all="ignore"):  # as torch: inf and nan are values, not warnings
        y, saved = op.forward(*(_cast(x, arrays.compute_dtype(dtype)) for x in inputs), **attrs)
        if isinstance(y, tuple):
            return op, tuple(v if i in TABLE[name].wide else _cast(v, dtype) for i, v in enumerate(y)), saved
        return op, _cast(y, dtype), saved


def backward(op: Op, saved, dy, needs, attrs) -> tuple:
    """The gradients of one operation, by the implementation that ran forward."""
    if op.backend != "reference":
        return op.backward(saved, dy, needs, **attrs)
    with np.errstate(all="ignore"):
        dy = tuple(_upcast(v) for v in dy) if isinstance(dy, tuple) else _upcast(dy)
        return op.backward(saved, dy, needs, **attrs)


def run_(name: str, *inputs, **attrs):
    """Run one state operation, which writes into the arrays it is given."""
    op, _ = choose(name, inputs, attrs)
    record(name, op)
    with np.errstate(all="ignore"):
        return op(*inputs, **attrs)


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


def record(name, op):
    log = _log.get()
    if log is not None:
        log.append((name, getattr(op, "backend", "reference")))


@contextlib.contextmanager
def recording():
    """`with recording() as log:` collects (operation, backend) of everything that runs inside."""
    log: list = []
    token = _log.set(log)
    try:
        yield log
    finally:
        _log.reset(token)


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
        values = [getattr(x, "data", x) if not hasattr(x, "__array_interface__") else x for x in inputs]
        op, why = choose(subject, values, attrs)
        return f"{subject}: {getattr(op, 'backend', 'reference')} ({why})"
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
