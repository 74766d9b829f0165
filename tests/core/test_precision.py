"""Mixed precision: which operations take float16, what comes back, and training that stays as near as PyTorch's own."""

import contextlib

import numpy as np
import pytest
import torch

import core.functional as F
from bench.parity import small_models
from bench.torch_models import COUNTERPARTS
from core import Tensor, random, use
from core.checkpoint import CheckpointError
from core.observe import tracing
from models import MODELS
from models.__main__ import main
from models.training.runs import Run

HALF, FULL = np.float16, np.float32
STEPS, TIMES, SCALE = 12, 3.0, 64.0  # a VAE sums over pixels: its gradients overflow from 128


def leaf(*shape, dtype=np.float32):
    rng = np.random.default_rng(len(shape))
    return Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True)


# What torch.autocast does on a GPU (its documentation, "CUDA Op-Specific Behavior"): products in float16; layer and
# group norms and losses in float32; batch norm, activations and the rest in whatever arrives.
CASES = {
    "linear": (lambda x: F.linear(x, leaf(5, 4)), (3, 4), HALF, HALF),
    "matmul": (lambda x: x @ leaf(4, 5), (3, 4), HALF, HALF),
    "conv2d": (lambda x: F.conv2d(x, leaf(3, 3, 2, 4), leaf(4)), (2, 5, 5, 2), HALF, HALF),
    "conv_transpose2d": (lambda x: F.conv_transpose2d(x, leaf(3, 3, 4, 2)), (2, 5, 5, 2), HALF, HALF),
    "attention": (lambda x: F.attention(x, leaf(1, 2, 3, 4), leaf(1, 2, 3, 4)), (1, 2, 3, 4), HALF, HALF),
    "layer_norm": (lambda x: F.layer_norm(x, leaf(4), leaf(4)), (3, 4), FULL, FULL),
    "add_layer_norm": (lambda x: F.add_layer_norm(x, leaf(3, 4), leaf(4), None)[1], (3, 4), FULL, FULL),
    "group_norm": (lambda x: F.group_norm(x, 2, leaf(4), leaf(4)), (3, 4), FULL, FULL),
    "softmax": (lambda x: F.softmax(x, -1), (3, 4), FULL, FULL),
    "cross_entropy": (lambda x: F.cross_entropy(x, np.arange(3)), (3, 4), FULL, FULL),
    "bce_with_logits": (lambda x: F.bce_with_logits(x, 1.0), (3, 4), FULL, FULL),
    "batch_norm": (lambda x: F.batch_norm(x, None, None, leaf(4), leaf(4), training=True), (3, 4), FULL, HALF),
    "relu": (lambda x: F.relu(x), (3, 4), FULL, HALF),
}


@pytest.mark.parametrize("name", CASES)
def test_which_dtype_comes_out(name):
    """Given float32, and given float16; the gradient of a float32 leaf is float32, inside and outside of `use`."""
    f, shape, from_float32, from_float16 = CASES[name]
    with use(half=True):
        x = leaf(*shape)
        y = f(x)
        assert y.dtype == from_float32 and f(leaf(*shape, dtype=HALF)).dtype == from_float16
    y.backward(np.ones(y.shape, y.dtype))
    assert x.grad.dtype == np.float32 and f(x).dtype == np.float32


def test_a_product_is_that_of_the_rounded_numbers():
    x, w = leaf(3, 4), leaf(5, 4)
    with use(half=True):
        y = F.linear(x, w)
    exact = x.data.astype(HALF).astype(np.float64) @ w.data.astype(HALF).astype(np.float64).T
    assert np.array_equal(y.data, exact.astype(HALF))
    assert not np.array_equal(y.data, F.linear(x, w).data)


def test_float64_is_left_alone():
    with use(half=True):
        assert F.linear(leaf(3, 4, dtype=np.float64), leaf(5, 4, dtype=np.float64)).dtype == np.float64


# --- training ----------------------------------------


def trainer(kind, precision, **changes):
    t = MODELS[kind]
    return t(
        t.Config.preset("demo", **{**small_models.SMALL[kind], **changes}),
        data=small_models.dataset(kind),
        precision=precision,
    )


@contextlib.contextmanager
def autocast(counterpart):
    """torch's float16 around a step of a counterpart, its losses scaled and its gradients divided again."""
    plain = torch.Tensor.backward

    def scaled(loss):
        plain(loss * SCALE)
        for p in counterpart.model.parameters():
            if p.grad is not None:
                p.grad /= SCALE

    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", dtype=torch.float16):
        patch.setattr(torch.Tensor, "backward", scaled)
        yield


@pytest.mark.parametrize("kind", MODELS)
def test_losses_part_from_float64_no_faster_than_pytorchs(kind):
    """Beside torch.autocast from the same weights, on the same batches, noise and masks."""
    ours = trainer(kind, "fp16")
    for scale in ours.scales.values():
        scale.scale[...] = SCALE
    exact, theirs = COUNTERPARTS[kind](ours, dtype=torch.float64), COUNTERPARTS[kind](ours)
    batches, found = ours.batches("train"), []
    for _ in range(STEPS):
        batch = next(batches)
        with random.record() as draws:
            losses = ours.step(batch)
        with autocast(theirs):
            half = theirs.step(batch, draws)
        found.append([[run[name] for name in losses] for run in (losses, half, exact.step(batch, draws))])
    mine, torchs, oracle = np.array(found).transpose(1, 0, 2)
    parting = [np.maximum.accumulate(np.abs(run - oracle)).max(axis=0) for run in (mine, torchs)]
    assert (parting[0] <= TIMES * parting[1]).all(), f"ours {parting[0]}, torch {parting[1]} from {oracle[-1]}"
    assert (parting[0] > 0).all() and all(int(s.good) == STEPS for s in ours.scales.values())


def test_an_overflow_costs_a_step_and_nothing_else():
    t = trainer("vae", "fp16")
    before = small_models.snapshot(t)
    t.scales["loss"].scale[...] = 2.0**60
    small_models.run(t, 1)
    changed = set(small_models.different(before, small_models.snapshot(t)))
    assert changed == {"scale.loss.scale", "rng.step", "data.position"} and t.scales["loss"].scale == 2.0**59
    assert t.steps == 1
    small_models.run(t, 60)
    assert t.scales["loss"].good > 0 and int(t.optimizers["vae"].steps) == t.scales["loss"].good


def test_saved_and_continued_in_the_same_bits(tmp_path):
    straight, resumed = trainer("gan", "fp16"), trainer("gan", "fp16")
    small_models.run(straight, 3)
    straight.save(tmp_path / "c.safetensors")
    resumed.load(tmp_path / "c.safetensors")
    assert small_models.run(straight, 3) == small_models.run(resumed, 3)
    assert not small_models.different(small_models.snapshot(straight), small_models.snapshot(resumed))
    with pytest.raises(CheckpointError, match="trained in fp16, should be fp32"):
        trainer("gan", "fp32").load(tmp_path / "c.safetensors")


def test_parameters_and_moments_stay_float32_and_products_are_float16():
    t = trainer("gpt", "fp16")
    with tracing() as trace:
        small_models.run(t, 1)
    assert all(
        a.dtype == np.float32 for name, a in t.state().items() if name.startswith(("model.", "optim.")) and a.ndim
    )
    products = [
        [a.dtype for a in inputs if a is not None] for name, inputs, *_ in trace if name in ("linear", "attention")
    ]
    assert products and all(d == np.float16 for dtypes in products for d in dtypes)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision is 'bf16', should be one of fp32, tf32, fp16"):
        trainer("gan", "bf16")


def test_a_run_keeps_its_precision(tmp_path, capsys):
    folder = str(tmp_path / "run")
    assert main(["train", "gan", "--batch", "4", "--steps", "2", "--precision", "fp16", "--out", folder]) == 0
    assert main(["train", "--resume", folder, "--steps", "3"]) == 0 and main(["sample", folder]) == 0
    assert Run.open(folder).trainer().precision == "fp16" and Run.open(folder).trainer().steps == 3
    assert main(["train", "--resume", folder, "--precision", "fp32"]) == 1
    assert "--precision cannot be given with --resume" in capsys.readouterr().err
