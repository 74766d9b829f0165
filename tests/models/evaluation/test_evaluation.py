"""Figures of images: distances with known answers, sets made to score 0 and 1, intervals that cover what they should.

The classifier, whose features the figures look at, is held to the accuracy that its page states.
"""

import dataclasses
import re

import numpy as np
import pytest
import scipy.linalg

from bench.parity import small_models
from core.checkpoint import CheckpointError
from models import datasets
from models.datasets import DataError, Images
from models.evaluation import bootstrap, classifier, frechet, images, plots
from models.evaluation.neighbours import manifold_figures, nearest

# --- the Frechet distance ----------------------------------------


def test_frechet_of_gaussians_with_a_known_distance():
    """Diagonal ones: |m1 - m2|^2 + sum (s1 - s2)^2; a variance of 0, and supports at right angles, among them."""
    m1, m2 = np.array([1.0, -2.0, 0.5]), np.array([0.0, 3.0, 0.5])
    s1, s2 = np.array([2.0, 0.5, 0.0]), np.array([1.0, 4.0, 0.0])
    expected = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert frechet.distance((m1, np.diag(s1**2)), (m2, np.diag(s2**2))) == pytest.approx(expected, rel=1e-12)
    assert frechet.distance((m1, np.diag([1.0, 0, 0])), (m1, np.diag([0, 4.0, 0]))) == pytest.approx(5, rel=1e-12)


@pytest.mark.parametrize("condition", [1e0, 1e4, 1e8])
def test_frechet_is_what_scipys_square_root_gives(rng, condition):
    d = 20
    scales = np.geomspace(1, condition, d) ** -0.5

    def gaussian():
        a = rng.normal(size=(d, 2 * d)) * scales[:, None]
        return rng.normal(size=d), a @ a.T

    (m1, c1), (m2, c2) = a, b = gaussian(), gaussian()
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real)
    assert frechet.distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet.distance(a, b) == pytest.approx(frechet.distance(b, a), rel=1e-12)
    assert 0 <= frechet.distance(a, a) < 1e-10 * np.trace(c1)


def test_moments_of_four_points_and_of_too_few():
    mean, covariance = frechet.moments(np.array([[0, 0], [2, 0], [0, 4], [2, 4]], np.float32))
    assert mean.tolist() == [1, 2] and np.allclose(covariance, [[4 / 3, 0], [0, 16 / 3]])
    with pytest.raises(ValueError, match=r"the number of samples is 2, should be .*3"):
        frechet.moments(np.zeros((2, 2)))


# --- neighbours ----------------------------------------

LINE = np.arange(10.0)[:, None]  # its balls, k = 3: 3 wide at the ends, else 2; k = 5: 5, 4, 3 ... 3, 4, 5


def means(real, made):
    return {name: values.mean() for name, values in manifold_figures(real, made).items()}


def test_manifold_figures_of_sets_made_for_them(rng):
    x = rng.normal(size=(60, 7))
    same = means(x, x)
    assert same["precision"] == same["recall"] == same["coverage"] == 1 and same["density"] > 1
    assert set(means(x, x + 1000).values()) == {0}
    within = means(LINE, np.full((6, 1), 4.5))  # precise, and nothing but one place
    assert within == {"precision": 1, "recall": 0, "density": 10 / 5, "coverage": 1}
    off = means(LINE, np.array([4.5, 4.5, 4.5, 4.5, 12.5, 12.5])[:, None])  # 9's balls reach to 12 and to 14
    assert off["precision"] == pytest.approx(4 / 6) and off["density"] == pytest.approx((4 * 10 + 2 * 1) / 6 / 5)


def test_manifold_figures_by_their_definitions(rng):
    real, made = rng.normal(size=(40, 3)), rng.normal(0.7, 0.6, size=(30, 3))

    def ball(x, i, k):
        return sorted(np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if j != i)[k - 1]

    def inside(x, i, k, y):
        return np.linalg.norm(x[i] - y) <= ball(x, i, k)

    expected = {
        "precision": np.mean([any(inside(real, i, 3, y) for i in range(40)) for y in made]),
        "recall": np.mean([any(inside(made, i, 3, y) for i in range(30)) for y in real]),
        "density": np.sum([inside(real, i, 5, y) for i in range(40) for y in made]) / (5 * 30),
        "coverage": np.mean([any(inside(real, i, 5, y) for y in made) for i in range(40)]),
    }
    assert means(real, made) == pytest.approx(expected)
    assert 0 < expected["coverage"] < expected["precision"] < 1


def test_nearest_in_blocks(rng, monkeypatch):
    monkeypatch.setattr("models.evaluation.neighbours.BLOCK", 7)
    x, train = rng.normal(size=(20, 2)), rng.normal(size=(50, 2))
    d = np.linalg.norm(x[:, None] - train, axis=-1)
    found = nearest(x, train)
    assert np.allclose(found[0], d.min(1)) and np.array_equal(found[1], d.argmin(1))
    with pytest.raises(ValueError, match=r"neighbours: the number of images is 3, should be .*4"):
        manifold_figures(x[:3], x)


# --- intervals ----------------------------------------


def test_an_interval_covers_the_truth_as_often_as_it_says(rng):
    """95 of 100 means of 60 exponential values; 200 trials err by 1 or 2 in 100, the bootstrap as much."""
    found = [bootstrap.of_mean(rng.exponential(size=60)) for _ in range(200)]
    assert 0.90 <= np.mean([low <= 1 <= high for _, low, high in found]) <= 0.98


def test_intervals_of_ratios_medians_and_distances(rng):
    x = rng.normal(5, 1, size=2000)
    value, low, high = bootstrap.of_mean(x)
    assert value == x.mean() and high - low == pytest.approx(2 * 1.96 / 2000**0.5, rel=0.1)
    halves = bootstrap.of_mean(2 * x, np.full(2000, 2.0))
    assert halves == pytest.approx((value, low, high))
    value, low, high = bootstrap.of_median(x)  # the median's spread is sqrt(pi / 2) wider
    assert value == np.median(x) and high - low == pytest.approx(2 * 1.96 * (np.pi / 2 / 2000) ** 0.5, rel=0.15)
    few = rng.normal(size=(60, 30))  # a resample of so few is much further from the truth than they are
    truth = np.zeros(30), np.eye(30)
    value, low, high = bootstrap.of_distance(lambda i: frechet.distance(frechet.moments(few[i]), truth), 60)
    assert low < value < high and bootstrap.of_distance(lambda i: 0.0, 5) == (0, 0, 0)
    with pytest.raises(ValueError, match="bootstrap: n is 0"):
        bootstrap.of_mean([])


# --- the classifier ----------------------------------------


@pytest.fixture(scope="module")
def carried():
    return classifier.load(datasets.carried(classifier.CARRIED))[0], datasets.load_images()


def test_the_carried_classifier_is_as_good_as_its_page_says(carried):
    page = (datasets.FOLDER / "README.md").read_text()
    stated = float(re.search(r"right in ([\d.]+) % of the 2,000 test images", page)[1]) / 100
    model, d = carried
    assert classifier.accuracy(model, d.x_test, d.y_test) == pytest.approx(stated, abs=6e-4)  # one image
    assert stated > 0.975 and (datasets.FOLDER / classifier.CARRIED).stat().st_size < 1.5e6
    assert classifier.load(datasets.FOLDER / classifier.CARRIED)[1]["images"] == classifier.fingerprint(d)


@pytest.fixture
def short(monkeypatch):
    """Classifiers that train for 12 steps."""
    monkeypatch.setattr(classifier.ClassifierConfig, "PRESETS", {"demo": {"steps": 12, "batch": 16}})


def test_a_classifier_trains_to_the_same_bits_and_learns(short):
    d = small_models.dataset("gan")
    a, b = (classifier.train(d).state_dict() for _ in range(2))
    assert not small_models.different(a, b)
    model = classifier.train(d, classifier.ClassifierConfig(steps=120, batch=16))
    assert classifier.accuracy(model, d.x_test, d.y_test) > 0.6 > 3 * 0.1


def test_other_images_get_a_classifier_of_their_own_once(short, tmp_path, monkeypatch):
    d, cache = (
        dataclasses.replace(small_models.dataset("gan"), source=tmp_path / "mine.npz"),
        tmp_path / "c.safetensors",
    )
    first = classifier.for_images(d, cache).state_dict()
    written = cache.read_bytes()
    assert (
        not small_models.different(first, classifier.for_images(d, cache).state_dict())
        and cache.read_bytes() == written
    )
    other = dataclasses.replace(d, y_train=(d.y_train + 1) % 10)
    assert small_models.different(first, classifier.for_images(other, cache).state_dict())
    cache.write_bytes(written[:-100])
    with pytest.raises(CheckpointError, match=r"c\.safetensors: not a readable checkpoint"):
        classifier.for_images(d, cache)
    small_models.trainer("gan").save(cache)
    with pytest.raises(CheckpointError, match="holds a 'gan', should be a 'classifier'"):
        classifier.load(cache)
    monkeypatch.setattr(datasets, "FOLDER", tmp_path)
    assert classifier.main(["--data", str(tmp_path / "no")]) == 1


# --- figures of sets of images ----------------------------------------


@pytest.fixture(scope="module")
def seen(carried):
    """Training images as the classifier sees them, and held-out ones: some as the reference, some as samples."""
    model, d = carried
    train = images.Seen.of(model, d.x_train[:1500] / 255.0)
    real = images.Seen.of(model, d.x_test[:400] / 255.0)
    real_near = real.nearest(train)

    def features(x):
        shown = images.Seen.of(model, x)
        return {n: i.value for n, i in images.figures(shown, shown.nearest(train), train, limit).items()}

    limit = np.percentile(real_near[0][0], 1)
    return d, features


def test_copies_are_told_from_new_images(seen):
    d, features = seen
    copied, new = features(d.x_train[100:500] / 255.0), features(d.x_test[400:800] / 255.0)
    assert copied["very_near"] == 1 and copied["nearest_pixels"] < 1e-5 > copied["nearest_features"]
    assert new["very_near"] < 0.05 and new["nearest_pixels"] > 3


def test_what_is_wrong_with_a_set_shows_in_the_figure_for_it(seen, rng):
    d, features = seen
    x, y = d.x_test / 255.0, d.y_test
    good, ones = features(x[:400]), features(x[y == 1][:200].repeat(2, 0))
    noisy = features((x[:400] + rng.normal(0, 0.5, (400, 28, 28))).clip(0, 1))
    assert ones["class_gap"] == pytest.approx(1 - (d.y_train[:1500] == 1).mean(), abs=0.02) and good["class_gap"] < 0.1
    assert ones["precision"] > 0.7 and ones["recall"] < 0.2 and ones["coverage"] < 0.3
    assert noisy["precision"] < 0.5 * good["precision"] and noisy["confidence"] < good["confidence"] - 0.05
    assert good["frechet"] < 0.3 * min(noisy["frechet"], ones["frechet"])
    assert good["precision"] > 0.75 < good["recall"]


def test_too_few_images_are_one_line(carried):
    d = small_models.dataset("gan")
    for n in (128, 151):
        with pytest.raises(ValueError, match=rf"evaluate: -n is {n}, should be in \[129, 150\]"):
            images.count(n, d)
    assert images.count(None, d) == 150 and images.count(None, carried[1]) == 2000
    few = Images(d.x_train, d.y_train, d.x_test[:5], d.y_test[:5], d.source)
    with pytest.raises(DataError, match="has 5 held-out images, the figures need 129 or more"):
        images.count(None, few)


def test_a_set_that_is_none_is_one_line(tmp_path):
    (tmp_path / "set_000001.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"set_000001\.npz: not a set of samples"):
        plots.read_set(tmp_path / "set_000001.npz")
    np.savez(tmp_path / "set_000002.npz", images=np.zeros((3, 28, 28), np.uint8))
    with pytest.raises(DataError, match=r"holds uint8 \(3, 28, 28\), should be"):
        plots.read_set(tmp_path / "set_000002.npz")
