"""Every CPU kernel under the accuracy test: all cases of its operation in float32, what else is asked of an operation,
and that the timing of threads changes no bit.

The reference is tested in test_torch.py and test_purity.py, with kernels switched off.
"""

import importlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch.nn.functional as TF

import core.functional as F
from bench.parity.cases import BENCH, BY_NAME, CASES, DIFFERENTIABLE, NOTHING_RUNS, case_id, run
from bench.parity.cases.inputs import Case, normal
from bench.parity.comparing import compare, random_dys, run_ours
from core import dispatch
from core.dispatch import use
from core.observe import recording
from core.runtime import threads
from core.table import TABLE, Kernel
from kernels.cpu import common, winograd
from tests import ROOT
from tests.core.purity import check_purity, saved_in_vain
from tests.suite import first_of_each

MINE = {name for name, row in TABLE.items() if isinstance(row.kernels.get("cpu"), Kernel)}
KERNEL_CASES = [c for c in CASES if c.op in MINE and c.name not in NOTHING_RUNS]

LOOPS = [f"kernels.cpu.{path.stem}" for path in (ROOT / "kernels" / "cpu").glob("[!_]*.py")]
WHOLE_TILES = [  # of a product, and a depth that is none
    Case("linear/whole-tiles", lambda *a: F.linear(*a), TF.linear, (normal(16, 13), normal(32, 13), normal(32)))
]


@pytest.fixture(autouse=True)
def kernels():
    with use("kernels"):
        yield


def compare_on_kernels(case):
    """Test the case; a kernel ran, or refused with a reason."""
    try:
        found = compare(case, np.float32)
    except dispatch.KernelLimit:
        with use("auto"):
            found = compare(case, np.float32)
        assert {c.backend for c in found} == {"reference"}
    else:
        assert {c.backend for c in found} == {"numba"}


@pytest.mark.parametrize("case", KERNEL_CASES, ids=case_id)
def test_float32(case):
    compare_on_kernels(case)


@pytest.mark.parametrize("case", first_of_each([*WHOLE_TILES, *KERNEL_CASES], 3), ids=case_id)
def test_float32_in_pieces(case, monkeypatch):
    """However little there is to share out: what small cases leave to one thread, sums of its pieces above all."""
    monkeypatch.setattr(threads, "COUNT", 3)
    for module in map(importlib.import_module, LOOPS):
        if hasattr(module, "share"):
            monkeypatch.setattr(module, "share", lambda loop, n, grain=1: threads.share(loop, n))
    compare_on_kernels(case)


@pytest.mark.parametrize("op", sorted(MINE & DIFFERENTIABLE))
def test_the_kernel_of_each_operation_runs_in_a_case(op):
    """Or all its cases could pass on the reference, each for a limit that gives a reason."""
    with use("auto"), recording() as log:
        for case in KERNEL_CASES:
            if case.op == op:
                run(case, case.arrays(np.float32))
    assert (op, "numba") in log


@pytest.mark.full
@pytest.mark.parametrize("case", [c for c in BENCH if c.op in MINE], ids=case_id)
def test_float32_at_the_sizes_of_the_models(case):
    compare_on_kernels(case)


@pytest.mark.parametrize("name", ("vae-up2", "vae-up3"))
def test_winograd_is_accurate(name, monkeypatch):
    """It takes layers of many channels, which the small cases have not."""
    ran = set()
    for function in ("correlate", "weight_gradient"):
        original = getattr(winograd, function)
        watched = lambda *args, f=original, name=function: ran.add(name) or f(*args)
        monkeypatch.setattr(winograd, function, watched)
    compare_on_kernels(BY_NAME[f"conv_transpose2d/{name}"])
    assert ran == {"correlate", "weight_gradient"}


@pytest.mark.parametrize("case", first_of_each(KERNEL_CASES, 2), ids=case_id)
def test_pure(case):
    with use("auto"):
        check_purity(case)


def test_nothing_is_saved_in_vain():
    with use("auto"):
        assert saved_in_vain(c for c in KERNEL_CASES if any(c.needs_input_grad(c.arrays()))) == set()


@pytest.mark.parametrize("op", sorted(MINE & {c.op for c in BENCH}))
def test_two_runs_have_the_same_bits(op):
    case = next(c for c in BENCH if c.op == op)
    arrays = case.arrays(np.float32)
    dys = random_dys(case, run(case, arrays)[0], np.float32)
    one, two = (run_ours(case, arrays, dys) for _ in range(2))
    for a, b in zip((*one[0], *one[1]), (*two[0], *two[1])):
        assert a is b is None or a.tobytes() == b.tobytes()


def test_the_cache_s_name_follows_constants_of_the_reference(tmp_path):
    """Kernels have them compiled in: one that changed would find the old ones."""
    for path in (ROOT / "kernels" / "cpu").glob("*.py"):
        for module, names in re.findall(r"^from core\.reference\.(\w+) import (.+)", path.read_text(), re.MULTILINE):
            assert module in common.REFERENCES or not re.search(r"\b[A-Z_]{2,}\b", names), (path.name, module)
    places = []
    for folder in ("core", "kernels"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    constants = tmp_path / "core" / "reference" / "random.py"
    for rounds in ("ROUNDS = 10", "ROUNDS = 11"):
        constants.write_text(constants.read_text().replace("ROUNDS = 10", rounds))
        code = "import numba, kernels.cpu.common; print(numba.config.CACHE_DIR)"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        places.append(done.stdout)
    assert all(str(tmp_path) in place for place in places) and places[0] != places[1], places
