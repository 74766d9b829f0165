"""What `make gpu-check PART=steps` does apart from a GPU: whose training steps and samples are timed, and how it is
seen first that they are the same."""

import numpy as np
import pytest
import torch

from bench.cpu.worker import TOLERANCE
from bench.gpu import sampling, steppers, steps
from bench.gpu.device import PRECISIONS, Device
from bench.gpu.timing import Clock, in_a_row
from bench.torch_models.base import Counterpart
from core import dispatch
from models import MODELS
from tests.bench.gpu import unopened

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # torch's compiler, of torch


def row(who, task="step", passed=True, **figures):
    what = {"task": task, "model": "gpt", "preset": "small", "batch": 32, "precision": "tf32"}
    return {**what, "who": who, "passed": passed, **figures}


def test_a_step_is_compared_by_its_time_and_sampling_by_its_rate():
    rows = [row("ours", ms=2.0), row("torch eager", ms=7.0), row("CUDA graph", ms=3.0)]
    rows += [row("torch.compile", passed=False), row("ours", "sample", ms=9.0, per_second=300.0)]
    rows += [row("torch eager", "sample", ms=1.0, per_second=200.0)]
    for i in range(1, len(rows) + 1):
        steps.compare(rows[:i])
    assert [r.get("ratio") for r in rows] == [1.5, None, None, None, 1.5, None]
    assert rows[0]["best_baseline"] == "CUDA graph" and rows[4]["best_baseline"] == "torch eager"


def test_every_model_meets_every_baseline_and_compiling_comes_last():
    names = [job["who"] for job in steps.jobs(unopened())]
    assert names == sorted(names, key=steppers.contenders("gan").index)
    trained = [job for job in steps.jobs(unopened()) if job["task"] == "step"]
    # images: ours, eager in two formats, a graph, three modes of torch.compile; text: one format. In three precisions
    assert len(trained) == 3 * (4 * 7 + 3 * 6)
    assert len(names) - len(trained) == 2 * 6 * 2


@pytest.fixture(scope="module")
def begin():
    return steppers.start("gan", "demo", 4, True)


@pytest.mark.parametrize("precision", [PRECISIONS[0], PRECISIONS[2]], ids=lambda p: p.name)
@pytest.mark.parametrize("who", steppers.contenders("gan"))
def test_nobody_is_timed_whose_losses_are_others(who, precision, begin):
    assert steppers.make(Device(dry=True), who, begin, precision).off <= (
        1e-5 if precision == PRECISIONS[0] else TOLERANCE
    )
    off = begin._replace(losses={**begin.losses, "g_loss": begin.losses["g_loss"] * 1.01})
    with pytest.raises(ArithmeticError, match=r"g_loss is .* off the reference's: nothing is timed"):
        steppers.make(Device(dry=True), who, off, precision)


@pytest.mark.parametrize("who", [steppers.GRAPH, "torch.compile"])
def test_a_step_that_was_captured_or_compiled_wrongly_is_seen(who, begin, monkeypatch):
    """Eager steps are right, so that only the comparison with them can tell."""
    changed = lambda counterpart, *_: counterpart.load(
        {k: a * np.float32(1.1) for k, a in begin.trainer.model.state_dict().items()}
    )
    monkeypatch.setattr(Counterpart, "restart", changed)
    monkeypatch.setattr(steppers, "compile_parts", lambda device, counterpart, mode: changed(counterpart))
    with pytest.raises(ArithmeticError):
        steppers.make(Device(dry=True), who, begin, PRECISIONS[0])


def test_a_captured_step_copies_every_batch_into_its_buffers(begin):
    """Other images, other losses: a graph that replays its first batch for ever is fast, and trains on nothing."""
    seen = []
    step = steppers.captured(Device(dry=True), lambda x: seen.append(float(x.sum())), [torch.zeros(2)])
    for value in (1.0, 2.0):
        step(torch.full((2,), value))
    assert seen == [0.0, 2.0, 4.0]


@pytest.mark.parametrize("kind", ["vae", "gpt"])
@pytest.mark.parametrize("who", sampling.CONTENDERS)
def test_nobody_samples_in_time_who_samples_something_else(kind, who, monkeypatch):
    t = steppers.trainer(kind, "demo", 1, True)
    assert sampling.make(Device(dry=True), who, t, 2, PRECISIONS[0]).off <= 1e-5
    monkeypatch.setattr(sampling, "on_device", lambda device, t: shifted(steppers.on_device(device, t)))
    more = lambda state: {name: a * np.float32(1.1) for name, a in state.items()}
    monkeypatch.setattr(Counterpart, "load", lambda counterpart, state: load(counterpart, more(state)))
    with pytest.raises(ArithmeticError, match="nothing is timed"):
        sampling.make(Device(dry=True), who, t, 2, PRECISIONS[0])


load = Counterpart.load


def shifted(t):
    """A trainer of other weights."""
    for p in t.model.parameters():
        p.data[...] *= np.float32(1.1)
    return t


def test_our_steps_compute_as_the_row_says(begin, monkeypatch):
    seen = []
    modes = lambda self, *batch: seen.append((dispatch.tf32(), dispatch.modes()[2]))
    monkeypatch.setattr(type(begin.trainer), "train_step", modes)
    for precision in PRECISIONS:
        steppers.make(Device(dry=True), "ours", begin._replace(losses={}), precision).build()()
    assert seen == [(False, False)] * 2 + [(True, False)] * 2 + [(True, True)] * 2


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("who", [steppers.EAGER, steppers.GRAPH])
def test_torchs_float16_steps_multiply_in_float16_and_scale_every_loss(kind, who, monkeypatch):
    """By fused optimisers alone, which do not ask the host; and no overflow makes nothing of a step."""
    dtypes, steps, scales, linear = set(), [], [], torch.nn.functional.linear
    step, update = torch.amp.GradScaler.step, torch.amp.GradScaler.update

    def product(x, *rest):
        y = linear(x, *rest)
        dtypes.add(y.dtype)
        return y

    def stepped(self, optimizer):
        steps.append(optimizer.defaults["fused"])
        assert all(
            p.dtype == p.grad.dtype == torch.float32 for group in optimizer.param_groups for p in group["params"]
        )
        return step(self, optimizer)

    def updated(self):
        update(self)
        scales.append((self.get_scale(), self.state_dict()["_growth_tracker"] > 0))

    monkeypatch.setattr(torch.nn.functional, "linear", product)
    monkeypatch.setattr(torch.amp.GradScaler, "step", stepped)
    monkeypatch.setattr(torch.amp.GradScaler, "update", updated)
    steppers.make(Device(dry=True), who, steppers.start(kind, "demo", 4, True), PRECISIONS[2]).build()()
    assert dtypes == {torch.float16} and set(scales) == {(steppers.SCALE, True)}
    assert all(steps) and len(steps) == len(scales) * (2 if kind == "gan" else 1)


@pytest.mark.parametrize("kind", MODELS)
def test_float16s_losses_are_held_to_a_bound_that_autocasts_own_keep(kind):
    """Half of float32's bound is more than torch.autocast needs."""
    begin = steppers.start(kind, "demo", 4, True)
    off = steppers.make(Device(dry=True), steppers.EAGER, begin, PRECISIONS[2]).off
    assert 0 < off < TOLERANCE / 2


def test_steps_are_timed_in_a_row_without_waiting():
    """One start and one stop around the calls of a round; what the clock counts is shared out over them."""
    told: list = []
    tell = lambda word, value=None: lambda: told.append(word) or value
    clock = Clock(None, tell("start"), tell("stop", 12.0), tell("wait"), repeats=2, calls=1)
    found = in_a_row(tell("step"), clock, calls=3)
    assert told == ["wait", "start", "step", "step", "step", "stop", "wait"] * 2
    assert found["ms"] == found["low"] == found["high"] == 4.0 and 0 <= found["host_ms"] <= found["wall_ms"]
