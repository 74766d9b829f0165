"""Whole models against PyTorch: outputs, losses, every gradient, and what some optimiser steps make of it.

And files: a checkpoint of ours loads in PyTorch and computes the same, and the way back gives the same bits.
"""

import numpy as np
import pytest
import torch

from bench.parity import small_models
from bench.parity.rule import Draw, assert_accurate
from bench.parity.trajectories import LOSSES, STEPS, summary, trajectories
from bench.parity.whole_models import SETTINGS, Together, compared_steps, forward_counterpart, forward_ours, negligible
from bench.torch_models import COUNTERPARTS
from core import Generator, checkpoint, interop, random
from models import MODELS

# Parameters whose true gradient is all but zero at the start, and why. No other may be.
EXCEPTIONS = {
    # hinge: inside the margin the bias's gradient is -1 for every real image and +1 for every generated one
    "gan hinge, feature matching": ["discriminator.dense.bias"],
    # initial scores q.k hardly differ beside sines of size 1, so softmax is flat and does not see the queries
    "seq2seq sinusoidal": ["encoder.blocks.0.attn.q.weight", "encoder.blocks.0.attn.q.bias"],
}


@pytest.mark.parametrize("label", SETTINGS)
def test_no_gradient_is_rounding_noise(label):
    kind, changes, _ = SETTINGS[label]
    assert negligible(kind, changes) == EXCEPTIONS.get(label, [])


LONG = [label for label, (*_, counts) in SETTINGS.items() if counts[-1] > 1 and label != "gpt"]  # one of them is enough


@pytest.mark.parametrize(
    "label", [pytest.param(label, marks=[pytest.mark.full] * (label in LONG)) for label in SETTINGS]
)
def test_model_agrees_with_its_counterpart(label):
    found = compared_steps(label)
    faults = [f"{c.case}: {c.what}: {c.verdict.fault}" for c in found if c.verdict.fault]
    assert not faults, "\n".join(faults)
    kind, changes, counts = SETTINGS[label]
    names = small_models.trainer(kind, **changes).model.named_parameters()
    compared = {c.what for c in found}
    assert all({f"step {n}: {name}", f"step {n}: gradient of {name}"} <= compared for name in names for n in counts)


@pytest.mark.full
@pytest.mark.parametrize("kind", LOSSES)
def test_trajectories_lie_on_each_other(kind):
    for t in trajectories(kind):
        assert t.until == STEPS or kind == "gan", summary(t)
        assert t.worst <= 1, summary(t)


# --- the same weights on both sides ----------------------------------------


def trained(kind):
    """A trainer a few steps on its way, so that no weight and no statistic is what it was initialised to."""
    t = small_models.trainer(kind)
    small_models.run(t, 3)
    return t


@pytest.mark.parametrize("kind", MODELS)
def test_a_checkpoint_loads_in_torch_and_computes_the_same(kind, tmp_path):
    t = trained(kind)
    t.save(tmp_path / "checkpoint.safetensors")
    arrays, _ = checkpoint.load(tmp_path / "checkpoint.safetensors")
    state = {name.removeprefix("model."): a for name, a in arrays.items() if name.startswith("model.")}
    batch, noise = next(t.batches("train")), np.random.default_rng(0).standard_normal((8, 100), np.float32)
    other = small_models.trainer(kind, seed=1)  # other weights, which loading must replace
    counterpart, oracle = COUNTERPARTS[kind](other), COUNTERPARTS[kind](other, torch.float64)
    for one in (counterpart, oracle):
        one.model.load_state_dict(
            {name: torch.from_numpy(np.array(a)) for name, a in interop.to_torch_state_dict(state).items()}
        )
    results = (
        forward_ours(kind, t.model, batch, noise),
        *(forward_counterpart(kind, x, batch, noise) for x in (oracle, counterpart)),
    )
    for name in results[0]:
        ours, exact, theirs = (r[name] for r in results)
        assert_accurate(f"{kind} {name}", [Draw(ours, exact.astype(np.float64), theirs)], np.float32)


@pytest.mark.parametrize("kind", MODELS)
def test_weights_come_back_from_torch_to_the_bit(kind):
    t = trained(kind)
    before = {name: a.copy() for name, a in t.model.state_dict().items()}
    state = COUNTERPARTS[kind](t).state()
    other = small_models.trainer(kind, seed=1)
    other.model.load_state_dict(state)
    after = other.model.state_dict()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


@pytest.mark.parametrize("kind", ["gan", "vae", "diffusion"])
def test_images_sampled_by_torch_are_ours(kind):
    t = trained(kind)
    with t.evaluating(), random.record() as draws:
        ours = t.sample(4)
    images = []
    for dtype in (torch.float64, torch.float32):
        counterpart = COUNTERPARTS[kind](t, dtype)
        counterpart.model.eval()
        with torch.no_grad():
            images.append(counterpart.images(counterpart.tensor(draws[-1])).numpy())
    assert_accurate(f"{kind} samples", [Draw(ours, images[0].astype(np.float64), images[1])], np.float32)


def test_text_written_by_torch_is_ours():
    """Greedy decoding: the same characters, though ours reads each once and keeps keys and values."""
    t = small_models.trainer("gpt", steps=60)
    small_models.run(t, 60)
    prompt = t.data.train[:4]
    ours = t.generate(prompt, 8, temperature=1e-4)
    ids, model = t.tokenizer.encode(prompt), COUNTERPARTS["gpt"](t).model.eval()
    with torch.no_grad():
        for _ in range(8):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert t.tokenizer.decode(ids) == ours


def test_kept_keys_and_values_change_no_logits_of_the_counterpart():
    """In float64, from a prompt of five tokens on, one token a call, as against the whole text at once."""
    t = small_models.trainer("gpt")
    model, ids = COUNTERPARTS["gpt"](t, torch.float64).model.eval(), torch.tensor(next(t.batches("train"))[0])
    with torch.no_grad():
        caches, whole = model.caches(len(ids)), model(ids)
        kept = [model.next_logits(ids[:, :5], caches), *(model.next_logits(i[:, None], caches) for i in ids.T[5:])]
    assert (torch.stack(kept, 1) - whole[:, 4:]).abs().max() <= 1e-12 * whole.abs().max()


def test_a_captured_step_starts_again_in_the_memory_it_has():
    """Weights as before, moments zero, and every tensor at its address; the learning rate is one of them."""
    t = small_models.trainer("gan")
    counterpart, batch = COUNTERPARTS["gan"](t, fused=True, capturable=True), next(t.batches("train"))
    before = {name: (p.data_ptr(), p.clone()) for name, p in counterpart.model.named_parameters()}
    counterpart.step(batch)
    rates = [o.param_groups[0]["lr"] for o in counterpart.optimizers.values()]
    moments = [m for o in counterpart.optimizers.values() for s in o.state.values() for m in s.values()]
    c = t.config
    wanted = c.floor + (c.lr - c.floor) * (1 + np.cos(np.pi / c.steps)) / 2  # after one step
    assert all(abs(r.item() / wanted - 1) <= 4 * np.finfo(np.float32).eps for r in rates)
    assert all(isinstance(r, torch.Tensor) for r in rates) and all(m.any() for m in moments)
    counterpart.restart(t.model.state_dict())
    after = dict(counterpart.model.named_parameters())
    assert all(after[name].data_ptr() == at and torch.equal(after[name], p) for name, (at, p) in before.items())
    assert not any(m.any() for m in moments)


def test_translations_by_torch_are_ours():
    t = small_models.trainer("seq2seq", steps=60)
    small_models.run(t, 60)
    sentence = t.data.test[0][0]
    model, limit = COUNTERPARTS["seq2seq"](t).model.eval(), t.config.length - 1
    source = torch.tensor([[*t.tokenizer.encode(sentence)[:limit], 2]])
    ids = [1]
    with torch.no_grad():
        while len(ids) <= limit and (len(ids) == 1 or ids[-1] != 2):
            ids.append(int(model(source, torch.tensor([ids]))[0, -1, : t.tokenizer.size].argmax()))
    assert t.translate(sentence, beams=1) == t.tokenizer.decode([i for i in ids[1:] if i != 2])


# --- the baseline's own health ----------------------------------------


def test_the_five_runs_of_torch_differ_and_agree():
    """Each run rounds differently from at least one other, and none is another computation."""
    together = Together(small_models.trainer("vae"))
    for _ in range(3):
        _, oracle, runs = together.step()
    losses = [run["loss"] for run in runs]
    assert len(set(losses)) >= 2
    assert np.allclose(losses, oracle["loss"], rtol=1e-4, atol=0)


def test_a_counterpart_draws_exactly_what_we_drew():
    t = small_models.trainer("gan")
    counterpart, batch = COUNTERPARTS["gan"](t), next(t.batches("train"))
    with Generator(0), random.record() as draws:
        t.step(batch)
    with pytest.raises(ValueError, match="draws are left over"):
        counterpart.step(batch, [*draws, draws[0]])
