"""The demo with a few steps of small models, which shows all but its quality; and its figures, bounded, as it is.

The figures are those of the last `make demo`, if the code and data are still what made them; else the demo runs here.
They and those of the two models that the demo leaves out are what `make test-all` looks at.
"""

import json

import pytest

import models
from bench.parity.small_models import SMALL
from models.training import demo
from tests import ROOT


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    folder = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as patch:
        for kind in demo.KINDS:
            changes = {**SMALL[kind], "steps": 60, **({"context": 64} if kind == "gpt" else {})}
            patch.setattr(models.MODELS[kind].Config, "PRESETS", {"demo": changes})
        assert demo.main(["--out", str(folder)]) == 0
    return json.loads((folder / "figures.json").read_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    found = ROOT / "runs" / "demo" / "figures.json"
    if found.exists():
        results = json.loads(found.read_text())
        if results["sources"] == demo.sources():
            return {**results, "folder": str(found.parent)}
    folder = tmp_path_factory.mktemp("demo")
    assert demo.main(["--out", str(folder)]) == 0
    return json.loads((folder / "figures.json").read_text())


@pytest.mark.full
def test_gan(results):
    f = results["models"]["gan"]["figures"]
    assert f["classes"] >= 8 and f["largest_share"] <= 0.30, "samples of 200 are of many kinds"
    assert f["variety"] >= 0.7, "they differ from each other as real images do"
    assert f["novelty"] >= 0.5, "they are not training images"


@pytest.mark.full
def test_vae(results):
    assert results["models"]["vae"]["figures"]["neg_elbo"] <= 122


@pytest.mark.full
def test_gpt(results):
    assert results["models"]["gpt"]["figures"]["nats_per_character"] <= 1.90


@pytest.mark.parametrize("made", ["short", pytest.param("results", marks=pytest.mark.full)])
def test_page_shows_what_was_made(made, request):
    results = request.getfixturevalue(made)
    folder = demo.Path(results["folder"])
    page = (folder / "index.html").read_text()
    for kind, r in results["models"].items():
        pictures = [name for _, name in r["shown"] if name.endswith(".png")] + ["loss.png"]
        assert all(f'src="{kind}/{name}"' in page for name in pictures)
        assert all((folder / kind / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
        assert all(f"<td>{name}<td>" in page for name in r["figures"])
    assert (folder / "gpt" / "sample.txt").read_text()[:20].strip() in page


@pytest.mark.parametrize(("kind", "loss"), [("vae", "loss"), ("gpt", "loss")])
def test_losses_fall(short, kind, loss):
    lines = (demo.Path(short["folder"]) / kind / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)[loss] for line in lines]
    assert len(losses) == 60 and sum(losses[-10:]) < 0.9 * sum(losses[:10])


@pytest.mark.full
def test_diffusion_draws_the_digits_that_it_is_asked_for():
    """The preset's whole training, which the demo leaves out for its length, and 200 guided samples."""
    t = models.MODELS["diffusion"]()
    batches = t.batches("train")
    for _ in range(t.config.steps):
        t.step(next(batches), read=False)
    f = t.evaluate()
    assert f["labelled"] >= 0.8, "most samples have their nearest training image in the class they were asked for"
    assert f["classes"] == 10 and f["largest_share"] <= 0.2, "each digit is asked for 20 times"
    assert f["variety"] >= 0.8 and f["novelty"] >= 0.5, "they differ from each other, and are not training images"
    assert f["loss"] <= 0.14


@pytest.mark.full
def test_encoder_decoder_learns_to_look_at_its_source():
    """A short training beats a unigram model, and does worse when the sources are exchanged."""
    kind = models.MODELS["seq2seq"]
    t = kind(kind.Config.preset("demo", steps=250))
    batches = t.batches("train")
    for _ in range(250):
        t.step(next(batches))
    f = t.evaluate()
    assert f["nats_per_token"] < f["unigram_nats_per_token"] - 1
    assert f["nats_per_token_other_sources"] > f["nats_per_token"] + 0.02
    sentence, other = t.data.test[0][0], t.data.test[1][0]
    assert t.translate(sentence) != t.translate(other)
