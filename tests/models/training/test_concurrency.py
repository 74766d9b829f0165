"""Several at once: processes that want the same run folder, and threads that train different models."""

import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

import core.functional as F
from bench.parity import small_models
from core import Generator, Tensor, dispatch, no_grad, random
from core.engine import accumulate
from core.observe import recording
from core.runtime import threads
from models.__main__ import main
from models.training.runs import Run, RunError
from tests import ROOT
from tests.models.training.crashing import TRAIN, last

# --- processes ----------------------------------------

RUNNER = """
import contextlib, sys
from models.__main__ import main
for folder in map(str.strip, sys.stdin):
    with contextlib.redirect_stdout(sys.stderr):
        code = main(["train", "gan", "--batch", "2", "--steps", "2", "--out", folder])
    print(code, flush=True)
"""


def python(code, **options):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes, **options)


def test_two_commands_begin_in_one_folder_at_the_same_moment(tmp_path):
    """One trains, the other says in one line that it may not, and leaves nothing of its own."""
    processes, folders = [python(RUNNER) for _ in range(2)], [tmp_path / str(i) for i in range(4)]
    for folder in folders:
        for process in processes:  # both are ready and wait for a line
            process.stdin.write(f"{folder}\n")
            process.stdin.flush()
        assert sorted(process.stdout.readline().strip() for process in processes) == ["0", "1"], folder
        assert [json.loads(x)["step"] for x in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2]
        assert Run.open(folder).trainer().steps == 2
    errors = [line for p in processes for line in p.communicate()[1].splitlines() if line.startswith("error: ")]
    assert len(errors) == len(folders)
    assert all(line.endswith(("another process is training in this folder", "name another folder")) for line in errors)


def test_a_run_that_another_has_ended_meanwhile(undisturbed, tmp_path):
    """Between looking for a checkpoint and having the lock, another may have come and gone."""
    run = Run.create(tmp_path / "run", "gan", "demo", small_models.trainer("gan").config, 0, None)
    shutil.copytree(undisturbed, run.folder, dirs_exist_ok=True)
    with run.locked(), pytest.raises(RunError, match="already holds a run"):
        run.clear()
    assert last(run.folder) == last(undisturbed)


SAVER = """
import os, sys, time
from models.training.runs import Run
replace = os.replace
def slowly(old, new):
    replace(old, new)
    time.sleep(0.003 if str(new).endswith("previous.safetensors") else 0)
os.replace = slowly
run = Run.open(sys.argv[-1])
with run.locked():
    trainer = run.trainer()
    print("ready", flush=True)
    while True:
        run.save(trainer)
"""


def test_looking_at_a_run_while_it_trains(undisturbed, capsys):
    """A process writes one checkpoint after the other, slowly between the renames; others see whole ones."""
    process = subprocess.Popen([sys.executable, "-c", SAVER, str(undisturbed)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        for _ in range(10):
            assert Run.open(undisturbed).trainer().steps == 12
        assert main(["sample", str(undisturbed)]) == 0 and main(["evaluate", str(undisturbed), "-n", "129"]) == 0
        assert main([*TRAIN, "--out", str(undisturbed)]) == 1
        assert main(["train", "--resume", str(undisturbed)]) == 1
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    assert "error: " + str(undisturbed) + ": another process is training in this folder" in capsys.readouterr().err
    assert last(undisturbed)


# --- threads ----------------------------------------


@pytest.fixture
def hurried():
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def together(*functions) -> list:
    """What the functions return, each called in a thread of its own, all from the same moment on."""
    results, start = [None] * len(functions), threading.Barrier(len(functions))

    def call(i):
        start.wait()
        results[i] = functions[i]()

    workers = [threading.Thread(target=call, args=(i,)) for i in range(len(functions))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return results


def trained(kind, seed, steps=3):
    """Metrics and state after some steps of a trainer of one's own, as bytes."""
    with recording() as log:
        t = small_models.trainer(kind, seed=seed, dropout=0.2)
        metrics = small_models.run(t, steps)
    assert {backend for _, backend in log} >= {"numba"}
    return metrics, {name: a.tobytes() for name, a in small_models.snapshot(t).items()}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kinds", [("gan", "gan"), ("vae", "gpt"), ("gpt", "gpt"), ("seq2seq", "gan")])
def test_trainers_in_two_threads_have_the_bits_they_have_alone(kinds, count, monkeypatch, hurried):
    """Kernels, dropout and noise, and, with count 2, one pool of threads between them."""
    monkeypatch.setattr(threads, "COUNT", count)
    alone = [trained(kind, seed) for seed, kind in enumerate(kinds)]
    for _ in range(4):
        both = together(*(lambda kind=kind, seed=seed: trained(kind, seed) for seed, kind in enumerate(kinds)))
        assert both == alone


def gradient(mode, seed):
    """Bytes of the gradients of a small graph with draws of its own, through kernels or without."""
    rng = np.random.default_rng(seed)
    x, w, g = (Tensor(rng.standard_normal(s, np.float32), requires_grad=True) for s in ((9, 70), (40, 70), (40,)))
    with dispatch.use(mode), Generator(seed):
        with no_grad():  # of this thread alone
            F.gelu(x)
        y = F.dropout(F.layer_norm(F.linear(x, w, act="gelu"), g, g), 0.3)
        loss = F.cross_entropy(y + Tensor(random.normal(y.shape)), np.arange(9))
    loss.backward()
    return [t.grad.tobytes() for t in (x, w, g)]


@pytest.mark.parametrize("mode", ["kernels", "reference"])
def test_backward_in_two_threads_has_the_same_bits(mode, hurried):
    alone = [[gradient(mode, seed) for seed in range(part, 60, 2)] for part in (0, 1)]
    for _ in range(4):
        parts = together(*(lambda p=part: [gradient(mode, seed) for seed in range(p, 60, 2)] for part in (0, 1)))
        assert parts == alone


def test_a_leaf_that_two_threads_add_to_loses_nothing():
    """What `backward` does at a leaf of two graphs; the numbers are whole, so that any order gives the same sum."""
    w, g = Tensor(np.zeros(1_000_000, np.float32), requires_grad=True), np.ones(1_000_000, np.float32)

    def add():
        for _ in range(60):
            accumulate([(w, g, False)])

    together(add, add)
    assert (w.grad == 120).all()


def test_the_first_use_of_kernels_by_two_threads_at_once():
    """In a fresh process, where both have to import them."""
    code = "from tests.models.training.test_concurrency import *; "
    code += (
        "work = [lambda: trained('gpt', 0), lambda: trained('gan', 1)]; print(together(*work) == [w() for w in work])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
