"""What `make gpu-check` does apart from a GPU: its child process, its floors, its ratios, its comparison of graphs."""

import subprocess
import sys
import time

import numpy as np
import pytest

import models
from bench import roofline
from bench.gpu import contenders, kernels, memory
from bench.gpu.device import PRECISIONS, Device, Precision, as_tuple
from bench.gpu.graph import compared, graph
from bench.gpu.worker import Worker, asked
from bench.parity import comparing
from bench.parity.cases import BENCH, BY_NAME, CASES, DEVICE
from core import dispatch, random
from kernels import launch
from models.training.trainer import Trainer
from tests import ROOT
from tests.fakes import fake_cupy

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
    work = lambda name: roofline.flops(BY_NAME[name], *_arrays(name))
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
    peak = roofline.Peaks(float16=4e12, tf32=3e12, memory=1e12)
    assert roofline.floor_ms((2e9, 1e9), PRECISIONS[0], peak) == {"floor_ms": pytest.approx(2.0), "of": "flops"}
    assert roofline.floor_ms((2e9, 1e9), Precision("tf32", "float32", True), peak)["of"] == "bytes"
    assert roofline.floor_ms((2e9, 1e9), PRECISIONS[1], peak)["floor_ms"] == pytest.approx(1.0)
    assert roofline.peaks("nvidia-h200").memory == 4.8e12 and roofline.peaks("nvidia-t4") is None


def test_the_ratio_is_to_the_best_baseline_that_passed():
    row = lambda who, ms, passed=True: {
        "case": "c", "precision": "float32", "who": who, "passed": passed, "forward": {"ms": ms}
    }  # fmt: skip
    rows = [row("ours", 2.0), row("torch eager", 5.0), row("Liger", 1.0, False), row("torch.compile", 3.0)]
    for i in range(1, 5):
        kernels.compare(rows[:i])
    assert rows[0]["forward"] == {"ms": 2.0, "ratio": 1.5, "best_baseline": "torch.compile"}


@pytest.mark.parametrize("case", [*BENCH, *DEVICE], ids=lambda c: c.name)
def test_every_bench_has_its_baselines(case):
    who = contenders.contenders(case)
    assert who[0] == "ours" and who[-1] == contenders.COMPILED
    assert ("Liger" in who) == (case.op in ("cross_entropy", "linear_cross_entropy", "layer_norm"))
    assert set(contenders.FORMATS) <= set(who) or case.op not in contenders.CONVOLUTIONS
    assert set(contenders.BACKENDS) <= set(who) or case.op != "attention"


def graphs():
    return list(graph(Device(True, fake_cupy.without_a_gpu), time.monotonic() + 600))


class Referring(Device):
    """The dry device, whose kernels are the reference: no interpreter is needed."""

    def __init__(self):
        super().__init__(dry=True)

    def kernels(self, tf32=False):
        return dispatch.use("reference", tf32=tf32)


@pytest.mark.parametrize("name", ["conv2d/stride-2-gan", "conv_transpose2d/stride-2-gan"])
@pytest.mark.parametrize("who", ["ours", *contenders.FORMATS])
def test_a_weight_gradient_alone_is_the_one_that_was_compared(name, who, monkeypatch):
    timed = lambda: kernels.timed(Referring(), BY_NAME[name], PRECISIONS[0], who)
    assert set(kernels.PASSES) <= set(timed())
    make = contenders.make
    wrong = lambda run: run._replace(dw=lambda: 1.01 * run.dw())
    monkeypatch.setattr(contenders, "make", lambda *arguments: wrong(make(*arguments)))
    with pytest.raises(ArithmeticError, match="the weight gradient alone is"):
        timed()


def test_our_kernels_take_one_tf32_pass_backward_too(monkeypatch):
    """A row that says tf32 and multiplies three times half of the way would be slow, and compare two things."""
    seen, walk = [], comparing.backward_all
    monkeypatch.setattr(comparing, "backward_all", lambda *a, **k: (seen.append(dispatch.tf32()), walk(*a, **k)))
    case, precision = BY_NAME["conv2d/pointwise"], PRECISIONS[1]
    arrays, dys, _ = kernels.known(case.name, precision, "cpu")
    run = contenders.make(Referring(), "ours", case, arrays, dys, precision)
    run.both(), run.weight()
    assert precision.name == "tf32" and seen == [True, True]


def test_torchs_side_of_every_case_makes_no_tensor_beside_the_device():
    """On torch's device without memory, which refuses a tensor of another as a GPU does; it cannot look at values."""
    refused = set()
    for case in CASES:
        inputs = comparing.torch_inputs(case, case.arrays(np.float32), np.float32, "meta")
        try:
            outputs = as_tuple(case.torch(*inputs))
            assert all(y.device.type == "meta" for y in outputs), case.name
        except NotImplementedError:
            refused.add(case.name)
    assert refused == {"getitem/mask", "getitem/mask-of-rows"}


@pytest.mark.parametrize(("large", "where"), [(False, ["cpu", "cpu"]), (True, ["cuda", "cuda"])])
def test_float64_of_a_large_shape_is_the_devices_affair(large, where, monkeypatch):
    case, asked, run = BY_NAME["conv2d/pointwise"], [], comparing.run_torch
    monkeypatch.setattr(kernels, "DEVICE", [case] if large else [])

    def noted(case, f, arrays, dtype, draw, device="cpu"):
        asked.extend([device] if dtype == np.float64 else [])
        return run(case, f, arrays, dtype, draw)

    monkeypatch.setattr(comparing, "run_torch", noted)
    device = Referring()
    device.torch = "cuda"
    kernels.known(case.name, PRECISIONS[2], kernels.of_oracle(device, case.name))
    kernels.checked(device, case, PRECISIONS[0])
    assert asked == where


def test_graphs_are_compared_and_what_differs_is_named(monkeypatch):
    """In a dry run (all models: test_dry_run.py): a capture that is refused, and a step that counts in Python."""

    def refused(self):
        raise NotImplementedError("cuBLAS")

    monkeypatch.setattr(models, "MODELS", {kind: models.MODELS[kind] for kind in ("gpt", "seq2seq")})
    with monkeypatch.context() as patch:
        patch.setattr(fake_cupy.Stream, "begin_capture", refused)
        assert {r["fault"] for r in graphs()} == {"not captured: NotImplementedError: cuBLAS"}

    def counted(self):
        self.count = getattr(self, "count", 0) + 1
        self.step[...] = self.count
        self.draw = 0

    with monkeypatch.context() as patch:
        patch.setattr(random.Generator, "advance_", counted)
        assert all(r["fault"].startswith("captured: other bits in model.") for r in graphs())
    assert graph(Device(True, fake_cupy.without_a_gpu), 0).__next__()["fault"] == "not run: out of time"


@pytest.mark.parametrize("launches", [0, 3])
def test_a_graph_that_holds_no_kernel_of_ours_proves_nothing(launches, monkeypatch):
    """As on a device, where kernels are counted: 3 a step that runs Python, or none."""
    step = Trainer._step
    monkeypatch.setattr(Trainer, "_step", lambda t: (step(t), launch.COUNT.update(kernel=launches)))
    with fake_cupy.without_a_gpu():
        row = compared("vae", 8, dry=False)
    assert row["kernel_by_kernel"]["launches"] == launches and row["graph"]["launches"] == 0
    assert row["fault"] == ("" if launches else "no kernel was launched: the reference ran")


NEVER_REPLAYED = {
    "its graph is not used": (("update", Trainer._step), "0 of 8 steps were replays, should be 6"),
    "it is captured anew each time": (("_setting", lambda t: object()), "0 of 8 steps were replays, should be 6"),
    "not after a checkpoint": (
        ("load", lambda t, path, load=Trainer.load: (load(t, path), setattr(t, "graph", False))),
        "0 of 4 steps were replays, should be 2",
    ),
}


@pytest.mark.parametrize(("change", "fault"), NEVER_REPLAYED.values(), ids=NEVER_REPLAYED)
def test_steps_that_were_no_replays_are_not_compared_as_such(change, fault, monkeypatch):
    """They have the same bits too."""
    monkeypatch.setattr(Trainer, *change)
    monkeypatch.setattr(models, "MODELS", {"vae": models.MODELS["vae"]})
    assert [r["fault"] for r in graphs()] == [fault]


def test_memory_is_the_most_that_was_held_at_once():
    """As CuPy's pool tells its hooks: 3 and 5 are there together, 9 comes when 3 has gone."""
    held = memory._hook(object)()
    for size in (3, 5, -3, 9, -9):
        (held.malloc_postprocess if size > 0 else held.free_postprocess)(mem_size=abs(size), mem_ptr=1)
    assert held.most == 14


def test_a_baseline_that_fails_is_not_run_and_a_failure_of_ours_is_a_failure():
    class Broken:
        def ask(self, question, seconds):
            return {"passed": False, "fault": "ValueError: wrong"}

    fault = lambda who, until: asked(Broken(), {"who": who}, until, 1)["fault"]
    assert fault("ours", np.inf) == "ValueError: wrong" and fault("torch eager", np.inf) == "not run: ValueError: wrong"
    assert fault("ours", 0.0) == "not run: out of time"


def test_a_python_without_what_is_needed_is_refused_in_one_line():
    """As a machine's own may be: here one without any packages."""
    command = [sys.executable, "-S", "-m", "bench.gpu.device"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"gpu-check: {sys.executable} has no numpy, safetensors")
