"""What `make gpu-check` does apart from a GPU: its child process, its floors, its ratios, its comparison of graphs."""

import sys
import time

import numpy as np
import pytest

import models
from bench import floors, peers
from bench.gpu.device import PRECISIONS, Device, Precision
from bench.gpu.graph import graph
from bench.gpu.kernels import compare
from bench.gpu.worker import Worker
from core import random
from tests import stand_in
from tests.specs import BENCH, BY_NAME
from tests.test_house import ROOT

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
    """All four models in a dry run; then a capture that is refused, and a step that counts in Python."""
    rows = lambda: list(graph(Device(dry=True), time.monotonic() + 600))
    assert [(r["case"], r["passed"]) for r in rows()] == [(kind, True) for kind in ("gan", "vae", "gpt", "seq2seq")]

    def refused(self):
        raise NotImplementedError("cuBLAS")

    monkeypatch.delitem(models.MODELS, "gan"), monkeypatch.delitem(models.MODELS, "vae")
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
