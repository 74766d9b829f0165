"""What the compiler makes of the GPU kernels, for GPUs that are not there: no spills, tensor cores for products.

It proves that code is generated, not what the code does.
"""

import os
import re
import subprocess
import sys

import pytest

from tests import ROOT
from tests.kernels.test_interpreter import launched_in_source

ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def test_the_page_of_what_the_compiler_made_has_every_kernel_on_every_architecture():
    page = (ROOT / "docs" / "kernels" / "compiled.md").read_text(encoding="utf-8")
    for arch in ("80", "90", "100"):
        table = page.partition(f"## sm_{arch}\n")[2].partition("\n## ")[0]
        listed = set(re.findall(r"^\| (\w+\.\w+) \|", table, re.MULTILINE))
        assert listed == launched_in_source(), "assay kernels check --arch 80,90,100 --out docs/kernels/compiled.md"


def checked(*options):
    command = [sys.executable, "-m", "bench.command", "kernels", "check", *options]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.parametrize(
    "operations", [("conv2d", "attention", "layer_norm"), pytest.param((), marks=pytest.mark.full)]
)
def test_compiled_kernels_spill_nothing_and_use_tensor_cores(operations):
    """Some operations, or all, at the models' own shapes."""
    done = checked(*operations, "--arch", "90")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_a_product_in_one_tf32_pass_compiles_too():
    done = checked("linear", "--tf32", "--arch", "90")
    assert done.returncode == 0 and "| matmul._gemm | 90 | fp32/fp32" in done.stdout, done.stdout + done.stderr[-2000:]


@pytest.mark.full
def test_compiled_kernels_for_every_architecture_and_shape():
    done = checked("--arch", "80,90,100", "--all-cases")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
