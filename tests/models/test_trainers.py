"""What every trainer promises: the same seed gives the same bits, state keeps its address, a loaded state continues as
if never interrupted, nothing silently becomes float64, and each step consists of the operations it should."""

import resource

import numpy as np
import pytest

import core
import models
from bench.parity import small_models
from core.checkpoint import CheckpointError
from core.runtime import threads
from tests.core.intercept import intercept

KINDS = list(models.MODELS)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_same_seed_same_bits(kind):
    a, b, c = small_models.trainer(kind), small_models.trainer(kind), small_models.trainer(kind, seed=1)
    losses = [small_models.run(t, 5) for t in (a, b, c)]
    assert losses[0] == losses[1] != losses[2]
    assert not small_models.different(small_models.snapshot(a), small_models.snapshot(b))


def test_addresses_never_change(kind, tmp_path):
    t = small_models.trainer(kind)
    addresses = {name: a.__array_interface__["data"] for name, a in {**t.state(), **t.inputs}.items()}
    small_models.run(t, 10)
    t.save(tmp_path / "c.safetensors")
    t.load(tmp_path / "c.safetensors")
    assert {name: a.__array_interface__["data"] for name, a in {**t.state(), **t.inputs}.items()} == addresses


def test_load_continues_in_the_same_bits(kind, tmp_path):
    straight = small_models.trainer(kind)
    small_models.run(straight, 3)
    straight.save(tmp_path / "c.safetensors")
    expected = small_models.run(straight, 40)  # past the end of an epoch
    other = small_models.trainer(kind, seed=5)
    small_models.run(other, 2)
    other.load(tmp_path / "c.safetensors")
    assert small_models.run(other, 40) == expected
    assert not small_models.different(small_models.snapshot(straight), small_models.snapshot(other))
    assert int(straight.order.epoch) > 0


def test_looking_does_not_disturb_training(kind):
    a, b = small_models.trainer(kind), small_models.trainer(kind)
    small_models.run(a, 2), small_models.run(b, 2)
    b.sample(2), b.evaluate()
    assert small_models.run(a, 3) == small_models.run(b, 3)
    assert b.model.training


def test_samples_repeat_with_their_seed(kind):
    t = small_models.trainer(kind)
    a, b, c = t.sample(1, seed=0), t.sample(1, seed=0), t.sample(1, seed=7)
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_step_without_reading(kind):
    a, b = small_models.trainer(kind), small_models.trainer(kind)
    batches = a.batches("train")
    assert a.step(next(batches), read=False) is None
    assert a.metrics() == b.step(next(b.batches("train")))
    assert a.steps == 1


def test_no_float64_array_is_made(kind, monkeypatch):
    """Every array an operation returns, saves or passes back in a step is float32 (0-dimensional ones aside)."""
    seen = []

    def watch(value):
        if isinstance(value, tuple | list):
            for v in value:
                watch(v)
        elif isinstance(value, np.ndarray) and value.ndim and value.dtype.kind == "f":
            seen.append(value.dtype)

    def forward(op, *inputs, **attrs):
        result = op.forward(*inputs, **attrs)
        watch(result)
        return result

    def backward(op, *arguments, **attrs):
        result = op.backward(*arguments, **attrs)
        watch(result)
        return result

    t = small_models.trainer(kind)
    intercept(monkeypatch, forward, backward)
    small_models.run(t, 2)
    assert len(seen) > 50
    assert set(seen) == {np.dtype(np.float32)}


def test_feed_refuses_a_wrong_batch(kind):
    t = small_models.trainer(kind)
    batch = next(t.batches("train"))
    with pytest.raises(ValueError, match=r"feed: batch has \d arrays, should have \d"):
        t.feed((*batch, batch[0]))
    with pytest.raises(ValueError, match=r"feed: \w+ is .* of shape .*, should be .*"):
        t.feed((batch[0][:1], *batch[1:]))
    with pytest.raises(ValueError, match=r"feed: \w+ is .*, should be .*"):
        t.feed((batch[0].astype(np.float16), *batch[1:]))
    if kind in ("gpt", "seq2seq"):
        with pytest.raises(ValueError, match=r"ids from .* should be in \[0, "):
            t.feed((np.full_like(batch[0], 10**6), *batch[1:]))


def test_load_refuses_what_does_not_fit(kind, tmp_path):
    t = small_models.trainer(kind)
    small_models.run(t, 1)
    before = small_models.snapshot(t)
    others = [k for k in KINDS if k != kind]
    small_models.trainer(others[0]).save(tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("not a checkpoint")
    t.save(tmp_path / "whole")
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-100])
    for name, words in (("other.safetensors", "holds a"), ("text", "not a readable"), ("cut", "not a readable")):
        with pytest.raises(CheckpointError, match=words):
            t.load(tmp_path / name)
    if kind in ("gpt", "seq2seq"):  # the same shapes, but another model
        small_models.trainer(kind, heads=4).save(tmp_path / "heads")
        with pytest.raises(CheckpointError, match="its heads is 4, should be 2"):
            t.load(tmp_path / "heads")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        t.load(tmp_path / "absent")
    assert not small_models.different(before, small_models.snapshot(t))


# The operations of one step, and how often each runs. A kernel that is never reached, or an operation that crept in,
# shows here.
STEPS = {
    "gan": {
        "adam_": 2,
        "advance_": 1,
        "batch_norm": 4,
        "conv2d": 7,
        "conv_transpose2d": 3,
        "discriminator_loss": 1,
        "dropout": 6,
        "generator_loss": 1,
        "linear": 4,
        "normal": 1,
        "reshape": 4,
        "running_stats_": 4,
    },
    "vae": {
        "adam_": 1,
        "advance_": 1,
        "conv2d": 4,
        "conv_transpose2d": 3,
        "dropout": 3,
        "elbo": 1,
        "leaky_relu": 1,
        "linear": 3,
        "reparameterize": 1,
        "reshape": 2,
    },
    "gpt": {
        "adam_": 2,
        "add": 1,
        "add_layer_norm": 4,
        "advance_": 1,
        "attention": 2,
        "clip_grad_norm_": 1,
        "dropout": 1,
        "embedding": 1,
        "getitem": 1,
        "layer_norm": 1,
        "linear": 10,
        "linear_cross_entropy": 1,
        "reshape": 8,
        "split": 2,
        "transpose": 8,
    },
    "diffusion": {
        "adam_": 1,
        "add": 14,
        "advance_": 1,
        "attention": 1,
        "clip_grad_norm_": 1,
        "concatenate": 2,
        "conv2d": 18,
        "conv_transpose2d": 2,
        "ema_": 1,
        "embedding": 2,
        "group_norm": 14,
        "linear": 11,
        "mean": 1,
        "normal": 1,
        "pow": 1,
        "reshape": 12,
        "silu": 2,
        "split": 1,
        "sub": 1,
        "timestep_embedding": 1,
        "transpose": 4,
        "uniform": 2,
    },
    "seq2seq": {
        "adam_": 2,
        "add": 2,
        "add_layer_norm": 5,
        "advance_": 1,
        "attention": 3,
        "clip_grad_norm_": 1,
        "dropout": 2,
        "embedding": 2,
        "getitem": 2,
        "layer_norm": 2,
        "linear": 13,
        "linear_cross_entropy": 1,
        "reshape": 12,
        "split": 3,
        "transpose": 12,
    },
}


def test_operations_of_a_step(kind, monkeypatch):
    monkeypatch.setattr(threads, "COUNT", 1)  # a batch in two parts runs most of them twice
    t = small_models.trainer(kind)
    before = small_models.snapshot(t)
    table = core.explain(t)
    assert {name: sum(backends.values()) for name, backends in table.items()} == STEPS[kind]
    assert not small_models.different(before, small_models.snapshot(t)), "explain must put the trainer's state back"


def test_unknown_preset():
    with pytest.raises(ValueError, match="preset is 'large', should be one of demo, paper"):
        models.GANTrainer.Config.preset("large")


def test_gpt_on_a_byte_pair_encoding(tmp_path):
    """The tokenizer goes into the checkpoint, a token is more than a character, and sampling gives text."""
    t = small_models.trainer("gpt", tokens="bpe", vocab=300)
    losses = small_models.run(t, 5)
    assert t.model.wte.weight.shape == (300, 16) and np.isfinite(losses[-1]["loss"])
    assert len(t.test_ids) < len(t.data.test) and t.tokenizer.decode(t.test_ids) == t.data.test
    f = t.evaluate()
    assert f["nats_per_character"] < f["nats_per_token"]
    assert t.generate("The ", 5).startswith("The ")
    t.save(tmp_path / "c")
    with pytest.raises(CheckpointError, match="its tokens is 'bpe', should be 'characters'"):
        small_models.trainer("gpt").load(tmp_path / "c")


def test_a_step_reuses_what_the_last_one_freed():
    """Memory that the system hands out comes page by page, and each costs a fault."""
    vae = models.MODELS["vae"]
    trainer = vae(vae.Config.preset("demo", batch=64))
    batch = next(trainer.batches("train"))
    for _ in range(3):
        trainer.step(batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        trainer.step(batch)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 5 < 200
