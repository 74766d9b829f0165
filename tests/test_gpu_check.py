"""What `make gpu-check` does apart from a GPU: its child process, its floors, its ratios, its comparison of graphs."""

import sys
import time

import numpy as np
import pytest
import torch

import models
from bench import floors, peers
from bench.gpu import memory, sampling, sides, steps
from bench.gpu.device import PRECISIONS, Device, Precision
from bench.gpu.graph import graph
from bench.gpu.kernels import compare
from bench.gpu.timing import Clock, in_a_row
from bench.gpu.worker import Worker, asked
from bench.twins.base import Twin
from core import dispatch, random
from tests import stand_in
from tests.specs import BENCH, BY_NAME
from tests.test_house import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # torch's compiler, of torch
CHILD = """
import time
from bench.gpu.worker import answer_all
def answer(question):
    print("noise on standard output")
    if question["do"] == "hang":
        time.sleep(60)
    if question["do"] == "die":
        raise SystemExit("gone")
    return {"passed": question["do"] == "well", "fault": "" if question["do"] == "well" else "wrong"}
answer_all(answer)
"""


def test_a_child_that_hangs_or_dies_costs_one_answer():
    worker = Worker([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{CHILD}"])
    assert worker.ask({"do": "well"}, 60) == {"passed": True, "fault": ""}
    first = worker.process
    assert worker.ask({"do": "hang"}, 0.2) == {"passed": False, "fault": "not run: no answer in 0 s"}
    assert worker.ask({"do": "well"}, 60)["passed"] and worker.process is not first
    assert worker.ask({"do": "die"}, 60) == {"passed": False, "fault": "the process ended: code 1: gone"}
    assert worker.ask({"do": "badly"}, 60)["fault"] == "wrong" and worker.process is None
    worker.close()


def test_work_is_counted_from_shapes():
    """Against counts written out: taps inside the image only, keys that causality leaves."""
    work = lambda name: floors.flops(BY_NAME[name], *_arrays(name))
    # one pixel, four taps each way of stride 2: padding 1 leaves two of them inside, on both axes
    assert work("conv_transpose2d/one-pixel") == (2 * 2 * 2 * 2 * (3 * 2), 2 * 2 * 2 * 2 * 2 * (3 * 2))
    # 3 rows: 2 + 3 + 2 taps, stride 1 and padding 1; 5 channels to 3
    assert work("conv2d/pointwise") == (2 * 2 * 3 * 4 * 5 * 3, 2 * 2 * 2 * 3 * 4 * 5 * 3)
    assert work("attention/causal") == (2 * 4 * (1 + 2 + 3 + 4) * 6, 2 * 4 * (1 + 2 + 3 + 4) * 15)
    assert work("linear/square") == (2 * 6 * 4 * 4, 4 * 6 * 4 * 4)
    assert work("layer_norm/rows") == (0, 0)


def _arrays(name):
    case = BY_NAME[name]
    arrays = case.arrays(np.float32)
    y = case.ours(*arrays)
    return arrays, [a.data for a in (y if isinstance(y, tuple) else (y,))]


def test_a_floor_is_the_larger_of_two_times():
    peak = floors.Peaks(float16=4e12, tf32=3e12, memory=1e12)
    assert floors.floor_ms((2e9, 1e9), PRECISIONS[0], peak) == {"floor_ms": pytest.approx(2.0), "of": "flops"}
    assert floors.floor_ms((2e9, 1e9), Precision("tf32", "float32", True), peak)["of"] == "bytes"
    assert floors.floor_ms((2e9, 1e9), PRECISIONS[1], peak)["floor_ms"] == pytest.approx(1.0)
    assert floors.peaks("nvidia-h200").memory == 4.8e12 and floors.peaks("nvidia-t4") is None


def test_the_ratio_is_to_the_best_peer_that_passed():
    row = lambda who, ms, passed=True: {
        "case": "c", "precision": "float32", "who": who, "passed": passed, "forward": {"ms": ms}
    }  # fmt: skip
    rows = [row("ours", 2.0), row("torch eager", 5.0), row("Liger", 1.0, False), row("torch.compile", 3.0)]
    for i in range(1, 5):
        compare(rows[:i])
    assert rows[0]["forward"] == {"ms": 2.0, "ratio": 1.5, "best_peer": "torch.compile"}


@pytest.mark.parametrize("case", BENCH, ids=lambda c: c.name)
def test_every_bench_has_its_peers(case):
    who = peers.contenders(case)
    assert who[0] == "ours" and who[-1] == peers.COMPILED
    assert ("Liger" in who) == (case.op in ("cross_entropy", "linear_cross_entropy", "layer_norm"))
    assert set(peers.FORMATS) <= set(who) or case.op not in peers.CONVOLUTIONS
    assert set(peers.BACKENDS) <= set(who) or case.op != "attention"


def test_graphs_are_compared_and_what_differs_is_named(monkeypatch):
    """All models in a dry run; then a capture that is refused, and a step that counts in Python."""
    rows = lambda: list(graph(Device(dry=True), time.monotonic() + 600))
    assert [(r["case"], r["passed"]) for r in rows()] == [(kind, True) for kind in models.MODELS]

    def refused(self):
        raise NotImplementedError("cuBLAS")

    monkeypatch.setattr(models, "MODELS", {kind: models.MODELS[kind] for kind in ("gpt", "seq2seq")})
    with monkeypatch.context() as patch:
        patch.setattr(stand_in.Stream, "begin_capture", refused)
        assert {r["fault"] for r in rows()} == {"not captured: NotImplementedError: cuBLAS"}

    def counted(self):
        self.count = getattr(self, "count", 0) + 1
        self.step[...] = self.count
        self.draw = 0

    with monkeypatch.context() as patch:
        patch.setattr(random.Generator, "advance_", counted)
        assert all(r["fault"].startswith("captured: other bits in model.") for r in rows())
    assert graph(Device(dry=True), 0).__next__()["fault"] == "not run: out of time"


# --- training steps ----------------------------------------


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
    assert rows[0]["best_peer"] == "CUDA graph" and rows[4]["best_peer"] == "torch eager"


def test_every_model_meets_every_peer_and_compiling_comes_last():
    class GPU:
        dry = False

    names = [job["who"] for job in steps.jobs(GPU)]
    assert names == sorted(names, key=sides.contenders("gan").index)
    trained = [job for job in steps.jobs(GPU) if job["task"] == "step"]
    # images: ours, eager in two formats, a graph, three modes of torch.compile; text: one format. In two precisions
    assert len(trained) == 2 * (3 * 7 + 3 * 6)
    assert len(names) - len(trained) == 2 * 6 * 2


@pytest.fixture(scope="module")
def begin():
    return sides.start("gan", "demo", 4, True)


@pytest.mark.parametrize("who", sides.contenders("gan"))
def test_nobody_is_timed_whose_losses_are_others(who, begin):
    assert sides.make(Device(dry=True), who, begin, PRECISIONS[0]).off <= 1e-5
    off = begin._replace(losses={**begin.losses, "g_loss": begin.losses["g_loss"] * 1.01})
    with pytest.raises(ArithmeticError, match=r"g_loss is .* off the reference's: nothing is timed"):
        sides.make(Device(dry=True), who, off, PRECISIONS[0])


@pytest.mark.parametrize("who", [sides.GRAPH, "torch.compile"])
def test_a_step_that_was_captured_or_compiled_wrongly_is_seen(who, begin, monkeypatch):
    """Eager steps are right, so that only the comparison with them can tell."""
    changed = lambda twin, *_: twin.load({k: a * np.float32(1.1) for k, a in begin.trainer.model.state_dict().items()})
    monkeypatch.setattr(Twin, "restart", changed)
    monkeypatch.setattr(sides, "compile_parts", lambda device, twin, mode: changed(twin))
    with pytest.raises(ArithmeticError):
        sides.make(Device(dry=True), who, begin, PRECISIONS[0])


def test_a_captured_step_copies_every_batch_into_its_buffers(begin):
    """Other images, other losses: a graph that replays its first batch for ever is fast, and trains on nothing."""
    seen = []
    step = sides.captured(Device(dry=True), lambda x: seen.append(float(x.sum())), [torch.zeros(2)])
    for value in (1.0, 2.0):
        step(torch.full((2,), value))
    assert seen == [0.0, 2.0, 4.0]


@pytest.mark.parametrize("kind", ["vae", "gpt"])
@pytest.mark.parametrize("who", sampling.CONTENDERS)
def test_nobody_samples_in_time_who_samples_something_else(kind, who, monkeypatch):
    t = sides.trainer(kind, "demo", 1, True)
    assert sampling.make(Device(dry=True), who, t, 2, PRECISIONS[0]).off <= 1e-5
    monkeypatch.setattr(sampling, "on_device", lambda device, t: shifted(sides.on_device(device, t)))
    more = lambda state: {name: a * np.float32(1.1) for name, a in state.items()}
    monkeypatch.setattr(Twin, "load", lambda twin, state: load(twin, more(state)))
    with pytest.raises(ArithmeticError, match="nothing is timed"):
        sampling.make(Device(dry=True), who, t, 2, PRECISIONS[0])


load = Twin.load


def shifted(t):
    """A trainer of other weights."""
    for p in t.model.parameters():
        p.data[...] *= np.float32(1.1)
    return t


def test_our_steps_take_one_tf32_pass_where_the_row_says_so(begin, monkeypatch):
    seen = []
    monkeypatch.setattr(type(begin.trainer), "train_step", lambda self: seen.append(dispatch.tf32()))
    for precision in steps.TRAINED_IN:
        sides.make(Device(dry=True), "ours", begin._replace(losses={}), precision).build()()
    assert [p.name for p in steps.TRAINED_IN] == ["float32", "tf32"] and seen == [False, False, True, True]


def test_memory_is_the_most_that_was_held_at_once():
    """As CuPy's pool tells its hooks: 3 and 5 are there together, 9 comes when 3 has gone."""
    held = memory._hook(object)()
    for size in (3, 5, -3, 9, -9):
        (held.malloc_postprocess if size > 0 else held.free_postprocess)(mem_size=abs(size), mem_ptr=1)
    assert held.most == 14


def test_steps_are_timed_in_a_row_without_waiting():
    """One start and one stop around the calls of a round; what the clock counts is shared out over them."""
    told: list = []
    tell = lambda word, value=None: lambda: told.append(word) or value
    clock = Clock(None, tell("start"), tell("stop", 12.0), tell("wait"), repeats=2, calls=1)
    found = in_a_row(tell("step"), clock, calls=3)
    assert told == ["wait", "start", "step", "step", "step", "stop", "wait"] * 2
    assert found["ms"] == found["low"] == found["high"] == 4.0 and 0 <= found["host_ms"] <= found["wall_ms"]


def test_a_peer_that_fails_is_not_run_and_a_failure_of_ours_is_a_failure():
    class Broken:
        def ask(self, question, seconds):
            return {"passed": False, "fault": "ValueError: wrong"}

    fault = lambda who, until: asked(Broken(), {"who": who}, until, 1)["fault"]
    assert fault("ours", np.inf) == "ValueError: wrong" and fault("torch eager", np.inf) == "not run: ValueError: wrong"
    assert fault("ours", 0.0) == "not run: out of time"
