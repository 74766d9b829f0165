"""Which implementation runs, and what `explain` says about it: the table is given a false kernel of exp."""

import threading
from dataclasses import replace

import numpy as np
import pytest

import core.functional as F
import core.random
from core import Generator, KernelLimit, Tensor, dispatch, explain, table, use
from core.dispatch import on
from core.engine import Op
from core.observe import recording
from core.table import TABLE, Kernel, NoKernel, Row
from tests import ROOT

# A kernel whose results cannot be mistaken for the reference's: y is 100 too large, the gradient is 7.
FAKE = Op(
    "exp", lambda x: (np.exp(x) + 100, ()), lambda saved, dy, needs_input_grad: (np.full_like(dy, 7),), backend="fake"
)
ZERO = np.zeros(2, np.float32)


def _too_long(arrays, attrs):
    return "more than 4 elements" if arrays[0].size > 4 else None


@pytest.fixture(autouse=True)
def fake_kernel(monkeypatch):
    kernel = Kernel("tests.core.test_dispatch:FAKE", ("float32",), _too_long)
    monkeypatch.setitem(TABLE, "exp", replace(TABLE["exp"], kernels={"cpu": kernel}))


def ran(x):
    """ "fake" or "reference": whose value of exp(0) this is."""
    return {101.0: "fake", 1.0: "reference"}[float(F.exp(x).data.flat[0])]


@pytest.mark.parametrize("mode, who", [("auto", "fake"), ("kernels", "fake"), ("reference", "reference")])
def test_modes(mode, who):
    with use(mode):
        assert ran(ZERO) == who


def test_auto_is_the_default():
    assert ran(ZERO) == "fake"


def test_a_limit_falls_back_in_auto_and_raises_in_kernels():
    long = np.zeros(5, np.float32)
    assert ran(long) == "reference"
    with use("kernels"), pytest.raises(KernelLimit, match=r"exp: more than 4 elements"):
        F.exp(long)


@pytest.mark.parametrize(("groups", "reason"), [(1, "groups are 8193 channels wide, the kernel takes 8192"), (3, None)])
def test_wide_groups_are_too_many_registers_for_a_gpu(groups, reason):
    refused = (
        TABLE["group_norm"].kernels["cuda"].fallback_reason([np.zeros((1, 8193), np.float32)], {"num_groups": groups})
    )
    assert reason is refused is None or refused.startswith(reason)


def test_a_dtype_falls_back_in_auto_and_raises_in_kernels():
    assert ran(ZERO.astype(np.float64)) == "reference"
    with use("kernels"), pytest.raises(KernelLimit, match=r"exp: dtype is float64, the kernel takes float32"):
        F.exp(ZERO.astype(np.float64))


def test_kernels_mode_leaves_operations_without_a_kernel_alone():
    with use("kernels"):
        assert np.array_equal(F.log(np.ones(3, np.float32)).data, np.zeros(3))


def test_use_nests_and_ends_when_its_body_raises():
    with use("reference"):
        with use("kernels"):
            assert ran(ZERO) == "fake"
        assert ran(ZERO) == "reference"
    with pytest.raises(KeyError), use("reference"):
        raise KeyError
    assert ran(ZERO) == "fake"


def test_modes_nest_apart():
    with use(tf32=True):
        with use("reference"):
            assert ran(ZERO) == "reference" and dispatch.tf32()
            with use("kernels", tf32=False):
                assert ran(ZERO) == "fake" and not dispatch.tf32()
            assert ran(ZERO) == "reference" and dispatch.tf32()
        assert ran(ZERO) == "fake" and dispatch.tf32()
        with use():
            assert dispatch.tf32()
    assert not dispatch.tf32()


def test_use_is_one_threads_own_affair():
    seen = []
    with use("reference"):
        thread = threading.Thread(target=lambda: seen.append(ran(ZERO)))
        thread.start()
        thread.join()
    assert seen == ["fake"]


@pytest.mark.parametrize("forward, backward, slope", [("auto", "reference", 7.0), ("reference", "auto", 1.0)])
def test_backward_is_by_whoever_ran_forward(forward, backward, slope):
    x = Tensor(ZERO.copy(), requires_grad=True)
    with use(forward):
        y = F.exp(x)
    with use(backward):
        y.backward(np.ones(2))
    assert np.array_equal(x.grad, [slope, slope])


def test_recording_names_the_backend():
    with recording() as log:
        F.exp(ZERO)
        F.log(ZERO)
        with use("reference"):
            F.exp(ZERO)
    F.exp(ZERO)
    assert log == [("exp", "fake"), ("log", "reference"), ("exp", "reference")]


# --- explain ----------------------------------------


def test_explain_an_operation_in_general():
    assert explain("exp") == "exp: cpu tests.core.test_dispatch:FAKE; cuda reference: no kernel is written for it"
    assert "reference by design: a view" in explain("reshape")


def test_explain_definite_arguments():
    assert explain("exp", ZERO) == "exp: fake (tests.core.test_dispatch:FAKE takes these arguments)"
    assert explain("exp", Tensor(np.zeros(5, np.float32))) == "exp: reference (more than 4 elements)"
    assert explain("exp", np.zeros(2)) == "exp: reference (dtype is float64, the kernel takes float32)"
    with use("reference"):
        assert explain("exp", ZERO) == "exp: reference (mode is 'reference')"
    assert explain("log", ZERO).startswith("log: reference (reference by design: NumPy's own loop")


def test_explain_runs_nothing():
    with recording() as log:
        explain("exp", ZERO)
    assert log == []


class _Trainer:
    """The part of a trainer that explain asks for: a step that moves its state and runs exp twice and log once."""

    def __init__(self):
        self.w, self.fed = np.zeros(2, np.float32), None

    def state(self):
        return {"w": self.w}

    def load_state(self, state):
        self.w[...] = state["w"]

    def batches(self, split):
        return iter([np.ones(2, np.float32)])

    def feed(self, batch):
        self.fed = batch

    def update(self):
        F.exp(self.fed), F.exp(np.ones(5, np.float32)), F.log(self.fed)
        self.w += 1


def test_explain_a_trainer_counts_one_step_and_puts_the_state_back():
    trainer = _Trainer()
    assert explain(trainer) == {"exp": {"fake": 1, "reference": 1}, "log": {"reference": 1}}
    assert np.array_equal(trainer.w, [0.0, 0.0])


# --- drawings ----------------------------------------

DRAWINGS = {"normal": core.random.normal, "uniform": core.random.uniform}


def drawn(shape, seed, draw, step, dtype):
    """A kernel of a drawing that cannot be mistaken for the reference."""
    return np.full(shape, seed + draw + step, dtype)


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawings_take_the_kernel_in_their_dtypes(name, monkeypatch):
    kernel = Kernel("tests.core.test_dispatch:drawn")
    monkeypatch.setitem(TABLE, name, replace(TABLE[name], kernels={"cpu": kernel}))
    with Generator(40) as g, recording() as log:
        g.next()
        assert np.array_equal(DRAWINGS[name]((2, 3)), np.full((2, 3), 41, np.float32))
        assert np.abs(DRAWINGS[name]((2, 3), np.float64)).max() < 7
    assert [operation for operation, _ in log] == [name, name]
    with use("kernels"), pytest.raises(KernelLimit, match=rf"{name}: dtype is float64, the kernel takes float32"):
        DRAWINGS[name]((2, 3), np.float64)


def test_explain_a_drawing():
    assert explain("normal") == "normal: cpu kernels.cpu.random:normal; cuda kernels.gpu.random:normal"
    step = np.zeros((), np.int64)
    with on("cuda"):
        assert "triton (kernels.gpu.random:normal takes" in explain("normal", (3,), 0, 0, step, dtype="float32")
        assert "reference (dtype is float64" in explain("normal", (3,), 0, 0, step, dtype="float64")


# --- the table itself ----------------------------------------


def test_a_row_names_a_file_or_says_why_there_is_none():
    _, short = table.row(TABLE["exp"].reference, cpu=NoKernel("short"))
    assert short.kernels["cpu"] == "reference by design: short"
    for row in TABLE.values():
        for kernel in row.kernels.values():
            if isinstance(kernel, Kernel) and kernel.where.startswith("kernels."):
                assert (ROOT / kernel.where.partition(":")[0].replace(".", "/")).with_suffix(".py").exists(), kernel


def test_state_operations_are_those_whose_names_end_in_an_underscore():
    for name, row in TABLE.items():
        assert isinstance(row, Row)
        assert (name.endswith("_") or name in {*DRAWINGS, "keep_mask"}) != isinstance(row.reference, Op), name
        if isinstance(row.reference, Op):
            assert (row.reference.name, row.reference.backend) == (name, "reference")


# --- limits ----------------------------------------

# Shapes of x and w that a GPU's convolution cannot address in 32 bits, and what of them is too much.
HUGE = {
    "pixels of x": ((2**20, 50, 50, 1), (1, 1, 1, 1), {}, "x has 2621440000 pixels"),
    "an image of x": ((1, 20_000, 20_000, 6), (1, 1, 6, 1), {}, "one image of x, padded, has 2400000000 elements"),
    "w": ((1, 31, 31, 1500), (31, 31, 1500, 1500), {}, "w has 2162250000 elements"),
    "pixels of y": (
        *((1, 1000, 1000, 1), (1, 1, 1, 1)),
        *(
            {"stride": (50, 50), "padding": (0, 0), "output_padding": (0, 0), "dilation": (1, 1)},
            "y has 2495102401",
        ),
    ),
}


@pytest.mark.parametrize("x, w, attrs, reason", HUGE.values(), ids=HUGE)
def test_a_convolution_past_32_bits_is_not_given_to_a_gpu_s_kernel(x, w, attrs, reason):
    op, one = "conv_transpose2d" if attrs else "conv2d", np.float32(1)
    with dispatch.on("cuda"):
        said = explain(op, np.broadcast_to(one, x), np.broadcast_to(one, w), **attrs)
    assert said.startswith(f"{op}: reference ({reason}") and "2^31" in said
