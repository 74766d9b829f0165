"""Who is timed on a case: our kernels, and whoever else computes the same on this GPU, each in its best layout.

ours                        Triton kernels on CuPy arrays
torch eager                 where nothing below applies
torch NCHW, channels last   torch's convolutions in both memory formats; the layout is made before the clock starts
SDPA flash, cudnn, ...      each of torch's attention backends by itself; one that refuses is "not run"
torch.compile               of the fastest of those formats: it compiles for long, so it comes last
Liger                       its Triton kernels, where liger_kernel is installed
"""

import functools
import importlib
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as TF
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.gpu.device import NotRun, as_tuple
from bench.parity import comparing
from bench.parity.cases.conv import channels_first, torch_weights
from bench.parity.cases.inputs import ACTS

CONVOLUTIONS: dict[str, Callable] = {"conv2d": TF.conv2d, "conv_transpose2d": TF.conv_transpose2d}
FORMATS = {"torch NCHW": torch.contiguous_format, "torch channels last": torch.channels_last}
BACKENDS = {
    "SDPA flash": SDPBackend.FLASH_ATTENTION,
    "SDPA cudnn": SDPBackend.CUDNN_ATTENTION,
    "SDPA efficient": SDPBackend.EFFICIENT_ATTENTION,
    "SDPA math": SDPBackend.MATH,
}
SMOOTHED = {"seq2seq-demo": 0.1}  # label smoothing of the benches' cases that have some
COMPILED = "torch.compile"


class Run(NamedTuple):
    """One contender on one case, its inputs on the device."""

    forward: Callable  # -> outputs
    both: Callable  # forward and backward -> outputs
    results: Callable  # both -> (outputs, gradients) as arrays on the host, in our layout
    weight: Callable | None = None  # a convolution's weight gradient alone, of a forward pass that was run once
    dw: Callable | None = None  # weight -> that gradient on the host, in our layout


def contenders(case) -> tuple:
    """Names of all who are timed on a case, the slowest to compile last."""
    if case.op in CONVOLUTIONS:
        return "ours", *FORMATS, COMPILED
    if case.op == "attention":
        return "ours", *BACKENDS, COMPILED
    return "ours", "torch eager", *(("Liger",) if case.op in LIGER else ()), COMPILED


def make(device, who, case, arrays, dys, precision) -> Run:
    """The contender `who` on this case, or NotRun."""
    if who == "ours":
        return ours(device, case, arrays, dys, precision)
    inputs = comparing.torch_inputs(case, arrays, precision.dtype, device.torch)
    dys = [None if d is None else torch.from_numpy(d).to(device.torch) for d in dys]
    if case.op in CONVOLUTIONS:
        return _convolution(device, who, case, inputs, dys)
    return _torch(_function(device, who, case), inputs, dys)


def ours(device, case, arrays, dys, precision) -> Run:
    tensors = device.tensors(case, arrays)
    dys = [None if d is None else device.xp.asarray(d) for d in dys]

    def forward():
        with device.kernels(precision.tf32):
            return as_tuple(case.ours(*tensors))

    def both():
        for t in tensors:
            if hasattr(t, "grad"):
                t.grad = None
        with device.kernels(precision.tf32):  # read in the backward pass too
            outputs = as_tuple(case.ours(*tensors))
            comparing.backward_all(outputs, dys)
        return outputs

    def results():
        outputs = both()
        return [device.host(y.data) for y in outputs], [device.host(getattr(t, "grad", None)) for t in tensors]

    run = Run(forward, both, results)
    return _our_weight(device, case, arrays, dys, precision, run) if case.op in CONVOLUTIONS else run


def _our_weight(device, case, arrays, dys, precision, run) -> Run:
    tensors = device.tensors(case, arrays)
    for i, t in enumerate(tensors):
        t.requires_grad = i == 1

    @functools.cache
    def outputs():
        return as_tuple(case.ours(*tensors))

    def weight():
        tensors[1].grad = None
        with device.kernels(precision.tf32):
            comparing.backward_all(outputs(), dys, retain_graph=True)
        return tensors[1].grad

    return run._replace(weight=weight, dw=lambda: device.host(weight()))


def _torch(f, inputs, dys) -> Run:
    """f on these tensors; gradients are dropped before each call, so that none is added to the last one's."""

    def forward():
        return as_tuple(f(*inputs))

    def both():
        for x in inputs:
            x.grad = None
        outputs = forward()
        used = [(y, d) for y, d in zip(outputs, dys) if d is not None]
        torch.autograd.backward([y for y, _ in used], [d for _, d in used])
        return outputs

    return Run(forward, both, lambda: comparing.torch_results(both(), inputs))


def _convolution(device, who, case, inputs, dys) -> Run:
    """torch's convolution on images and weights that lie in one of its formats; results are brought into ours."""
    options = {k: v for k, v in case.options.items() if k != "act"}
    as_format = lambda x: x.detach().contiguous(memory_format=FORMATS.get(who, torch.channels_last))
    x, w, *bias = inputs
    leaves = [as_format(channels_first(x)).requires_grad_(), as_format(torch_weights(w)).requires_grad_(), *bias]
    function, act = CONVOLUTIONS[case.op], ACTS[case.options["act"]]
    f = lambda *leaves: act(function(*leaves, **options))
    dys = [as_format(channels_first(d)) for d in dys]
    run = _torch(compiled(device, f) if who == COMPILED else f, leaves, dys)

    def results():
        ((y,), (dx, dw, *db)) = run.results()
        return [y.transpose(0, 2, 3, 1)], [dx.transpose(0, 2, 3, 1), dw.transpose(2, 3, 1, 0), *db]

    if who == COMPILED:  # it writes over what a second backward pass would need
        return run._replace(results=results)
    weight = _torch_weight(f, leaves, dys)
    return run._replace(results=results, weight=weight, dw=lambda: weight().cpu().numpy().transpose(2, 3, 1, 0))


def _torch_weight(f, leaves, dys) -> Callable:
    x, w, *bias = leaves
    x, *bias = (t.detach() for t in (x, *bias))

    @functools.cache
    def y():
        return f(x, w, *bias)

    return lambda: torch.autograd.grad(y(), w, dys[0], retain_graph=True)[0]


def _function(device, who, case) -> Callable:
    """What torch calls for a case that is no convolution."""
    if who in BACKENDS:
        return _attention(case, BACKENDS[who])
    if who == "Liger":
        return LIGER[case.op](_liger(), SMOOTHED.get(case.name.partition("/")[2], 0.0))
    f = _attention(case, None) if case.op == "attention" else case.torch
    return compiled(device, f) if who == COMPILED else f


def _attention(case, backend) -> Callable:
    """Attention by one backend, or by the one torch chooses: told that it is causal, not given a mask that says so."""
    options = dict(case.options)
    if options.get("causal") and (options.get("causal_offset") or len(case.make) > 3):
        raise NotRun("torch takes no mask beside is_causal")

    def f(q, k, v, mask=None):
        causal = bool(options.get("causal"))
        if backend is None:
            return TF.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=options.get("scale"))
        with sdpa_kernel([backend]):
            return TF.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=options.get("scale"))

    return f


def compiled(device, f) -> Callable:
    """torch.compile's; a dry run only traces."""
    torch._dynamo.reset()
    return torch.compile(f, backend="eager" if device.dry else "inductor")


# --- Liger ----------------------------------------


def _liger():
    try:
        return importlib.import_module("liger_kernel.transformers.functional")
    except ImportError:
        raise NotRun("liger_kernel is not installed") from None


def _cross_entropy(liger, smoothing):
    """It writes its gradient over the logits; so does every call here: times do not depend on what they are."""
    return lambda z, t: liger.liger_cross_entropy(z.reshape(-1, z.shape[-1]), t.reshape(-1), label_smoothing=smoothing)


def _linear_cross_entropy(liger, smoothing):
    return lambda x, w, t: liger.liger_fused_linear_cross_entropy(
        x.reshape(-1, x.shape[-1]), w, t.reshape(-1), label_smoothing=smoothing
    )


LIGER = {  # operation -> its function, from the module and the label smoothing
    "cross_entropy": _cross_entropy,
    "linear_cross_entropy": _linear_cross_entropy,
    "layer_norm": lambda liger, smoothing: lambda x, w, b: liger.liger_layer_norm(x, w, b, 1e-5),
}
WITH_GRADIENT = ("cross_entropy", "linear_cross_entropy")  # of which Liger's forward pass computes the gradient too
