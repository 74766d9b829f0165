"""The one table of operations: for each its reference and, per device, its kernel or the reason why there is none.

One family name stands for an operation everywhere: conv2d is in core/reference/conv.py, and its kernels are in
kernels/cpu/conv.py and kernels/gpu/conv.py under the same name. A row says which inputs each kernel supports, by a
function of the arguments that gives None, or in words why the reference takes them instead.
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
    batch_norm,
    conv,
    cross_entropy,
    embedding,
    group_norm,
    layer_norm,
    matmul,
    optim,
    pointwise,
    random,
    reductions,
    reparameterize,
    shape,
    softmax,
    upsample,
    variational,
)


@dataclass(frozen=True)
class Kernel:
    """A kernel's place ("kernels.cpu.conv:conv2d", imported when first used), its dtypes and the inputs it supports."""

    where: str
    dtypes: tuple = ("float32",)
    supports: Callable = lambda arrays, attrs: None  # -> None, or the reason in words why these arguments are refused

    def load(self):
        module, name = self.where.split(":")
        return getattr(importlib.import_module(module), name)

    def fallback_reason(self, arrays_, attrs, first=False):
        """Why not these arguments, or None; the dtype that counts is the result's (that of the `first` input)."""
        arrays_ = [x for x in arrays_ if hasattr(x, "dtype")]
        dtype = arrays_[0].dtype if first else arrays.result_dtype(*arrays_)
        dtype = np.dtype(attrs["dtype"]) if "dtype" in attrs else dtype  # random operations get theirs as an option
        if dtype is not None and str(dtype) not in self.dtypes:
            return f"dtype is {dtype}, the kernel takes {', '.join(self.dtypes)}"
        return self.supports(arrays_, attrs)


@dataclass(frozen=True)
class Row:
    """One operation: its reference, its kernels per device ("cpu", "cuda"), the dtype of its results."""

    reference: Op | Callable
    kernels: dict = field(default_factory=dict)  # device -> Kernel, or "reference by design: <why>"
    result: str = "widest"  # "widest" floating dtype among the inputs, that of the "first" input, or "given" by attrs
    keep_float32: tuple = ()  # outputs that stay in the dtype of the arithmetic: statistics of float16 data
    autocast: np.dtype | None = None  # what `use(half=True)` makes of float inputs; None: they stay as they are


# --- supported inputs: None, or why not ----------------------------------------


def anything(inputs, attrs):
    return None


def floating(inputs, attrs):
    return None if any(arrays.is_float(x) for x in inputs) else "no input is floating"


def heads_up_to_256(inputs, attrs):
    width = max(inputs[0].shape[-1], inputs[2].shape[-1])
    return None if width <= 256 else f"heads are {width} wide, the kernel takes 256 at most"


def fits_int32(inputs, attrs):
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


def invertible_activation(inputs, attrs):
    """The CPU's epilogues tell an activation's derivative from what they have kept: of linear, also its input."""
    act, slope = attrs.get("act"), attrs.get("negative_slope", 0.01)
    if act == "gelu_tanh":
        return "gelu_tanh is not among the kernel's activations"
    if act == "leaky_relu" and not slope >= 0:
        return f"negative_slope is {slope}, which hides the sign that leaky_relu was given"
    return floating(inputs, attrs)


def derivative_from_result(inputs, attrs):
    """The CPU's convolutions keep the result alone."""
    return (
        "gelu is not known from its result alone"
        if attrs.get("act") == "gelu"
        else invertible_activation(inputs, attrs)
    )


def not_empty(inputs, attrs):
    return floating(inputs, attrs) if inputs[0].size else "there is nothing to normalise"


def narrow_groups(inputs, attrs):
    width = inputs[0].shape[-1] // attrs.get("num_groups", 1)
    return (
        f"groups are {width} channels wide, the kernel takes 8192 at most" if width > 8192 else floating(inputs, attrs)
    )


def piecewise_linear(inputs, attrs):
    act = attrs.get("act")
    if act not in (None, "relu", "leaky_relu"):
        return f"act is {act}, the kernel takes relu and leaky_relu"
    return not_empty(inputs, attrs)


# --- rows ----------------------------------------

FLOAT16, FLOAT32 = np.dtype(np.float16), np.dtype(np.float32)


class NoKernel(str):
    """Why there is no kernel, in the place where a row would say what it supports."""


MOVES = NoKernel("a view or a copy, no arithmetic")
MEMORY = NoKernel("NumPy's own loop waits for memory, no other would be faster")
TINY = NoKernel("it is too small to matter")
COMMUNICATES = NoKernel("it waits for other ranks in the middle")


def family(reference: Op | Callable) -> str:
    """The file that an operation has everywhere, by its reference's module."""
    function = reference.forward if isinstance(reference, Op) else reference
    return function.__module__.rpartition(".")[2]


def row(reference: Op | Callable, *, cpu=floating, gpu=floating, gpu_dtypes=("float32", "float16"), **options) -> tuple:
    """(name, Row). cpu and gpu: which inputs the kernel supports, or a NoKernel."""
    name = reference.name if isinstance(reference, Op) else reference.__name__

    def kernel(folder, supports, dtypes):
        if isinstance(supports, NoKernel):
            return f"reference by design: {supports}"
        return Kernel(f"kernels.{folder}.{family(reference)}:{name}", dtypes, supports)

    return name, Row(
        reference, {"cpu": kernel("cpu", cpu, ("float32",)), "cuda": kernel("gpu", gpu, gpu_dtypes)}, **options
    )


def state(reference, *, cpu=anything) -> tuple:
    """(name, Row) of an operation without a gradient that writes into the float32 arrays it is given."""
    return row(reference, cpu=cpu, gpu=anything, gpu_dtypes=("float32",))


# Elementwise operations with an exponential or a condition in them have a loop of their own on the CPU.
LOOPS = ("relu", "leaky_relu", "gelu", "gelu_tanh", "silu", "softplus", "tanh", "sigmoid")

# fmt: off
TABLE: dict[str, Row] = dict([
    *(row(op, cpu=floating if name in LOOPS else MEMORY) for name, op in pointwise.OPS.items()),
    *(row(op, cpu=MOVES, gpu=MOVES) for name, op in shape.MOVES.items() if name != "astype"),
    row(shape.MOVES["astype"], cpu=MOVES, gpu=MOVES, result="given"),
    *(row(op, cpu=MEMORY) for op in reductions.REDUCTIONS.values()),
    row(matmul.matmul, cpu=NoKernel("BLAS does all of it"), autocast=FLOAT16),
    row(matmul.linear, cpu=invertible_activation, autocast=FLOAT16),
    row(conv.conv2d, cpu=derivative_from_result, gpu=fits_int32, autocast=FLOAT16),
    row(conv.conv_transpose2d, cpu=derivative_from_result, gpu=fits_int32, autocast=FLOAT16),
    row(attention.attention, cpu=heads_up_to_256, gpu=heads_up_to_256, autocast=FLOAT16),
    row(layer_norm.layer_norm, result="first", autocast=FLOAT32),
    row(layer_norm.add_layer_norm, result="first", autocast=FLOAT32),
    row(group_norm.group_norm, cpu=not_empty, gpu=narrow_groups, result="first", autocast=FLOAT32),
    row(batch_norm.batch_norm, cpu=piecewise_linear, result="first", keep_float32=(1, 2)),
    row(batch_norm.sync_batch_norm, cpu=COMMUNICATES, gpu=COMMUNICATES, result="first", keep_float32=(1, 2)),
    row(batch_norm.batch_norm_eval, cpu=piecewise_linear, result="first"),
    row(embedding.embedding),
    row(embedding.timestep_embedding, cpu=TINY, gpu=anything),
    row(upsample.upsample_nearest),
    row(random.dropout),
    row(softmax.softmax, autocast=FLOAT32),
    row(softmax.log_softmax, autocast=FLOAT32),
    row(cross_entropy.cross_entropy, autocast=FLOAT32),
    row(cross_entropy.linear_cross_entropy, autocast=FLOAT32),
    row(variational.bce_with_logits, autocast=FLOAT32),
    row(variational.gaussian_kl, autocast=FLOAT32),
    row(variational.elbo, autocast=FLOAT32),
    row(reparameterize.reparameterize, autocast=FLOAT32),
    row(adversarial.discriminator_loss, cpu=TINY, autocast=FLOAT32),
    row(adversarial.generator_loss, cpu=TINY, autocast=FLOAT32),
    # Random numbers of a shape from the generator's key, f(shape, seed, draw, step, dtype). These are all.
    row(random.normal, cpu=anything, gpu=anything),
    row(random.uniform, cpu=anything, gpu=anything),
    row(random.keep_mask, cpu=anything, gpu=anything),
    # State operations: no gradient, and they write into the arrays they are given. These are all of them.
    state(batch_norm.running_stats_, cpu=TINY),
    state(optim.adam_),
    state(optim.sgd_),
    state(optim.ema_, cpu=MEMORY),
    state(optim.clip_grad_norm_),
    state(optim.unscale_),
    state(random.advance_, cpu=TINY),
    row(attention.cache_, cpu=NoKernel("a copy, no arithmetic"), gpu=anything),
])
# fmt: on
