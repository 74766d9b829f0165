"""Every GPU kernel without a GPU: judged under Triton's interpreter, and compiled for GPUs that are not there.

The interpreter is serial Python: it proves algebra and indexing, of loops that go round often enough, which is counted
and asked for. The compiler proves that code is generated, without
spills and on tensor cores. Neither proves what a device makes of it: that is `make gpu-check`.
"""

import ast
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.cpu.worker import TOLERANCE
from bench.parity.cases import FAMILIES
from core.engine import Op
from core.table import TABLE, Kernel
from models import MODELS
from tests import ROOT
from tests.kernels import trips
from tests.kernels.test_kernel_sources import FILES, kernels, wrappers

ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
SDPA = {"SDPA flash", "SDPA cudnn", "SDPA efficient", "SDPA math"}  # which of them there are on a CPU is torch's matter
RIVALS = "ours", "torch eager", "CUDA graph"
LAST = {(kind, "torch eager, channels last") for kind in ("gan", "vae", "diffusion")}
COMPILED = "torch.compile", "torch.compile reduce-overhead", "torch.compile max-autotune"
NO_LIGER = "not run: liger_kernel is not installed"
GROUPS = {
    **{
        name: tuple(op for op in ops if isinstance(TABLE[op].kernels["cuda"], Kernel)) for name, ops in FAMILIES.items()
    },
    "shape and sums": ("sum", "mean", "max", "min", "embedding", "upsample_nearest", "timestep_embedding"),
}


def _interpret(operations, *options):
    command = [sys.executable, "-m", "tests.kernels.interpret", *operations, *options]
    environment = {**ENVIRONMENT, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return json.loads(done.stdout) if done.stdout else {"faults": [done.stderr[-2000:]]}


@pytest.fixture(scope="module")
def reports():
    """What each group's process found; two run at a time."""
    with ThreadPoolExecutor(2) as pool:
        quick = pool.map(lambda operations: _interpret(operations, "--quick", "--dtype", "float32"), GROUPS.values())
        return dict(zip(GROUPS, quick))


def check(report):
    assert not report["faults"], "\n".join(report["faults"])
    assert report["comparisons"] and report["backends"] == ["triton"], report["backends"]


@pytest.mark.parametrize("group", GROUPS)
def test_interpreted_kernels_pass_the_judge(group, reports):
    check(reports[group])


@pytest.mark.full
@pytest.mark.parametrize("group", GROUPS)
def test_interpreted_kernels_pass_the_judge_in_both_dtypes_and_every_case(group):
    check(_interpret(GROUPS[group]))


@pytest.fixture(scope="module")
def state():
    """The process that checks what no case reaches."""
    environment = {**ENVIRONMENT, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "tests.kernels.interpret_state"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_state_operations_masks_noise_and_chunks(state):
    assert state.returncode == 0, state.stdout + state.stderr[-3000:]


def test_every_loop_went_round_and_every_axis_had_programs(reports, state):
    """Three trips with a ragged last one, two programs on an axis, and what tests/kernels/trips.py demands by name."""
    total = trips.merged([*reports.values(), json.loads(state.stdout.splitlines()[-1])])
    assert trips.missing(total) == []
    for name in total["trips"]:  # and what is asked for would be missed
        less = {**total, "trips": {**total["trips"], name: [2, 2]}}
        assert [lack.partition(": ")[0] for lack in trips.missing(less)] == [name]
    asked = len(trips.loops()) + sum(map(len, trips.axes().values())) + sum(map(len, trips.DEMANDS.values()))
    assert len(trips.missing(trips.merged([]))) == asked


def launched_in_source() -> set:
    """ "file.kernel" of the kernels that wrappers hand on, to `launch` or to what calls it."""
    names = set()
    for path in FILES:
        entries = {name for name, tree in kernels(path) if any(a.arg.endswith("_ptr") for a in tree.args.args)}
        for _, tree in wrappers(path):
            found = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} & entries
            names |= {f"{path.stem}.{name}" for name in found}
    return names


def test_every_kernel_ran(reports, state):
    ran = {
        name for report in (*reports.values(), json.loads(state.stdout.splitlines()[-1])) for name in report["grids"]
    }
    assert launched_in_source() - ran == set()


def test_the_page_of_what_the_compiler_made_has_every_kernel_on_every_architecture():
    page = (ROOT / "docs" / "kernels" / "compiled.md").read_text(encoding="utf-8")
    for arch in ("80", "90", "100"):
        table = page.partition(f"## sm_{arch}\n")[2].partition("\n## ")[0]
        listed = set(re.findall(r"^\| (\w+\.\w+) \|", table, re.MULTILINE))
        assert listed == launched_in_source(), "assay kernels check --arch 80,90,100 --out docs/kernels/compiled.md"


def test_every_operation_has_a_kernel_or_a_reason():
    judged = {op for ops in GROUPS.values() for op in ops}
    for name, row in TABLE.items():
        kernel = row.kernels.get("cuda")
        assert isinstance(kernel, Kernel) or kernel.startswith("reference by design: "), name
        if isinstance(kernel, Kernel) and isinstance(
            row.reference, Op
        ):  # of the others: tests/kernels/interpret_state.py
            assert name in judged, f"{name} is not interpreted"


def test_compiled_kernels_spill_nothing_and_use_tensor_cores():
    command = [sys.executable, "-m", "bench.command", "kernels", "check", "--arch", "90"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_a_product_in_one_tf32_pass_compiles_too():
    command = [sys.executable, "-m", "bench.command", "kernels", "check", "linear", "--tf32", "--arch", "90"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0 and "| matmul._gemm | 90 | fp32/fp32" in done.stdout, done.stdout + done.stderr[-2000:]


@pytest.mark.full
def test_compiled_kernels_for_every_architecture_and_shape():
    command = [sys.executable, "-m", "bench.command", "kernels", "check", "--arch", "80,90,100", "--all-cases"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


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
        assert row["who"] != "ours" or (row["ratio"] > 0 and row["best_peer"] != "ours")
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
