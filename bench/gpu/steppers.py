"""Who takes training steps on a GPU: ours, and PyTorch in each way that people make it fast. All show first that they
compute the same.

What everybody is held to is a step of ours by the reference on the CPU. Ours on the device starts from its state and
draws the same numbers by itself; torch eager is fed its draws. What cannot be fed, compiled and captured steps, takes a
step from the same seed as torch eager and has to have its losses; compiled ones without dropout, whose masks come in an
order of their own.

ours                             Trainer.step(batch, read=False)
torch eager                      fused Adam; images channels first, as most people have them
torch eager, channels last       images as the tensor cores want them; so with all that follow
CUDA graph                       the whole step, optimisers included, captured by hand with capturable Adam: static
                                 inputs, warmed up on a stream of its own, random numbers by torch's generator
torch.compile ...                forward passes and losses, and what autograd makes of them, in its three modes

Batches come from the host in each step on all sides, torch's from pinned memory without waiting.

In float16 ours is Trainer(precision="fp16"), torch's torch.autocast and GradScaler. A scaler asks the host whether to
step, which no capture allows, unless the optimiser is fused: that takes scale and overflow as numbers on the device, so
that the CUDA graph holds scaling, the look for overflows, Adam and the next scale as well. Float16's losses are held to
the bound of float32's, 1e-3: on a CPU torch.autocast's own are up to 3.4e-4 off (the KL of the paper's VAE).
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bench.cpu.worker import TOLERANCE
from bench.parity import small_models
from core import dispatch, random
from models import MODELS

EAGER, LAST, GRAPH = "torch eager", "torch eager, channels last", "CUDA graph"
MODES = {
    "torch.compile": "default",
    "torch.compile reduce-overhead": "reduce-overhead",
    "torch.compile max-autotune": "max-autotune",
}
IMAGES = ("gan", "vae", "diffusion")
BATCHES = 4  # different ones that the timed steps take in turn
SEED = 1
SCALE = 64.0  # of float16's losses at first: an overflow makes nothing of a step, and a VAE's gradients do from 128
TRAINED = {"float32": "fp32", "tf32": "tf32", "float16": "fp16"}  # precisions, as trainers call them
WARM = 5  # steps before a capture, and before the timed ones: reduce-overhead captures in the second or third


class Start(NamedTuple):
    """Where all begin: a trainer of ours on the CPU before its first step, and what that step drew and found."""

    trainer: Any
    batches: list
    draws: list
    losses: dict


class Side(NamedTuple):
    """A contender whose losses were `off` by so much from the reference's; build() -> what takes the next step."""

    off: float
    build: Callable


def contenders(model) -> tuple:
    """All of a model's, the slowest to compile last."""
    return "ours", EAGER, *((LAST,) if model in IMAGES else ()), GRAPH, *MODES


@functools.cache
def trainer(model, preset, batch, dry) -> Any:
    """Ours on the CPU; in a dry run a small one."""
    changes: Any = small_models.SMALL[model] if dry else {}
    config = MODELS[model].Config.preset(preset, **{**changes, "batch": batch})
    with dispatch.use("reference"):
        return MODELS[model](config, data=small_models.dataset(model) if dry else None)


@functools.cache
def start(*which) -> Start:
    """Arguments as `trainer` has them."""
    t = trainer(*which)
    batches = [tuple(np.array(a) for a in batch) for batch in itertools.islice(t.batches("train"), BATCHES)]
    before = {name: a.copy() for name, a in t.state().items()}
    with dispatch.use("reference"), random.record() as draws:
        losses = t.step(batches[0])
    t.load_state(before)
    return Start(t, batches, draws, losses)


def on_device(device, t, precision="fp32") -> Any:
    """A trainer of ours on the device, in the state that `t` has on the CPU, in a precision of its own."""
    known = {"tokenizer": t.tokenizer} if hasattr(t, "tokenizer") else {}
    data = dataclasses.replace(t.data, **known)
    other = MODELS[t.kind](t.config, device=device.torch, data=data, precision=precision)
    other.load_state({**other.state(), **t.state()})
    for scale in other.scales.values():
        scale.scale[...] = SCALE
    return other


def make(device, who, begin: Start, precision) -> Side:
    """The contender, once its first step was right."""
    return _ours(device, begin, precision) if who == "ours" else _torch(device, who, begin, precision)


def _ours(device, begin, precision) -> Side:
    def new():
        return on_device(device, begin.trainer, TRAINED[precision.name])

    def build():
        t, turn = new(), itertools.cycle(begin.batches)
        return lambda: t.step(next(turn), read=False)

    return Side(difference(begin.losses, new().step(begin.batches[0])), build)


def difference(wanted: dict, found: dict) -> float:
    """How far apart what should be the same is, over the larger of 1 and its size; beyond the tolerance it raises."""
    largest = 0.0
    for name, a in wanted.items():
        off = float(np.max(np.abs(np.asarray(a) - np.asarray(found[name]))) / max(1.0, float(np.max(np.abs(a)))))
        if not off <= TOLERANCE:
            raise ArithmeticError(f"{name} is {off:.1e} off the reference's: nothing is timed")
        largest = max(largest, off)
    return largest


# --- PyTorch ----------------------------------------


def _torch(device, who, begin, precision) -> Side:
    import torch

    from bench.torch_models import COUNTERPARTS

    form = torch.channels_last if begin.trainer.kind in IMAGES and who != EAGER else torch.contiguous_format
    how = {"memory_format": form, "fused": True, "device": device.torch}
    how |= {"scale": SCALE} if precision.dtype == "float16" else {}

    def new(**options):
        counterpart = COUNTERPARTS[begin.trainer.kind](begin.trainer, **how, **options)
        counterpart.feed(None)
        return counterpart

    def build():
        counterpart = prepared(device, who, new, begin)
        turn = itertools.cycle([_pinned(device, counterpart, batch) for batch in begin.batches])
        if who == GRAPH:  # its buffers are on the device already
            return lambda: counterpart.advance(*next(turn))
        return lambda: counterpart.advance(*(x.to(device.torch, non_blocking=True) for x in next(turn)))

    off = difference(begin.losses, new().step(begin.batches[0], begin.draws))
    if who == GRAPH:
        off = max(off, _from_one_seed(begin, new(), prepared(device, who, new, begin)))
    elif who in MODES:
        with _comparable_draws():
            counterparts = new(), prepared(device, who, new, begin)
            off = max(off, _from_one_seed(begin, *map(_without_dropout, counterparts)))
    return Side(off, build)


def _from_one_seed(begin, *counterparts) -> float:
    """How far apart the losses are of two counterparts' first steps, which draw by themselves."""
    import torch

    losses = []
    for counterpart in counterparts:
        torch.manual_seed(SEED)
        losses.append(counterpart.step(begin.batches[0]))
    return difference(*losses)


def _without_dropout(counterpart):
    """Compiled code may draw masks in another order or layout than eager code, whatever it is told."""
    from bench.torch_models.base import Dropout

    for module in counterpart.model.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    return counterpart


def _pinned(device, counterpart, batch) -> list:
    """A batch on the host as the counterpart wants it, where the device can fetch it by itself."""
    tensors = [counterpart.tensor(a).cpu() for a in batch]
    return tensors if device.dry else [x.pin_memory() for x in tensors]


def prepared(device, who, new, begin) -> Any:
    """A new counterpart, its step compiled or captured."""
    counterpart = new(capturable=who == GRAPH)
    if who == GRAPH:
        counterpart.train_step = captured(
            device, counterpart.train_step, [counterpart.tensor(a) for a in begin.batches[0]]
        )
        counterpart.restart(begin.trainer.model.state_dict())
    elif who in MODES:
        compile_parts(device, counterpart, MODES[who])
    return counterpart


def compile_parts(device, counterpart, mode):
    """torch.compile what leads from a batch to losses; a dry run only traces. Optimisers are one kernel already."""
    import torch

    torch._dynamo.reset()
    how: dict[str, Any] = {"backend": "eager"} if device.dry else {"mode": mode}
    for name in counterpart.PARTS:
        setattr(counterpart, name, torch.compile(getattr(counterpart, name), **how))
    step = counterpart.train_step

    def marked(*inputs):
        torch.compiler.cudagraph_mark_step_begin()  # what the last step gave out may be written over
        return step(*inputs)

    counterpart.train_step = marked


@contextlib.contextmanager
def _comparable_draws():
    """Inside, compiled code draws the noise that eager code draws from the same seed, instead of numbers of its own."""
    import torch
    import torch._inductor.config as inductor

    with inductor.patch(fallback_random=True):
        yield
    torch._dynamo.reset()  # what is timed draws in its own, faster way


def captured(device, train_step, inputs) -> Callable:
    """A training step as one CUDA graph: inputs are copied into buffers it knows, and everything is started at once.

    The warm-up leaves weights and moments changed. A dry run takes the step itself, on the same buffers."""
    import torch

    buffers = [x.clone() for x in inputs]
    if device.dry:
        train_step(*buffers)
        play, losses = lambda: train_step(*buffers), None
    else:
        play, losses = _graph(torch, lambda: train_step(*buffers))

    def step(*inputs):
        for buffer, x in zip(buffers, inputs):
            buffer.copy_(x, non_blocking=True)
        played = play()
        return played if losses is None else losses

    return step


def _graph(torch, f) -> tuple:
    """(what replays f, where its results will be)"""
    aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM):
            f()
    torch.cuda.current_stream().wait_stream(aside)
    with torch.cuda.graph(graph):
        results = f()
    return graph.replay, results
