"""Bounds of likelihoods with known values, figures of texts and translations, and `models evaluate` on runs."""

import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

import core.functional as F
from bench.parity import small_models
from models import MODELS
from models.__main__ import main
from models.evaluation import bounds, compare, texts, translations
from models.evaluation.bootstrap import Interval
from models.evaluation.report import shown
from models.training import train
from models.training.runs import Run

# --- bounds ----------------------------------------


class Linear:
    """x = W z + s noise, z from N(0, 1), of which everything is known: log p(x), the posterior, any ELBO."""

    def __init__(self, rng, z=2, d=5, s=0.7):
        self.w, self.s = rng.normal(size=(d, z)), s
        self.x = self.w @ rng.normal(size=z) + s * rng.normal(size=d)
        self.posterior = np.linalg.inv(self.w.T @ self.w / s**2 + np.eye(z))
        self.evidence = scipy.stats.multivariate_normal(np.zeros(d), self.w @ self.w.T + s**2 * np.eye(d)).logpdf(
            self.x
        )
        self.mu = self.posterior @ self.w.T @ self.x / s**2 + 0.3  # an encoder that is a little wrong
        self.logvar = np.log(np.diag(self.posterior)) + 0.4

    def log_likelihood(self, z):
        return scipy.stats.norm(z @ self.w.T, self.s).logpdf(self.x).sum(-1)

    def elbo(self):
        """log p(x) - KL(q || the posterior), both Gaussians."""
        variance, precision = np.exp(self.logvar), np.linalg.inv(self.posterior)
        off = self.mu - self.posterior @ self.w.T @ self.x / self.s**2
        kl = np.trace(precision @ np.diag(variance)) + off @ precision @ off - len(off)
        kl += np.linalg.slogdet(self.posterior)[1] - self.logvar.sum()
        return self.evidence - kl / 2

    def weights(self, rng, draws):
        return bounds.log_weights(self.mu, self.logvar, rng.normal(size=(draws, 2)), self.log_likelihood)


def test_the_importance_bound_goes_from_the_elbo_to_the_likelihood(rng):
    model = Linear(rng)
    w = model.weights(rng, 400_000)
    assert np.array_equal(bounds.importance_bound(w[:, None]), w)  # of one draw it is that draw's ELBO
    assert w.mean() == pytest.approx(model.elbo(), abs=4 * w.std() / 400_000**0.5)
    steps = [bounds.importance_bound(w.reshape(-1, k)).mean() for k in (1, 10, 100, 1000)]
    assert model.elbo() < model.evidence - 0.3 and sorted(steps) == steps
    assert bounds.importance_bound(w[None])[0] == pytest.approx(model.evidence, abs=0.01)


def test_the_importance_bound_neither_overflows_nor_falls_below_the_elbo(rng):
    w = rng.normal(-20_000, 300, size=(50, 30))
    bound = bounds.importance_bound(w)
    assert (bound >= w.mean(1)).all() and (bound <= w.max(1)).all() and (bound >= w.max(1) - np.log(30)).all()


@pytest.mark.parametrize("classes", [0, 10])
def test_a_vaes_weights_average_to_its_own_elbo(classes):
    t = small_models.trainer("vae", classes=classes)
    small_models.run(t, 30)
    labels = t.data.y_test[:6] if classes else None
    weights = bounds.vae_weights(t, t.data.x_test[:6], labels, 100)
    with t.evaluating():
        x = t.pixels(t.data.x_test[:6])
        mu, logvar = t.model.encoder(x, labels)
        found = [F.elbo(t.model(x, labels)[0], x, mu, logvar).item() for _ in range(100)]
    assert -weights.mean() == pytest.approx(np.mean(found), rel=1e-2)


# --- texts ----------------------------------------


@given(st.text("ab", max_size=25), st.text("ab", max_size=40))
def test_longest_copied_is_what_trying_all_stretches_finds(text, source):
    stretches = {text[i:j] for i in range(len(text) + 1) for j in range(i, len(text) + 1)}
    assert texts.longest_copied(text, source) == max(len(s) for s in stretches if s in source)


def test_words_and_how_many_of_them_are_known():
    assert texts.words("ng the King's 3 Äpfel, o") == ["the", "king's", "äpfel"]
    share = texts.known_words(["x the cat y", "x a dog ran y"], {"the", "cat", "dog", "x", "y"})
    assert share.value == 3 / 5 and share.low <= 3 / 5 <= share.high
    assert texts.known_words(["", "x y"], {"x"}) == 0.0


def test_held_out_pieces_are_apart_and_as_long_as_can_be():
    text = "".join(chr(i) for i in range(1, 1001))
    pieces = texts.held_out_pieces(text, 4)
    assert [len(p) for _, p in pieces] == [250 - 64] * 4 and "".join(a + b for a, b in pieces) == text
    assert [len(p) for _, p in texts.held_out_pieces(text, 1)] == [500]
    with pytest.raises(ValueError, match=r"evaluate: -n is 13, should be at most 12: .* 1000 characters"):
        texts.held_out_pieces(text, 13)


def test_bits_are_the_trainers_nats_and_a_memory_is_seen():
    t = small_models.trainer("gpt", dropout=0.0)
    small_models.run(t, 20)
    bits = texts.bits_per_character(t, t.batches("test"), t.test_ids)
    assert bits.value * np.log(2) == pytest.approx(t.evaluate()["nats_per_character"], rel=1e-5)
    batches, ids = texts.training_batches(t, len(t.test_ids))
    assert (
        "".join(t.tokenizer.decode(row) for _, targets in batches for row in targets) == t.data.train[-len(ids) + 1 :]
    )
    assert texts.longest_copied("..." + t.data.train[200:300] + "...", t.data.train) >= 100


# --- translations ----------------------------------------


def test_scores_and_signatures_are_those_of_sacrebleus_command(tmp_path):
    pairs = small_models.dataset("seq2seq").train
    references = [t for _, t in pairs[:60]]
    ours = [" ".join(t.split()[:-1][::-1] if i % 3 else t.split()[1:]) for i, t in enumerate(references)]
    (tmp_path / "ref").write_text("\n".join(references) + "\n", encoding="utf-8")
    (tmp_path / "ours").write_text("\n".join(ours) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "ours", "-m", "bleu", "chrf", "--confidence", "-w", "10"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for (_, metric, _), found in zip(translations.METRICS[::-1], json.loads(said)):
        (value, low, high), signature = translations.score(metric, ours, references)
        assert value == pytest.approx(found["score"], abs=1e-9) and signature == found["signature"]
        assert (low + high) / 2 == pytest.approx(found["confidence_mean"], abs=1e-4)
        assert (high - low) / 2 == pytest.approx(found["confidence_var"], abs=1e-4) and 5 < low < value < high < 95
        assert translations.score(metric, references, references)[0].value == pytest.approx(100)
        _, low, high = translations.score(metric, ["a b c d e", "z"], ["a b c d e", "x y"])[0]
        assert low < high  # though some resamples score a plain 0


# --- runs ----------------------------------------


def trained(kind, out, data_path=None, **changes):
    """A run of two steps."""
    changes = {**small_models.SMALL[kind], "steps": 2, **changes}
    options = {"preset": "demo", "changes": changes, "seed": 0, "device": "cpu"}
    train.train_new(kind, MODELS[kind], **options, out=out, data_path=data_path)
    return str(out)


def refused(capsys, *command) -> str:
    capsys.readouterr()
    assert main(["evaluate", *map(str, command)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


def checked(folder):
    """The figures of an evaluated run, each in its interval and on the page, whose pictures are there."""
    found, page = (folder / "evaluation.json").read_text(), (folder / "evaluation.html").read_text()
    found = json.loads(found)
    for name, figure in found["figures"].items():
        for part in (figure, figure.get("beside", figure)):
            value, e = part["value"], 1e-9  # a sum is rounded
            assert part.get("low", -np.inf) - e <= value <= part.get("high", np.inf) + e
        assert f"<td>{name}<td>" in page
    for line in page.split('src="')[1:]:
        assert (folder / line.partition('"')[0]).read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob(".*.tmp"))
    return found


@pytest.fixture(scope="module")
def image_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, [trained("gan", folder / "gan"), trained("vae", folder / "mine")]


def test_image_models_are_evaluated_and_compared(image_runs, monkeypatch, capsys):
    monkeypatch.setattr(bounds, "IMAGES", 3)
    monkeypatch.setattr(bounds, "DRAWS", 20)
    folder, runs = image_runs
    assert main(["evaluate", *runs, "-n", "150", "--out", str(folder / "all")]) == 0
    gan, vae = checked(folder / "gan"), checked(folder / "mine")
    assert gan["step"] == 2 and gan["quick"]["classes"] >= 1 and "150 samples" in gan["settings"]["samples"]
    for found in (gan, vae):  # after two steps no sample looks like a digit, and real images do
        ours, real = found["figures"]["frechet"], found["figures"]["frechet"]["beside"]
        assert ours["low"] > 2 * real["high"] and found["figures"]["precision"]["beside"]["value"] > 0.5
    real = [{n: f.get("beside") for n, f in found["figures"].items() if "beside" in f} for found in (gan, vae)]
    assert real[0] == real[1] and vae["figures"]["neg_importance_bound"]["value"] < vae["figures"]["neg_elbo"]["value"]
    assert "evaluation-training.png" in (folder / "gan" / "evaluation.html").read_text()
    table = (folder / "all" / "comparison.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table[2:5]] == ["| real, held out", "| gan", "| vae, mine"]
    assert (folder / "all" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "frechet" in capsys.readouterr().out


def test_what_cannot_be_evaluated_or_compared_is_one_line(image_runs, tmp_path, capsys):
    _, runs = image_runs
    assert "-n is 128, should be in [129, 2000]" in refused(capsys, runs[0], "-n", 128)
    d = small_models.dataset("gan")
    np.savez(tmp_path / "own.npz", x_train=d.x_train, y_train=d.y_train, x_test=d.x_test, y_test=d.y_test)
    other = trained("vae", tmp_path / "vae", tmp_path / "own.npz")
    with pytest.raises(ValueError, match="its images are not those of"):
        compare.check_comparable([Run.open(runs[0]), Run.open(other)])
    assert f"{other}: its images are not those of {runs[0]}" in refused(capsys, runs[0], other)
    assert "not a run folder" in refused(capsys, runs[0], tmp_path)
    run = Run.create(tmp_path / "new", "gan", "demo", MODELS["gan"].Config(), 0, None)
    run.write_settings()
    assert "new: has no checkpoint yet" in refused(capsys, runs[0], run.folder)


@pytest.mark.full
def test_text_models_are_evaluated(tmp_path, monkeypatch, capsys):
    lines = "".join(f"the word {i} is good\tla palabra {i} es buena\n" for i in range(60))
    (tmp_path / "pairs.tsv").write_text(lines)
    (tmp_path / "text").write_text(lines.replace("\t", "\n") * 3)
    gpt = trained("gpt", tmp_path / "gpt", tmp_path / "text")
    seq2seq = trained("seq2seq", tmp_path / "seq2seq", tmp_path / "pairs.tsv")
    assert main(["evaluate", gpt, seq2seq, "-n", "4"]) == 0
    found = checked(tmp_path / "gpt")["figures"]
    assert found["longest_copied"]["beside"]["value"] > 20 > found["longest_copied"]["value"]
    found = checked(tmp_path / "seq2seq")
    assert found["settings"]["chrF signature"].startswith("nrefs:1|bs:1000|seed:12345|case:mixed|eff:yes|nc:6|")
    assert found["figures"]["chrF beam"]["beside"] == found["figures"]["chrF greedy"]["beside"]
    assert "-n is 7, should be at most 6, the held-out sentences" in refused(capsys, seq2seq, "-n", 7)
    assert "-n is 999, should be at most" in refused(capsys, gpt, "-n", 999)


def test_digits_of_a_figure():
    cells = [None, 3, 0.5, Interval(0.91234, 0.9, 1.0), Interval(12.346, 9.5, 15), Interval(123.46, 100, 150)]
    expected = ["-", "3", "0.500", "0.912 [0.900, 1.000]", "12.35 [9.50, 15.00]", "123.5 [100.0, 150.0]"]
    assert [shown(c) for c in cells] == expected
