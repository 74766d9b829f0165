"""Every GPU kernel without a GPU, under Triton's interpreter.

The interpreter is serial Python: it proves algebra and indexing, of loops that go round often enough, which is counted
and asked for. What a device makes of a kernel is proved by `make gpu-check` alone.
"""

import ast
import json
import os
import subprocess
import sys

import pytest

from bench.parity.cases import FAMILIES
from core.engine import Op
from core.table import TABLE, Kernel
from tests import ROOT
from tests.kernels import iterations
from tests.kernels.test_kernel_sources import FILES, kernels, wrappers

ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
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
def report():
    """What one process found of few cases, in float32."""
    return _interpret([op for operations in GROUPS.values() for op in operations], "--few", "--dtype", "float32")


def check(report):
    assert not report["faults"], "\n".join(report["faults"])
    assert report["comparisons"] and report["backends"] == ["triton"], report["backends"]


def test_interpreted_kernels_are_accurate(report):
    check(report)
    assert set(report["operations"]) == {op for operations in GROUPS.values() for op in operations}


@pytest.mark.full
@pytest.mark.parametrize("group", GROUPS)
def test_interpreted_kernels_are_accurate_in_both_dtypes_and_every_case(group):
    check(_interpret(GROUPS[group]))


@pytest.fixture(scope="module")
def state():
    """The process that checks what no case reaches."""
    environment = {**ENVIRONMENT, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "tests.kernels.interpret_state"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_state_operations_masks_noise_and_chunks(state):
    assert state.returncode == 0, state.stdout + state.stderr[-3000:]


def test_every_loop_went_round_and_every_axis_had_programs(report, state):
    """Three iterations with a partial last one, two programs on an axis, and what iterations.py demands by name."""
    total = iterations.merged([report, json.loads(state.stdout.splitlines()[-1])])
    assert iterations.missing(total) == []
    for name in total["iterations"]:  # and what is asked for would be missed
        less = {**total, "iterations": {**total["iterations"], name: [2, 2]}}
        assert [lack.partition(": ")[0] for lack in iterations.missing(less)] == [name]
    asked = (
        len(iterations.loops()) + sum(map(len, iterations.axes().values())) + sum(map(len, iterations.DEMANDS.values()))
    )
    assert len(iterations.missing(iterations.merged([]))) == asked


def launched_in_source() -> set:
    """ "file.kernel" of the kernels that wrappers hand on, to `launch` or to what calls it."""
    names = set()
    for path in FILES:
        entries = {name for name, tree in kernels(path) if any(a.arg.endswith("_ptr") for a in tree.args.args)}
        for _, tree in wrappers(path):
            found = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} & entries
            names |= {f"{path.stem}.{name}" for name in found}
    return names


def test_every_kernel_ran(report, state):
    ran = {name for one in (report, json.loads(state.stdout.splitlines()[-1])) for name in one["grids"]}
    assert launched_in_source() - ran == set()


def test_every_operation_has_a_kernel_or_a_reason():
    compared = {op for ops in GROUPS.values() for op in ops}
    for name, row in TABLE.items():
        kernel = row.kernels.get("cuda")
        assert isinstance(kernel, Kernel) or kernel.startswith("reference by design: "), name
        if isinstance(kernel, Kernel) and isinstance(
            row.reference, Op
        ):  # of the others: tests/kernels/interpret_state.py
            assert name in compared, f"{name} is not interpreted"
