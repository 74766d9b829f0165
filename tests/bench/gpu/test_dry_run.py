"""The GPU check walked through without a GPU: every part writes its rows, and everybody who can be timed was."""

import json
import os
import subprocess
import sys

from bench.cpu.worker import TOLERANCE
from models import MODELS
from tests import ROOT

ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
SDPA = {"SDPA flash", "SDPA cudnn", "SDPA efficient", "SDPA math"}  # which of them there are on a CPU is torch's matter
RIVALS = "ours", "torch eager", "CUDA graph"
LAST = {(kind, "torch eager, channels last") for kind in ("gan", "vae", "diffusion")}
COMPILED = "torch.compile", "torch.compile reduce-overhead", "torch.compile max-autotune"
NO_LIGER = "not run: liger_kernel is not installed"


def test_a_dry_run_of_the_gpu_check_passes(tmp_path):
    command = [sys.executable, "-m", "tests.fakes.gpu_check", "--out", str(tmp_path)]
    environment = {**ENVIRONMENT, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = {"smoke", "parity", "sanitizer", "kernels", "steps", "graph"}
    assert {p.stem for p in tmp_path.iterdir()} == parts
    rows = json.loads((tmp_path / "kernels.json").read_text())["rows"]
    right = {row["who"] for row in rows if row["passed"]}
    assert right == {"ours", "torch eager", "torch NCHW", "torch channels last", *right & SDPA, "torch.compile"}
    assert "SDPA math" in right and {row["fault"] for row in rows if row["who"] == "Liger"} == {NO_LIGER}
    assert {row["who"] for row in rows if "weight gradient" in row} == {"ours", "torch NCHW", "torch channels last"}
    check_steps(json.loads((tmp_path / "steps.json").read_text())["rows"])


def check_steps(rows):
    """Everybody took a step or sampled, with losses that were looked at."""
    bound = {"float32": 1e-5, "float16": TOLERANCE}
    assert all(row["passed"] and row["losses checked"] <= bound[row["precision"]] for row in rows)
    for row in rows:
        assert row["who"] != "ours" or (row["ratio"] > 0 and row["best_baseline"] != "ours")
    everybody = {(kind, who) for kind in MODELS for who in RIVALS} | {("gan", who) for who in COMPILED} | LAST
    for precision in bound:
        trained = [row for row in rows if row["task"] == "step" and row["precision"] == precision]
        assert {(row["model"], row["who"]) for row in trained} == everybody
    assert {(row["model"], row["who"]) for row in rows if row["task"] == "sample"} == {
        (kind, who) for kind in ("gan", "vae", "gpt") for who in RIVALS[:2]
    }


def test_without_cupy_or_a_gpu_there_is_one_clear_line():
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu.check", "--part", "smoke"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout.startswith("gpu-check: not run: ") and not done.stderr
