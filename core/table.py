"""The one table of operations: for each its reference and, per device, its kernel or the reason why there is none.

A kernel's limits are a function of the arguments that gives None, or why they are refused, in words.
`assay kernels explain` prints the table; core/dispatch.py chooses from it.

# next: core/dispatch.py, which chooses the implementation
"""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from core import arrays
from core.engine import Op
from core.reference import (
    adversarial,
    attention,
    conv,
    losses,
    matmul,
    norm,
    optim,
    pointwise,
    random,
    shape,
    sinusoids,
)


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

    def refusal(self, arrays_, attrs, first=False):
        """Why not these arguments, or None; the dtype that counts is the result's (that of the `first` input)."""
        arrays_ = [x for x in arrays_ if hasattr(x, "dtype")]
        dtype = arrays_[0].dtype if first else arrays.result_dtype(*arrays_)
        dtype = np.dtype(attrs["dtype"]) if "dtype" in attrs else dtype  # a drawing is told it
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
    half: np.dtype | None = None  # what `use(half=True)` makes of float inputs; None: they stay as they are


# --- limits ----------------------------------------


def _any(inputs, attrs):
    return None


def _floating(inputs, attrs):
    return None if any(arrays.is_float(x) for x in inputs) else "no input is floating"


def _heads(inputs, attrs):
    width = max(inputs[0].shape[-1], inputs[2].shape[-1])
    return None if width <= 256 else f"heads are {width} wide, the kernel takes 256 at most"


def _addressed(inputs, attrs):
    """What the GPU's convolutions count in 32 bits: the taps of an axis, pixels, offsets in an image and in w."""
    x, w = inputs[:2]
    taps = max(w.shape[:2])
    if taps > 31:
        return f"the kernel has {taps} taps on an axis, 31 are the most"
    padding = attrs.get("padding", (0, 0))
    sides = {"x": x.shape, "y": _convolved(x, w, attrs)}
    counts = {f"{side} has {{}} pixels": math.prod(shape[:3]) for side, shape in sides.items()}
    for side, (_, h, width, channels) in sides.items():
        counts[f"one image of {side}, padded, has {{}} elements"] = (h + padding[0]) * (width + padding[1]) * channels
    counts["w has {} elements"] = w.size
    said = (what.format(n) for what, n in counts.items() if n >= 2**31 - 2**12)  # the last block may reach past the end
    return next((f"{what}, the kernel takes fewer than 2^31" for what in said), None)


def _convolved(x, w, attrs):
    """The shape of a convolution's result."""
    stride, padding, dilation = (attrs.get(k, (n, n)) for k, n in (("stride", 1), ("padding", 0), ("dilation", 1)))
    if "output_padding" in attrs:
        more = attrs["output_padding"]
        size = conv.transposed_size(x.shape[1:3], w.shape[:2], stride, padding, more, dilation)
        return len(x), *size, w.shape[2]
    span = conv.span(w.shape[:2], dilation)
    size = ((n + 2 * p - k) // s + 1 for n, p, k, s in zip(x.shape[1:3], padding, span, stride))
    return len(x), *size, w.shape[3]


def _undone(inputs, attrs):
    """The CPU's convolutions tell an activation's derivative from its result."""
    return "gelu is not known from its result alone" if attrs.get("act") == "gelu" else _kept(inputs, attrs)


def _kept(inputs, attrs):
    """What the CPU's epilogues can undo."""
    act, slope = attrs.get("act"), attrs.get("negative_slope", 0.01)
    if act == "gelu_tanh":
        return "gelu_tanh is not among the kernel's activations"
    if act == "leaky_relu" and not slope >= 0:
        return f"negative_slope is {slope}, which hides the sign that leaky_relu was given"
    return _floating(inputs, attrs)


def _filled(inputs, attrs):
    return _floating(inputs, attrs) if inputs[0].size else "there is nothing to normalise"


def _narrow(inputs, attrs):
    width = inputs[0].shape[-1] // attrs.get("num_groups", 1)
    return (
        f"groups are {width} channels wide, the kernel takes 8192 at most" if width > 8192 else _floating(inputs, attrs)
    )


def _comparing(inputs, attrs):
    act = attrs.get("act")
    if act not in (None, "relu", "leaky_relu"):
        return f"act is {act}, the kernel takes relu and leaky_relu"
    return _filled(inputs, attrs)


# --- rows ----------------------------------------

DTYPES = {"cpu": ("float32",), "gpu": ("float32", "float16")}


class Why(str):
    """Why there is no kernel, in the place where a row would name its file."""


MOVES = Why("a view or a copy, no arithmetic")
MEMORY = Why("NumPy's own loop waits for memory, no other would be faster")
TINY = Why("it is too small to matter")
MEETS = Why("it waits for other ranks in the middle")


def _kernel(name, folder, said, dtypes):
    """The kernel in kernels/<folder>: `said` names its file, or (file, limits), or is a Why where there is none."""
    if isinstance(said, Why):
        return f"reference by design: {said}"
    file, limits = said if isinstance(said, tuple) else (said, _floating)
    return Kernel(f"kernels.{folder}.{file}:{name}", dtypes, limits)


def _row(name, reference, cpu, gpu, **options):
    """Row of an operation; state (a name that ends in _) is float32 everywhere, but for a cache, which is data."""
    on_gpu = DTYPES["cpu" if name.endswith("_") and name != "cache_" else "gpu"]
    kernels = {"cpu": _kernel(name, "cpu", cpu, DTYPES["cpu"]), "cuda": _kernel(name, "gpu", gpu, on_gpu)}
    return name, Row(reference, kernels, **options)


# Elementwise operations with an exponential or a condition in them have a loop of their own on the CPU.
HALF, FULL = np.dtype(np.float16), np.dtype(np.float32)
LOOPS = ("relu", "leaky_relu", "gelu", "gelu_tanh", "silu", "softplus", "tanh", "sigmoid")

# fmt: off
TABLE: dict[str, Row] = dict([
    *(_row(name, op, "pointwise" if name in LOOPS else MEMORY, "pointwise") for name, op in pointwise.OPS.items()),
    *(_row(name, op, MOVES, MOVES) for name, op in shape.MOVES.items() if name != "astype"),
    _row("astype", shape.MOVES["astype"], MOVES, MOVES, result="given"),
    *(_row(name, op, MEMORY, "pointwise") for name, op in shape.REDUCTIONS.items()),
    _row("matmul", matmul.matmul, Why("BLAS does all of it"), "matmul", half=HALF),
    _row("linear", matmul.linear, ("matmul", _kept), "matmul", half=HALF),
    _row("conv2d", conv.conv2d, ("conv", _undone), ("conv", _addressed), half=HALF),
    _row("conv_transpose2d", conv.conv_transpose2d, ("conv", _undone), ("conv", _addressed), half=HALF),
    _row("attention", attention.attention, ("attention", _heads), ("attention", _heads), half=HALF),
    _row("layer_norm", norm.layer_norm, "norm", "norm", result="first", half=FULL),
    _row("add_layer_norm", norm.add_layer_norm, "norm", "norm", result="first", half=FULL),
    _row("group_norm", norm.group_norm, ("group_norm", _filled), ("group_norm", _narrow), result="first", half=FULL),
    _row("batch_norm", norm.batch_norm, ("norm", _comparing), "norm", result="first", wide=(1, 2)),
    _row("sync_batch_norm", norm.sync_batch_norm, MEETS, MEETS, result="first", wide=(1, 2)),
    _row("batch_norm_eval", norm.batch_norm_eval, ("norm", _comparing), "norm", result="first"),
    _row("embedding", shape.embedding, "embedding", "embedding"),
    _row("upsample_nearest", shape.upsample_nearest, "upsample", "upsample"),
    _row("timestep_embedding", sinusoids.timestep_embedding, TINY, ("sinusoids", _any)),
    _row("dropout", random.dropout, "random", "random"),
    _row("softmax", losses.softmax, "losses", "softmax", half=FULL),
    _row("log_softmax", losses.log_softmax, "losses", "softmax", half=FULL),
    _row("cross_entropy", losses.cross_entropy, "losses", "losses", half=FULL),
    _row("linear_cross_entropy", losses.linear_cross_entropy, "linear_losses", "losses", half=FULL),
    _row("bce_with_logits", losses.bce_with_logits, "variational", "variational", half=FULL),
    _row("discriminator_loss", adversarial.discriminator_loss, TINY, "adversarial", half=FULL),
    _row("generator_loss", adversarial.generator_loss, TINY, "adversarial", half=FULL),
    _row("gaussian_kl", losses.gaussian_kl, "variational", "variational", half=FULL),
    _row("reparameterize", losses.reparameterize, "reparameterize", "reparameterize", half=FULL),
    _row("elbo", losses.elbo, "variational", "variational", half=FULL),
    # Drawings: random numbers of a shape from the generator's key, f(shape, seed, draw, step, dtype). These are all.
    _row("normal", random.normal, ("random", _any), ("random", _any)),
    _row("uniform", random.uniform, ("random", _any), ("random", _any)),
    _row("keep_mask", random.keep_mask, ("random", _any), ("random", _any)),
    # State operations: no gradient, and they write into the arrays they are given. These are all of them.
    _row("running_stats_", norm.running_stats_, TINY, ("norm", _any)),
    _row("adam_", optim.adam_, ("optim", _any), ("optim", _any)),
    _row("sgd_", optim.sgd_, ("optim", _any), ("optim", _any)),
    _row("ema_", optim.ema_, MEMORY, ("optim", _any)),
    _row("clip_grad_norm_", optim.clip_grad_norm_, ("optim", _any), ("optim", _any)),
    _row("unscale_", optim.unscale_, ("optim", _any), ("optim", _any)),
    _row("advance_", random.advance_, TINY, ("optim", _any)),
    _row("cache_", shape.cache_, Why("a copy, no arithmetic"), ("optim", _any)),
])
# fmt: on
