"""What is loaded when: the engine alone by its own name, Tensor's operators where `core` or its functions are used."""

import subprocess
import sys

import pytest

import core
from tests import ROOT


def printed(*arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_the_engine_is_loaded_alone():
    """Beside Python's own modules it brings in NumPy and two files of ours."""
    code = "import sys; own = set(sys.modules); import core.engine; print(sorted(set(sys.modules) - own))"
    loaded = eval(printed("-c", code))
    ours = {name for name in loaded if name.split(".")[0] not in {*sys.stdlib_module_names, "numpy"}}
    assert ours == {"core", "core.arrays", "core.check", "core.engine"}


def test_the_example_of_the_header_runs():
    assert printed("-m", "core.engine") == (
        "loss = sum (x w)^2 = 73.0\ndloss/dx = 2 x w^2 = [18. 64.]\ndloss/dw = 2 x^2 w = [ 6. 32.]\n"
    )


@pytest.mark.parametrize("name", ["from core import Tensor", "import core.functional; from core.engine import Tensor"])
def test_operators_are_attached(name):
    assert printed("-c", f"{name}; print((Tensor([1.0, 2.0]) * 3 - 1).sum().item())") == "7.0\n"


def test_every_public_name_is_found_and_no_other():
    for name in core.__all__:
        assert getattr(core, name) is not None
    assert set(core.__all__) == {*core._HOME, *core._MODULES} <= set(dir(core))
    with pytest.raises(AttributeError, match="module 'core' has no attribute 'tensor'"):
        core.tensor  # noqa: B018
