"""Anomaly mode names the operation that made the first NaN or infinity, and training keeps its last healthy checkpoint.

In whole models a NaN or an infinity is put into what one operation gives, forward or backward: that one must be named.
"""

import random
import threading

import numpy as np
import pytest

import core.functional as F
from bench.parity import small_models
from core import AnomalyError, Tensor, checkpoint, detect_anomaly, nn, observe, optim, use
from core.checkpoint import CheckpointError
from core.runtime import threads
from models.__main__ import main
from models.gan import GANTrainer
from tests.core.intercept import intercept


def f32(*values):
    return np.array(values, np.float32)


def leaf(*values, dtype=np.float32):
    return Tensor(np.array(values, dtype), requires_grad=True)


def message(f, module=None):
    """What anomaly mode says about f(), in one line; "" if nothing."""
    try:
        with detect_anomaly(module):
            f()
    except AnomalyError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def half_sum():
    y = leaf(0.5, dtype=np.float16) * np.float16(1)
    (y * np.float16(4e4) + y * np.float16(3e4)).sum().backward()


def twice():
    x = leaf(0.5, dtype=np.float16)
    for _ in range(2):
        (x * np.float16(4e4)).sum().backward()


BLAMED = {
    "log of 0": (
        lambda: F.log(f32(1, 0, 2)),
        "log: the result, float32 of shape (3,), has 1 infinite among 3 numbers;",
    ),
    "log below 0": (lambda: F.log(f32(-1)), "log: the result, float32 of shape (1,), has 1 NaN among 1 numbers; all"),
    "infinity minus infinity": (
        lambda: Tensor(f32(np.inf)) - f32(np.inf),
        "has 1 NaN among 1 numbers; input 0 has 1 infinite, input 1 has 1 infinite: (1,), (1,)",
    ),
    "float16 overflow": (lambda: leaf(300, dtype=np.float16) * np.float16(300), "mul: the result, float16"),
    "nothing to average": (lambda: F.cross_entropy(f32(1, 2)[None], np.array([-100])), "cross_entropy: the result, "),
    "a row of -inf": (
        lambda: F.softmax(f32(-np.inf, -np.inf)),
        "softmax: the result, float32 of shape (2,), has 2 NaN",
    ),
    "attributes": (lambda: F.softmax(f32(-np.inf, -np.inf), axis=0), "axis=0"),
    "several results": (lambda: F.add_layer_norm(f32(3e38, 0), f32(3e38, 0), f32(1, 1), f32(0, 0)), "norm: result 0, "),
    "sqrt at 0": (
        lambda: F.sqrt(leaf(4, 0)).sum().backward(),
        "sqrt: the gradient of input 0, float32 of shape (2,), has 1 infinite among 2 numbers; all that came",
    ),
    "gradient beyond float16": (
        lambda: (leaf(0.5, dtype=np.float16) * np.float16(6e4)).backward(np.float16([2])),
        "mul: the gradient of input 0, float16",
    ),
    "sum of gradients": (half_sum, "backward: the sum of two gradients of the result of mul, float16 of shape (1,)"),
    "sum on a leaf": (twice, "backward: the sum of two gradients of a leaf, float16 of shape (1,)"),
}


@pytest.mark.parametrize(("f", "words"), BLAMED.values(), ids=BLAMED.keys())
@pytest.mark.parametrize("mode", ["auto", "reference"])
def test_the_operation_that_made_it_is_named(f, words, mode):
    with use(mode), np.errstate(all="ignore"):
        assert words in message(f)


def biased(allowed):
    """Attention whose bias forbids by -inf, all of it in the first row."""
    q, bias = leaf(*np.ones((1, 1, 3, 4))), leaf(*np.where(allowed, 0, -np.inf))
    F.attention(q, q, q, bias=bias).sum().backward()


INNOCENT = {
    "NaN goes in": lambda: F.exp(f32(np.nan)) + 1,
    "an infinity goes in": lambda: F.exp(f32(np.inf)) * 2,
    "log_softmax of a mask": lambda: F.log_softmax(f32(1, -np.inf)),
    "softmax of a mask": lambda: F.softmax(leaf(1, -np.inf)).sum().backward(),
    "attention's bias": lambda: biased(np.tri(3, k=-1)),
    "NaN was saved": lambda: (leaf(1, 2) * f32(np.nan, 1)).sum().backward(),
    "a gradient that arrives infinite": lambda: (leaf(1, 2) * 3).backward(f32(np.inf, 1)),
}


@pytest.mark.parametrize("f", INNOCENT.values(), ids=INNOCENT.keys())
@pytest.mark.parametrize("mode", ["auto", "reference"])
def test_what_came_in_is_nobodys_fault(f, mode):
    with use(mode):
        assert message(f) == ""


def test_attention_is_blamed_in_spite_of_its_mask():
    """The -inf of a bias explains no infinity."""
    v = leaf(*np.zeros((1, 1, 2, 4)))
    y = F.attention(v.data, v.data, v, bias=f32(0, -np.inf))
    with np.errstate(all="ignore"):
        words = message(lambda: y.backward(np.full(y.shape, 3e38, np.float32)))
    assert words.startswith("attention: the gradient of input 2, float32 of shape (1, 1, 2, 4), has 4 infinite")


def test_parameters_have_their_names():
    layer = nn.Linear(2, 2)
    layer.weight.data[...] = 3e38
    with np.errstate(all="ignore"):
        words = message(lambda: layer(np.full((4, 2), 100, np.float32)), layer)
        assert "all that came in is finite: (4, 2), weight (2, 2), bias (2,)" in words
        layer.weight.data[...] = 0
        words = message(lambda: layer(np.full((4, 2), 3e38, np.float32)).sum().backward(), layer)
    assert words.startswith("linear: the gradient of input 1, weight, float32 of shape (2, 2), has 4 infinite")


@pytest.mark.parametrize("mode", ["auto", "reference"])
def test_a_state_operation_names_the_parameter(mode):
    layer = nn.Linear(2, 1)
    for p in layer.parameters():
        p.grad = np.zeros_like(p.data)
    adam = optim.Adam(layer.named_parameters(), eps=0.0)
    with use(mode):
        assert message(adam.step, layer).startswith(
            "adam_: list 0[0], weight, float32 of shape (1, 2), has 2 NaN among 2"
        )


# --- whole models ----------------------------------------


def poisoned(values, number, index=None):
    """A copy of what an operation gave, with `number` in the first floating array (or in number `index`)."""
    many = isinstance(values, tuple)
    values = list(values) if many else [values]
    for i, v in enumerate(values):
        if v is not None and v.dtype.kind == "f" and v.size and index in (None, i):
            values[i] = v.copy()
            values[i].flat[-1] = number
            break
    return tuple(values) if many else values[0]


def inject(monkeypatch, direction, at, number):
    """Let operation number `at` of this direction give `number`; the list gets the names of all that ran."""
    ran: list = []

    def forward(op, *inputs, **attrs):
        y, saved = op.forward(*inputs, **attrs)
        ran.append(op.name)
        return poisoned(y, number) if len(ran) - 1 == at else y, saved

    def backward(op, saved, dy, needs_input_grad, **attrs):
        ran.append(op.name)
        grads = op.backward(saved, dy, needs_input_grad, **attrs)
        return poisoned(tuple(grads), number, needs_input_grad.index(True)) if len(ran) - 1 == at else grads

    intercept(monkeypatch, **{direction: {"forward": forward, "backward": backward}[direction]})
    return ran


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("kind", small_models.SMALL)
def test_one_bad_number_in_a_training_step_is_found(kind, direction, monkeypatch):
    monkeypatch.setattr(threads, "COUNT", 1)  # so that operations have an order
    with monkeypatch.context() as patch:
        count = inject(patch, direction, None, None)
        small_models.run(small_models.trainer(kind), 1)
    for at in random.Random(kind + direction).sample(range(len(count)), 8):
        with monkeypatch.context() as patch:
            t = small_models.trainer(kind)
            ran = inject(patch, direction, at, (np.nan, np.inf, -np.inf)[at % 3])
            words = message(lambda: small_models.run(t, 1), t.model)  # noqa: B023 (called at once)
        where = "the result" if direction == "forward" else "the gradient of input"
        assert words.startswith(f"{count[at]}: {where}") or f"{count[at]}: result 0" in words, (at, words)
        assert len(ran) == at + 1, "it did not stop there"


def test_a_part_of_the_batch_is_watched_too(monkeypatch):
    monkeypatch.setattr(threads, "COUNT", 2)
    t = small_models.trainer("vae")

    def forward(op, *inputs, **attrs):
        y, saved = op.forward(*inputs, **attrs)
        here = op.name == "elbo" and threading.current_thread() is not threading.main_thread()
        return poisoned(y, np.nan) if here else y, saved

    intercept(monkeypatch, forward)
    assert message(lambda: small_models.run(t, 1)).startswith("elbo: result 0")


@pytest.mark.parametrize("kind", small_models.SMALL)
def test_watching_changes_no_bit_and_off_it_looks_at_nothing(kind, monkeypatch):
    watched, alone = small_models.trainer(kind), small_models.trainer(kind)
    with detect_anomaly(watched.model):
        expected = small_models.run(watched, 2)
    monkeypatch.setattr(observe, "count", None)
    assert small_models.run(alone, 2) == expected and not observe.observed()
    assert not small_models.different(small_models.snapshot(watched), small_models.snapshot(alone))


# --- training ----------------------------------------

TRAIN = ["train", "gan", "--batch", "4", "--steps", "12", "--save-every", "3"]


def failed(capsys, *arguments):
    """The last line of a command that fails."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 1
    return capsys.readouterr().err.strip().split("\n")[-1]


def saved_steps(folder):
    arrays, _ = checkpoint.load(folder / "checkpoint.safetensors")
    assert all(np.isfinite(a).all() for a in arrays.values())
    return int(arrays["optim.generator.step"])


def test_a_run_ends_at_a_bad_loss_and_its_advice_finds_the_operation(tmp_path, monkeypatch, capsys):
    """The tenth operation of step 5 makes an infinity; the losses are NaN from there on."""
    current, folder = [0, 0], tmp_path / "run"
    train_step = GANTrainer.train_step

    def step(self, *batch):
        current[:] = self.steps, 0
        train_step(self, *batch)

    def forward(op, *inputs, **attrs):
        y, saved = op.forward(*inputs, **attrs)
        current[1] += 1
        return poisoned(y, np.inf) if current == [4, 10] else y, saved

    monkeypatch.setattr(GANTrainer, "train_step", step)
    intercept(monkeypatch, forward)
    line = failed(capsys, *TRAIN, "--out", folder)
    advice = f"--resume {folder} with --detect-anomaly names the operation"
    assert "the loss is not finite" in line and "at step 5" in line and line.endswith(advice), line
    assert saved_steps(folder) == 3
    line = failed(capsys, "train", "--resume", folder, "--detect-anomaly")
    assert line.startswith("error: gan: step 5: conv2d: the result, float32 of shape (4, 28, 28, 1), has 1 infinite")
    assert "generator.out.weight (5, 5, 32, 1)" in line and saved_steps(folder) == 3
    line = failed(capsys, *TRAIN, "--out", tmp_path / "new", "--save-every", "9")
    assert line.endswith("no checkpoint was written yet; the same command with --detect-anomaly names the operation")
    assert "step 5: conv2d" in failed(capsys, *TRAIN, "--out", tmp_path / "new", "--detect-anomaly")


@pytest.mark.parametrize("name", ["model.generator.dense.weight", "optim.discriminator.down1.bias.v"])
def test_a_state_that_is_not_finite_replaces_no_checkpoint(name, tmp_path, monkeypatch, capsys):
    """The losses of step 6 are finite, its update is not."""
    train_step = GANTrainer.train_step

    def step(self, *batch):
        train_step(self, *batch)
        if self.steps == 5:  # the sixth is not over
            self.state()[name].flat[1] = np.nan

    monkeypatch.setattr(GANTrainer, "train_step", step)
    line = failed(capsys, *TRAIN, "--out", tmp_path / "run")
    assert f"not saved: {name} has values that are not finite" in line and "at step 6" in line
    assert f"--resume {tmp_path / 'run'} with --detect-anomaly" in line and saved_steps(tmp_path / "run") == 3


def test_save_refuses_a_state_that_is_not_finite(tmp_path):
    t = small_models.trainer("gpt")
    t.save(tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    t.model.wte.weight.data[0, 0] = -np.inf
    with pytest.raises(CheckpointError, match=r"c: not saved: model\.wte\.weight has values that are not finite"):
        t.save(tmp_path / "c", keep=tmp_path / "previous")
    assert (tmp_path / "c").read_bytes() == before and not (tmp_path / "previous").exists()
