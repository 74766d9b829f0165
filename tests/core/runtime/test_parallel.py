"""A batch in parts, each on a thread of its own: the same step as in one part, and the same bits every time."""

import numpy as np
import pytest

import core.functional as F
from bench.parity import small_models
from core import Generator, Tensor, random
from core.runtime import parallel, threads
from models.training.objective import Objective


def gradients(t) -> dict:
    return {name: p.grad for name, p in t.model.named_parameters().items()}


@pytest.mark.parametrize("kind", ("vae", "gpt", "seq2seq", "diffusion"))
@pytest.mark.parametrize("count", (2, 3))
def test_parts_make_the_step_of_the_whole_batch(kind, count, monkeypatch):
    """Same losses and gradients but for rounding: every example has the masks and the noise of the whole batch."""
    found = []
    for parts in (1, count):
        monkeypatch.setattr(threads, "COUNT", parts)
        t = small_models.trainer(kind, dropout=0.2, batch=7)
        found.append((t.step(next(t.batches("train"))), gradients(t), t.generator.draw))
    (whole, exact, _), (split, ours, _) = found
    assert split == pytest.approx(whole, rel=1e-5)
    for name, g in exact.items():  # rounding may push a pixel across an activation's kink, a wrong mask moves them all
        assert np.linalg.norm(ours[name] - g) <= 2e-3 * np.linalg.norm(g), name


@pytest.mark.parametrize("kind", ("vae", "gpt", "seq2seq", "diffusion"))
def test_timing_changes_no_bit(kind):
    first = None
    for _ in range(5):
        t = small_models.trainer(kind, dropout=0.2)
        small_models.run(t, 2)
        first = first or small_models.snapshot(t)
        assert not small_models.different(first, small_models.snapshot(t))


def test_parts_draw_what_their_examples_have_in_the_whole():
    draws = []
    for share in (None, (0, 2), (2, 5)):
        generator = Generator(3)
        generator.share = share
        n = 5 if share is None else share[1] - share[0]
        with generator:
            drop = F.dropout(np.ones((n, 3, 7), np.float32), 0.4).data
            draws.append((random.normal((n, 3)), random.uniform((n, 5)), drop))
    for whole, *parts in zip(*draws):
        assert np.array_equal(whole, np.concatenate(parts))


def test_a_part_refuses_a_draw_without_its_examples():
    with Generator(0).part(0, 2), pytest.raises(ValueError, match=r"draws numbers of shape \(3, 2\)"):
        random.normal((3, 2))


def test_recorded_draws_come_in_order_from_one_part(monkeypatch):
    monkeypatch.setattr(threads, "COUNT", 2)
    w = Tensor(np.ones(3, np.float32), requires_grad=True)
    shares = []

    def loss(x):
        shares.append(len(x))
        return (w * random.normal(x.shape)).sum()

    with Generator(1), random.record() as draws:
        parallel.backward(parallel.forward(loss, np.zeros((4, 3))), [np.ones(())])
    assert shares == [4] and [d.shape for d in draws] == [(4, 3)]
    np.testing.assert_allclose(w.grad, draws[0].sum(0), rtol=1e-6)


def test_no_part_is_empty(monkeypatch):
    """A mean over no example is nan: three parts of two examples are two."""
    monkeypatch.setattr(threads, "COUNT", 3)
    w, x = Tensor(np.ones(3, np.float32), requires_grad=True), np.arange(6, dtype=np.float32).reshape(2, 3)

    objective = Objective([w], batch=2)
    for (batch,) in objective.micro_batches(x):
        losses = objective.on_threads(lambda x: (w * x).mean(), batch)
        objective.backward(*losses)
    assert len(losses) == 2 and objective.losses == [2.5]
    np.testing.assert_allclose(w.grad, [0.5, 5 / 6, 7 / 6], rtol=1e-6)


def test_an_error_in_a_part_reaches_the_caller():
    def loss(x):
        raise ValueError(f"example {x[0]}")

    with pytest.raises(ValueError, match="example 0"):
        parallel.forward(loss, np.arange(4))
