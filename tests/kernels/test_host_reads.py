"""No step reads from the device or copies from the host, on the path that a GPU takes: its kernels' launches are noted
instead of run, on arrays that refuse what CuPy's refuse. And nothing that a launch is given changes from step to step,
since a graph would go on giving what it was when it was captured. And the reference, which runs where a kernel is
switched off or refuses, keeps to what CuPy has: every case of it is computed on those arrays."""

import numpy as np
import pytest

import models
from bench.parity import comparing, small_models
from bench.parity.cases import CASES, run
from core import use
from core.reference.embedding import embedding
from kernels import launch
from tests.fakes import fake_cupy

# What else a step may do, options that the small presets leave out.
OPTIONS = [
    *((kind, {}) for kind in models.MODELS),
    ("gan", {"loss": "hinge", "feature_matching": 0.5}),
    ("gan", {"classes": 10}),
    ("vae", {"classes": 10}),
    ("seq2seq", {"positions": "sinusoidal"}),
]


@pytest.fixture
def gpu():
    with fake_cupy.cupy() as gpu:
        yield gpu


def given(noted):
    """What launches were given besides addresses, as text: nan is not nan."""
    plain = lambda a: (a.shape, str(a.dtype)) if hasattr(a, "dtype") else a
    parts = ((n.kernel.__name__, n.grid, [plain(a) for a in n.arguments], n.constants, n.options) for n in noted)
    return [repr(part) for part in parts]


@pytest.mark.parametrize(
    ("kind", "options"), OPTIONS, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "small"
)
def test_a_step_leaves_the_host_alone(kind, options, gpu):
    with launch.recording(90) as noted:
        t = small_models.trainer(kind, device="cuda", **options)
        batches, steps = t.batches("train"), []
        gpu.reads.clear()
        for _ in range(5):
            before = len(noted)
            t.step(next(batches), read=False)
            steps.append(given(noted[before:]))
        assert not gpu.reads and t.captured.reason is None and t.captured.held  # the optimisers' tables
        assert len(steps[0]) > 50 and steps[0] == steps[1] == steps[2] and steps[3] == steps[4] == []
        t.metrics()
        assert gpu.reads == ["tolist"]


@pytest.mark.parametrize("kind", ["gan", "vae"])
def test_pictures_by_class_read_by_the_named_ways_only(kind):
    with fake_cupy.without_a_gpu() as gpu:
        t = small_models.trainer(kind, device="cuda", classes=10)
        small_models.run(t, 1)
        t.sample(1), t.evaluate(), t.traverse()
        assert set(gpu.reads) <= {"get", "tolist", "__int__"}


@pytest.mark.parametrize("kind", models.MODELS)
def test_looking_at_a_model_reads_by_the_named_ways_only(kind, tmp_path):
    """Samples, figures and checkpoints on "cuda", by the reference: no array turns into NumPy's unasked."""
    with fake_cupy.without_a_gpu() as gpu:
        t = small_models.trainer(kind, device="cuda")
        small_models.run(t, 1)
        t.sample(1), t.evaluate(), t.save(tmp_path / "c")
        small_models.trainer(kind, device="cuda").load(tmp_path / "c")
        assert set(gpu.reads) <= {"get", "tolist", "__int__"}


# --- the reference on CuPy ----------------------------------------


def on_the_stand_in(case, arrays, dys):
    """(outputs, gradients) of a case by the reference, on arrays that take what CuPy's take."""
    import cupy

    with use("reference"):
        moved = [cupy.asarray(a) for a in arrays]
        outputs, tensors = run(case, moved)
        comparing.backward_all(outputs, [None if dy is None else cupy.asarray(dy) for dy in dys])
    get = lambda a: None if a is None else a.get()
    return [get(y.data) for y in outputs], [get(getattr(t, "grad", None)) for t in tensors]


def test_every_case_of_the_reference_asks_for_nothing_that_cupy_lacks(gpu):
    gpu.lenient = True
    for case in CASES:
        for found in comparing.comparisons(case, np.float64, subject=on_the_stand_in):
            assert not found.verdict.fault, f"{case.name}: {found.what}: {found.verdict.fault}"


def test_a_nan_in_one_tokens_gradient_reaches_one_row_of_the_table(gpu):
    import cupy

    dy = cupy.asarray(np.array([[1, 2], [np.nan, 4], [5, 6], [7, 8]], np.float32))
    saved = cupy.asarray(np.array([2, 0, 2, 1])), (4, 2)
    _, dw = embedding.backward(saved, dy, (False, True))
    assert dw.dtype == np.float32 and not gpu.reads
    np.testing.assert_array_equal(dw.get(), [[np.nan, 4], [7, 8], [6, 8], [0, 0]])


# --- the stand-in refuses what CuPy refuses ----------------------------------------

HOST = np.ones(3, np.float32)
REFUSED = {
    "a NumPy function": lambda x: np.sum(x),
    "a conversion": lambda x: np.asarray(x),
    "a NumPy array beside": lambda x: HOST * x,
    "a NumPy array written": lambda x: x.__setitem__(slice(None), HOST),
    "a NumPy array among arguments": lambda x: x.xp.where(x > 0, x, HOST),
    "a name that CuPy lacks": lambda x: x.xp.spacing(x),
    "a ufunc's where": lambda x: x.xp.add(x, x, where=True),
    "a reduction by maximum": lambda x: x.xp.maximum.reduce(x),
    "runs by differences": lambda x: x.xp.add.reduceat(x, x.xp.zeros((1,), int)),
    "a sum's where": lambda x: x.sum(where=True),
    "an unstable sort": lambda x: x.xp.argsort(x, kind="quicksort"),
}


@pytest.mark.parametrize("do", REFUSED.values(), ids=REFUSED)
def test_what_cupy_refuses_is_refused(do, gpu):
    import cupy

    x = cupy.ones((3,), np.float32)
    x.xp = cupy
    with pytest.raises((TypeError, AttributeError, NotImplementedError)):
        do(x)
    assert not gpu.reads


def test_what_goes_to_the_host_is_noted(gpu):
    import cupy

    x = cupy.full((), 2, np.int64)
    assert (int(x), float(x), bool(x), x.item(), x.tolist(), x.get()) == (2, 2.0, True, 2, 2, 2)
    assert [HOST[x - 2], *range(x)] == [1, 0, 1]
    assert gpu.reads == ["__int__", "__float__", "__bool__", "item", "tolist", "get", "__index__", "__index__"]
