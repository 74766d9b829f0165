"""GAN and VAE that are told classes: labels stay with their images, samples can be asked for by class, and what is
wrong with labels is said in one line. (tests/bench/parity/test_whole_models.py has the arithmetic, in "gan conditional"
and its like.)"""

import dataclasses
import io

import numpy as np
import pytest

import core.functional as F
from bench.parity import small_models
from core import checkpoint, no_grad
from core.checkpoint import CheckpointError
from core.runtime import threads
from models import MODELS, datasets
from models.__main__ import main
from models.evaluation.measures import distances, label_figures
from models.training.pictures import ZOOM, plt
from tests.models.training.test_runs import refused

KINDS = ("gan", "vae")
by_kind = pytest.mark.parametrize("kind", KINDS)


@by_kind
def test_labels_stay_with_their_images(kind):
    t = small_models.trainer(kind, classes=10)
    wanted = {image.tobytes(): label for image, label in zip(t.pixels(t.data.x_train), t.data.y_train)}
    batches = t.batches("train")
    for _ in range(3):
        images, labels = next(batches)
        assert labels.dtype == np.int64 and [wanted[i.tobytes()] for i in images] == labels.tolist()
    every = [np.concatenate(arrays) for arrays in zip(*t.batches("test"))]
    assert np.array_equal(every[0], t.pixels(t.data.x_test)) and np.array_equal(every[1], t.data.y_test)


def networks(kind, model, x, z, labels):
    with no_grad():
        if kind == "gan":
            return [model.generator(z, *labels).numpy(), model.discriminator(x, *labels).numpy()]
        return [*(t.numpy() for t in model.encoder(x, *labels)), model.decoder(z, *labels).numpy()]


@by_kind
def test_rows_of_zeros_tell_nothing_and_others_do(kind):
    """The model without classes is the one whose tables are zero, and any network listens to a table that is not."""
    told, plain = small_models.trainer(kind, classes=10).model.eval(), small_models.trainer(kind).model.eval()
    tables = [t for name, t in told.named_tensors() if "labels" in name]
    assert len(tables) == 2 and not [name for name in plain.state_dict() if "labels" in name]
    plain.load_state_dict({name: a for name, a in told.state_dict().items() if "labels" not in name})
    latent, rng = 100 if kind == "gan" else 20, small_models.generator(0)
    x, z = (rng.standard_normal(s, np.float32) for s in ((3, 28, 28, 1), (3, latent)))
    heard = networks(kind, told, x, z, [np.array([0, 5, 9])]), networks(kind, told, x, z, [np.array([0, 5, 8])])
    assert all(np.array_equal(a[:2], b[:2]) and not np.array_equal(a[2], b[2]) for a, b in zip(*heard))
    for table in tables:
        table.data[...] = 0
    silent = networks(kind, told, x, z, [np.array([0, 5, 9])])
    assert all(np.array_equal(a, b) for a, b in zip(silent, networks(kind, plain, x, z, [])))


@by_kind
def test_samples_are_of_the_classes_asked_for(kind):
    t = small_models.trainer(kind, classes=10)
    turns = t.sample(12)
    assert np.array_equal(turns, t.sample(12, labels=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]))
    assert not np.array_equal(turns[1], t.sample(12, labels=0)[1])
    assert np.array_equal(t.sample(3, labels=2), t.sample(3, labels=np.full(3, 2, np.uint8)))


def test_a_decoder_that_has_nothing_but_the_label_draws_the_mean_of_its_class():
    """A KL that weighs 1,000 times empties z, so that what is right to draw is known."""
    t = small_models.trainer("vae", classes=10, beta=1000.0, dropout=0.0, batch=10, steps=80, lr=4e-3)
    small_models.run(t, 80)
    means = np.stack([t.data.x_train[t.data.y_train == k].mean(0) / 255 for k in range(10)])
    assert (distances(t.sample(30), means).argmin(1) == np.arange(30) % 10).all()


@by_kind
def test_the_discriminator_and_the_bound_see_the_labels(kind):
    """Other labels with the same images give other losses from the same draws."""
    a, b = small_models.trainer(kind, classes=10), small_models.trainer(kind, classes=10)
    images, labels = next(a.batches("train"))
    first, second = a.step((images, labels)), b.step((images, (labels + 1) % 10))
    assert all(first[name] != second[name] for name in first)


def test_each_part_of_a_batch_has_its_own_labels(monkeypatch):
    found = []
    for parts in (1, 2):
        monkeypatch.setattr(threads, "COUNT", parts)
        t = small_models.trainer("vae", classes=10, dropout=0.0, batch=7)
        losses = t.step(next(t.batches("train")))
        found.append((losses, [t.model.encoder.labels.weight.grad, t.model.decoder.labels.weight.grad]))
    (whole, exact), (split, ours) = found
    assert split == pytest.approx(whole, rel=1e-5)
    assert all(np.linalg.norm(a - b) <= 2e-3 * np.linalg.norm(b) for a, b in zip(ours, exact))


def test_figures_count_samples_whose_nearest_image_has_their_label():
    d = small_models.dataset("gan")
    labels, samples = d.y_train[:40].astype(int), d.x_train[:40] / 255
    labels[:10] = (labels[:10] + 1) % 10
    assert label_figures(samples, labels, d)["labelled"] == 0.75
    assert "labelled" not in label_figures(samples, None, d)
    assert 0 <= small_models.trainer("gan", classes=10).evaluate()["labelled"] <= 1


def test_the_bound_of_an_evaluation_is_conditional_too():
    """The KL of each dimension, by its formula in NumPy, adds up to the KL of the whole bound."""
    t = small_models.trainer("vae", classes=10)
    small_models.run(t, 5)
    assert t.information().sum() == pytest.approx(t.evaluate()["kl"], rel=1e-5)
    told = t.information().sum()
    t.data = dataclasses.replace(t.data, y_test=(t.data.y_test + 1) % 10)
    assert t.information().sum() != pytest.approx(told, rel=1e-5)


# --- pictures of latents ----------------------------------------


def watched(t, name):
    """What a trainer's drawing function is given, in place of what it would draw."""
    seen = {}

    def draw(z, labels):
        seen.update(z=np.array(getattr(z, "data", z)), labels=labels)
        return np.zeros((len(seen["z"]), 28, 28), np.float32)

    setattr(t, name, draw)
    return seen


@pytest.mark.parametrize("classes", [0, 10])
def test_a_vae_changes_one_dimension_the_most_informative_first(classes):
    t = small_models.trainer("vae", classes=classes, latent=4)
    t.information = lambda: np.array([0.5, 2.0, 1.0, 0.0])
    own = t.labels_of("test", 1, t.data.y_test[6:7] if classes else None)
    with t.evaluating():
        mu = t.model.encoder(t.pixels(t.data.x_test[6:7]), own)[0].numpy()
    seen = watched(t, "_decode")
    images, what = t.traverse(6)
    changed = [1] * 10 if classes else [1, 2, 0, 3]
    assert images.shape == (len(changed), 13, 28, 28)
    for row, (dimension, z) in enumerate(zip(changed, seen["z"].reshape(-1, 13, 4))):
        assert np.allclose(z[:, dimension], np.arange(-6, 7) / 2)
        others = [i for i in range(4) if i != dimension]
        assert np.allclose(z[:, others], mu[:, others], rtol=1e-5, atol=1e-6)
        assert not classes or set(seen["labels"].reshape(-1, 13)[row]) == {row}
    assert "1 (2.00)" in what and ("classes" in what or "1 (2.00), 2 (1.00), 0 (0.50), 3 (0.00)" in what)


@pytest.mark.parametrize("classes", [0, 10])
def test_a_gan_turns_one_noise_into_another(classes):
    t = small_models.trainer("gan", classes=classes)
    seen = watched(t, "_draw")
    images, _ = t.traverse(1)
    z = seen["z"].reshape(10, 13, 100)
    assert images.shape == (10, 13, 28, 28) and np.allclose(z[:, 6], (z[:, 0] + z[:, -1]) / np.sqrt(2), atol=1e-5)
    assert abs(z[:, 0].std() - 1) < 0.2 and abs((z[:, 0] * z[:, -1]).mean()) < 0.3
    if classes:
        assert (z == z[0]).all() and np.array_equal(seen["labels"], np.arange(10).repeat(13))
    else:
        assert len({row.tobytes() for row in z}) == 10


# --- commands, checkpoints, and what is refused ----------------------------------------


def width(path):
    return plt.imread(io.BytesIO(path.read_bytes())).shape[1]


@by_kind
def test_commands(kind, tmp_path, capsys, monkeypatch):
    config = MODELS[kind].Config
    monkeypatch.setattr(
        config,
        "PRESETS",
        {"demo": small_models.SMALL[kind], "conditional": {**small_models.SMALL[kind], "classes": 10}},
    )
    told, plain = tmp_path / "told", tmp_path / "plain"
    for folder, preset in ((told, "conditional"), (plain, "demo")):
        assert main(["train", kind, "--preset", preset, "--steps", "2", "--out", str(folder)]) == 0
    side = 28 * ZOOM
    assert width(told / "samples" / "step_000002.png") == 10 * side + 9 * ZOOM, "a column for each class"
    assert main(["sample", str(told), "--label", "3", "-n", "4"]) == 0
    assert width(told / "samples" / "sampled.png") == 2 * side + ZOOM
    for folder in (told, plain):
        assert main(["sample", str(folder), "--traverse"]) == 0
        assert width(folder / "samples" / "traversed.png") == 13 * side + 12 * ZOOM
    for arguments, words in (
        ((told, "--label", "10"), "labels is 10 somewhere, should be in [0, 10)"),
        ((told, "--label", "-1"), "labels is -1 somewhere"),
        ((plain, "--label", "3"), f"--label is for models that know classes, {plain} holds a {kind} without"),
        ((told, "--traverse", "-n", "3"), "-n and --label cannot be given with --traverse"),
        ((told, "--traverse", "--label", "3"), "-n and --label cannot be given with --traverse"),
    ):
        assert words in refused(capsys, "sample", *arguments)


@by_kind
def test_checkpoints(kind, tmp_path):
    """Those that are older than classes have none; a model with classes is another than one without."""
    t, told = small_models.trainer(kind), small_models.trainer(kind, classes=10)
    small_models.run(told, 1)
    told.save(tmp_path / "told")
    other = small_models.trainer(kind, classes=10, seed=1)
    other.load(tmp_path / "told")
    assert not small_models.different(small_models.snapshot(told), small_models.snapshot(other))
    with pytest.raises(CheckpointError, match="its classes is 10, should be 0"):
        t.load(tmp_path / "told")
    metadata = t.metadata()
    del metadata["config"]["classes"]
    checkpoint.save(tmp_path / "old", t.state(), metadata)
    t.load(tmp_path / "old")
    with pytest.raises(CheckpointError, match="its classes is 0, should be 10"):
        told.load(tmp_path / "old")


@by_kind
def test_labels_that_cannot_be(kind, tmp_path, capsys):
    t, plain = small_models.trainer(kind, classes=10), small_models.trainer(kind)
    images, labels = next(t.batches("train"))
    for wrong in (-1, 10):
        with pytest.raises(IndexError, match=rf"feed: labels is {wrong} somewhere, should be in \[0, 10\)"):
            t.feed((images, np.full_like(labels, wrong)))
    for given in (0.5, [1, 2], "3", None if kind == "vae" else True):
        with pytest.raises(ValueError, match=r"labels is .*, should be one class, or one for each of 3 image"):
            t.labels_of("sample", 3, given)
    with pytest.raises(ValueError, match="sample: labels is 3, should be None: this model knows no classes"):
        plain.sample(2, labels=3)
    with pytest.raises(datasets.DataError, match="train labels should be 150 integers from 0 to 4"):
        small_models.trainer(kind, classes=5)
    bare = {"x_train": t.data.x_train, "x_test": t.data.x_test, "y_test": t.data.y_test}
    np.savez(tmp_path / "bare.npz", **bare)
    command = ("train", kind, "--preset", "conditional", "--data", tmp_path / "bare.npz", "--out", tmp_path / "r")
    assert "bare.npz: has no y_train" in refused(capsys, *command)


def test_a_vae_with_classes_is_told_those_of_what_it_repeats():
    t = small_models.trainer("vae", classes=10)
    x, y = t.data.x_test[:3], t.data.y_test[:3]
    with t.evaluating():
        mu, _ = t.model.encoder(t.pixels(x), y)
        wanted = F.sigmoid(t.model.decoder(mu, y)).numpy()[..., 0]
    assert np.array_equal(t.reconstruct(x, y), wanted)
    ends = t.interpolate(x, x[::-1], 2, labels=y)
    assert np.array_equal(ends[:, 0], wanted) and not np.array_equal(ends[:, 1], wanted)
    with pytest.raises(ValueError, match="reconstruct: labels is None, should be one class, or one for each of 3"):
        t.reconstruct(x)


@pytest.mark.full
@pytest.mark.parametrize(("kind", "least"), [("gan", 0.85), ("vae", 0.85)])
def test_demos_draw_what_is_asked_for(kind, least):
    """The share of 200 samples whose nearest training image has their label; real test images come to 0.92."""
    t = MODELS[kind](MODELS[kind].Config.preset("conditional"))
    batches = t.batches("train")
    for _ in range(t.config.steps):
        t.step(next(batches), read=False)
    figures = t.evaluate()
    assert figures["labelled"] >= least and figures["variety"] >= 0.7
