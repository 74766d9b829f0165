"""A captured step is the step: its graph replayed on the stand-in for CuPy gives the same bits, and what cannot be
captured runs as before. What a device makes of it only `make gpu-check PART=graph` can tell."""

import gc
import json

import numpy as np
import pytest

import core
import models
from bench.parity import small_models
from core import use
from core.runtime.capture import WARM_UPS, Captured, hold, upload
from core.runtime.upload import Uploads
from models.__main__ import main
from models.training.readings import EVERY, Readings
from tests.fakes import fake_cupy

KINDS = list(models.MODELS)


@pytest.fixture
def gpu():
    with fake_cupy.without_a_gpu() as gpu:
        yield gpu


@pytest.fixture
def cupy(gpu):
    import cupy

    return cupy


def snapshot(t):
    return {name: a.get() if hasattr(a, "get") else a.copy() for name, a in t.state().items()}


def taken(t, steps):
    """The metrics of some steps, read after each."""
    return small_models.run(t, steps), snapshot(t)


# --- a graph of a few lines ----------------------------------------


class Counter:
    """A step that counts: on the device, and in Python how often it was really called."""

    def __init__(self, cupy):
        self.x, self.calls, self.key = cupy.zeros((3,), np.float32), 0, "one"
        self.fail = self.collecting = None
        self.captured = Captured(self.step, lambda: self.key)

    def step(self):
        self.calls += 1
        self.collecting = gc.isenabled()
        self.x += 1
        if self.fail is not None and self.captured.warm_ups == WARM_UPS and not gc.isenabled():
            self.fail()
        self.x *= 2


def expected(calls):
    return [2 ** (calls + 1) - 2] * 3  # x = 2 (x + 1), from 0


def test_two_calls_a_capture_and_then_replays_alone(gpu, cupy):
    c = Counter(cupy)
    for calls in range(1, 7):
        c.captured()
        assert c.x.tolist() == expected(calls)
        assert c.calls == min(calls, WARM_UPS + 1)
    assert [call for call in gpu.calls if call != "wait"] == ["begin", "end", *["launch"] * 4]
    assert gpu.calls[-3:] == ["wait", "launch", "wait"]  # for what was there before, and what comes after for it
    assert c.collecting is False and gc.isenabled()


def test_another_key_is_another_graph(gpu, cupy):
    c = Counter(cupy)
    for calls in range(1, 10):
        if calls == 5:
            c.key = "two"
        c.captured()
        assert c.x.tolist() == expected(calls)
    assert gpu.calls.count("begin") == 2 and c.calls == 2 * (WARM_UPS + 1)


def refuse():
    raise NotImplementedError("cuBLAS in a capture\nand more")


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (refuse, "NotImplementedError: cuBLAS in a capture"),
        (lambda: float(fake_cupy.ndarray(np.zeros(()))), "CUDARuntimeError: operation not permitted"),
    ],
    ids=("refused", "reads"),
)
def test_what_cannot_be_captured_is_called_for_good_and_says_why_once(fail, reason, gpu, cupy, capsys):
    c = Counter(cupy)
    c.fail = fail
    for calls in range(1, 7):
        c.captured()
        assert c.x.tolist() == expected(calls)  # what the capture had noted was not carried out
    assert gpu.calls.count("begin") == gpu.calls.count("end") == 1 and "launch" not in gpu.calls
    assert c.captured.reason.startswith(reason)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"a step runs kernel by kernel, it could not be captured: {c.captured.reason}"
    assert gc.isenabled()


def test_an_interrupted_capture_is_made_again(gpu, cupy):
    c = Counter(cupy)

    def interrupt():
        raise KeyboardInterrupt

    c.captured(), c.captured()
    c.fail = interrupt
    with pytest.raises(KeyboardInterrupt):
        c.captured()
    c.fail = None
    c.captured()
    assert c.x.tolist() == expected(3) and c.captured.reason is None and gpu.calls.count("launch") == 1


def test_tables_are_copied_beside_a_capture_and_held(gpu, cupy):
    tables = []

    def step():
        tables.append(upload(cupy, np.arange(3)))
        hold(tables[-1])

    captured = Captured(step, lambda: None)
    for _ in range(4):
        captured()
    assert captured.reason is None and len(captured.graph.tape) == 0
    assert any(a is tables[2] for a in captured.held) and not any(a is tables[1] for a in captured.held)


# --- trainers ----------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_step_gives_the_same_bits(kind, gpu):
    plain, captured = (taken(small_models.trainer(kind, device="cuda", graph=graph), 8) for graph in (False, True))
    assert gpu.calls.count("launch") == 6
    assert plain[0] == captured[0] and not small_models.different(plain[1], captured[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_loaded_checkpoint_goes_on_in_the_same_bits(kind, seed, gpu, tmp_path):
    """In the graph that is there, or, since launches have the seed as a number, in a new one."""
    first, second = small_models.trainer(kind, device="cuda"), small_models.trainer(kind, seed=seed, device="cuda")
    small_models.run(first, 5), small_models.run(second, 4)
    first.save(tmp_path / "c")
    second.load(tmp_path / "c")
    assert taken(first, 4)[0] == taken(second, 4)[0]
    assert not small_models.different(snapshot(first), snapshot(second)) and gpu.calls.count("begin") == 2 + seed


def test_another_mode_or_other_buffers_are_captured_anew(gpu):
    t = small_models.trainer("gpt", device="cuda")
    small_models.run(t, 4)
    with use(tf32=True):
        small_models.run(t, 4)
    assert gpu.calls.count("begin") == 2
    t.inputs = {name: t.xp.zeros((2, 12), np.int64) for name in t.inputs}
    for _ in range(4):
        t.step(tuple(np.ones((2, 12), np.int64) for _ in t.inputs))
    assert gpu.calls.count("begin") == 3


def test_a_captured_step_can_be_explained_and_recorded(gpu):
    t = small_models.trainer("vae", device="cuda")
    small_models.run(t, 4)
    before = snapshot(t)
    assert core.explain(t)["elbo"] == {"reference": 1} and not small_models.different(before, snapshot(t))
    with core.random.record() as draws:
        small_models.run(t, 1)
    assert len(draws) == 4  # three masks and the noise


def test_a_replay_counts_as_a_change_of_the_parameters(gpu):
    t = small_models.trainer("gan", device="cuda")
    small_models.run(t, 4)
    w = t.model.generator.dense.weight
    y = (w * w).sum()
    small_models.run(t, 1)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_a_step_that_was_broken_off_leaves_no_draws_behind():
    a, b = small_models.trainer("gan"), small_models.trainer("gan")
    a.generator.draw = 3
    assert small_models.run(a, 2) == small_models.run(b, 2)


# --- uploads ----------------------------------------


def test_uploads_never_write_what_is_being_copied(gpu, cupy):
    """Each place: wait until its last copy left, write, wait until its last batch was taken, copy; then on to the
    buffer in the current stream, after the copy."""
    uploads, buffers = Uploads(), [cupy.zeros((2, 3), np.float32), cupy.zeros((2,), np.int64)]
    for i in range(5):
        gpu.calls.clear()
        batch = np.full((2, 3), i, np.float32), np.array([i, -i])
        uploads.send(batch, buffers)
        assert [b.tolist() for b in buffers] == [a.tolist() for a in batch]
        order = ["synchronize", "pinned", "pinned", "wait", "copy", "copy", "wait", "copyto", "copyto"]
        assert gpu.calls == order
    assert None not in uploads.places and uploads.places[0] is not uploads.places[1]
    uploads.send((np.ones((1, 3), np.float32),), [cupy.zeros((1, 3), np.float32)])
    assert len(uploads.places[0].pinned) == 1  # a place of another form


# --- losses ----------------------------------------


def test_losses_of_a_gpu_are_told_later_but_all_of_them(gpu):
    reader, other = small_models.trainer("vae", device="cuda"), small_models.trainer("vae", device="cuda")
    readings, batches = Readings(reader), reader.batches("train")
    wanted, told = small_models.run(other, EVERY + 3), []
    gpu.reads.clear()
    for _ in range(EVERY + 3):
        readings.step(batches)
        told += readings.ready()
    assert len(told) == EVERY and gpu.reads == ["tolist"]
    told += readings.all()
    assert [step for step, _, _ in told] == list(range(1, EVERY + 4)) and [losses for _, losses, _ in told] == wanted
    assert readings.all() == [] and all(seconds > 0 for _, _, seconds in told)


TRAIN = ["train", "vae", "--device", "cuda", "--batch", "2", "--save-every", "9", "--steps", "12"]


def lines(run):
    """metrics.jsonl without its times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(row.pop("seconds") > 0 for row in rows)
    return rows


def test_a_run_with_a_graph_is_a_run_without(gpu, tmp_path, capsys):
    """One line of metrics a step, the same as launched kernel by kernel, also where a run goes on."""
    for name, option, graphs in (("plain", ["--no-graph"], 0), ("graph", [], 2)):
        run = str(tmp_path / name)
        assert main([*TRAIN, "--out", run, *option]) == 0
        assert main(["train", "--resume", run, "--steps", "23", "--device", "cuda", *option]) == 0
        assert gpu.calls.count("begin") == graphs
    first, second = lines(tmp_path / "plain"), lines(tmp_path / "graph")
    assert first == second and [row["step"] for row in first] == list(range(1, 24))


def test_a_late_loss_that_is_not_finite_ends_the_run_before_it_is_saved(gpu, tmp_path, capsys):
    vae, step = models.MODELS["vae"], models.MODELS["vae"].train_step

    def broken(self, *batch):
        step(self, *batch)
        self.losses[0] = self.losses[0] / (self.generator.step != 12)  # steps count from 1: the twelfth

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "train_step", broken)
        assert main([*TRAIN, "--out", str(tmp_path / "run")]) == 1
    errors = capsys.readouterr().err
    assert "the loss is not finite" in errors and "at step 12;" in errors
    assert [row["step"] for row in lines(tmp_path / "run")] == list(range(1, 12))
