"""The launcher without a device: what it passes on, what it refuses, what it records, where block sizes come from."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from bench.parity.cases import BY_NAME, CASES, run
from bench.parity.cases.inputs import F
from bench.parity.comparing import backward_all, random_dys
from core import Tensor
from core.dispatch import explain, on, use
from kernels import launch as launcher
from tests import ROOT
from tests.fakes import fake_cupy

TABLES = sorted(launcher.TABLES.glob("*.json"))


def test_a_recording_notes_launches_and_runs_nothing():
    case = BY_NAME["bce_with_logits/column"]
    with launcher.recording(90) as launches, on("cuda"), use("kernels"):
        run(case, case.arrays(np.float32))
    assert [x.kernel.__name__ for x in launches] == ["_bce_forward"]
    assert launches[0].grid == (1, 1, 1) and launches[0].constants["REDUCE"] is True


def test_arrays_that_are_not_contiguous_are_refused():
    def kernel():
        pass

    with launcher.recording(90), pytest.raises(ValueError, match="not C-contiguous"):
        launcher.launch(kernel, (1,), np.ones((3, 4)).T)


def test_booleans_go_as_bytes_and_scalars_as_numbers():
    def kernel():
        pass

    with launcher.recording(90) as launches:
        launcher.launch(kernel, (2, 3), np.array([True]), np.float32(2), None, 3, num_warps=4, BLOCK=16)
    (one,) = launches
    assert one.arguments[0].dtype == np.uint8 and one.arguments[1:] == (2.0, None, 3)
    assert one.grid == (2, 3, 1) and one.constants == {"BLOCK": 16} and one.options == {"num_warps": 4}


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_tables_hold_an_answer_for_every_architecture_dtype_and_size(path):
    for kernel, architectures in json.loads(path.read_text()).items():
        assert "interpret" in architectures and "80" in architectures, f"{kernel}: architectures {set(architectures)}"
        for arch in (80, 90, 100):
            with launcher.recording(arch):
                for dtype in ("float32", "float16"):
                    for size in (1, 10_000, 10**9):
                        config = launcher.blocks(path.stem, kernel, dtype, size)
                        assert all(isinstance(v, int) and v > 0 for v in config.values()), (kernel, arch, config)


def test_a_configuration_may_be_put_in_a_table_s_place():
    with launcher.recording(90):
        with launcher.instead("variational", "each", {"BLOCK": 7}):
            assert launcher.blocks("variational", "each", "float32") == {"BLOCK": 7}
        assert launcher.blocks("variational", "each", "float32") != {"BLOCK": 7}


def test_an_architecture_without_a_table_of_its_own_takes_the_newest_below_and_one_below_all_is_refused():
    def table(arch):
        with launcher.recording(arch):
            return launcher.blocks("conv", "gather_1", "float32")

    assert table(86) == table(80)
    with pytest.raises(RuntimeError, match=r"sm_75.*sm_80"):
        table(75)


def test_without_cupy_a_launch_says_what_is_missing():
    assert not launcher.INTERPRETED, "the suite runs without TRITON_INTERPRET: it sets that for processes of their own"
    with on("cuda"), use("kernels"), pytest.raises(RuntimeError, match="CuPy"):
        F.bce_with_logits(np.ones(3, np.float32), 1.0)


@pytest.mark.parametrize("op", ["matmul", "linear", "conv2d", "conv_transpose2d", "attention", "linear_cross_entropy"])
def test_products_take_three_passes_or_one(op):
    """Forward and backward, by the mode when they run; float16 is one pass in any mode."""
    case = next(c for c in CASES if c.op == op and all(a.size for a in c.arrays()))

    def precisions(dtype, **mode):
        with launcher.recording(90) as launches, on("cuda"), use("kernels", **mode):
            outputs, _ = run(case, case.arrays(dtype))
            forward = len(launches)
            backward_all(outputs, random_dys(case, outputs, dtype))
        named = lambda part: {x.constants["PRECISION"] for x in part if "PRECISION" in x.constants}
        return named(launches[:forward]), named(launches[forward:])

    assert precisions("float32") == precisions("float32", tf32=False) == ({"tf32x3"}, {"tf32x3"})
    assert precisions("float32", tf32=True) == precisions("float16") == ({"tf32"}, {"tf32"})


def test_explain_names_the_gpu_kernel():
    assert "cuda kernels.gpu.conv:conv_transpose2d" in explain("conv_transpose2d")
    with on("cuda"):
        x = np.ones((1, 4, 4, 2))  # float64: no kernel takes it
        assert "the kernel takes float32, float16" in explain("conv2d", x, np.ones((1, 1, 2, 2)))
    with fake_cupy.cupy():
        import cupy

        x, w = cupy.ones((1, 4, 4, 2), np.float32), cupy.ones((1, 1, 2, 2), np.float32)
        assert "conv2d: triton" in explain("conv2d", x, w) == explain("conv2d", Tensor(x), Tensor(w))
    assert "reference by design" in explain("reshape")


def test_tuning_refuses_wrong_numbers():
    """A configuration whose results are wrong is out: here, because the kernel itself is."""
    code = """
import numpy as np
from bench.gpu.device import Device
from bench.tools import tune
from kernels import gpu
import kernels.gpu.variational as v
from bench.parity.cases import BY_NAME
print(tune.tune(Device(True), "variational", "sum", [BY_NAME["bce_with_logits/column"]], "float32"))
right = v.bce_with_logits
v.bce_with_logits = right._replace(forward=lambda x, t, **a: (right.forward(x * 1.001, t, **a)[0], (x, t)))
print(tune.tune(Device(True), "variational", "sum", [BY_NAME["bce_with_logits/column"]], "float32"))
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, right, _, wrong = done.stdout.splitlines()
    assert right.endswith("right, not timed") and "refused: output 0: max e" in wrong
