"""Figures of an image model's samples, and the same figures of held-out images, as many, beside them.

The second column is what a perfect model would have: images of the same source that were not trained on. Both columns
are measured against the training images, in the features of models/evaluation/classifier.py; where the first differs
from the second the model does. What each figure means, and what it does not, is in docs/evaluation.md.
"""

from dataclasses import dataclass

import numpy as np

from core import check
from models.datasets import DataError
from models.evaluation import bounds, classifier, frechet, plots
from models.evaluation.bootstrap import COSTLY, RESAMPLES, of_distance, of_mean, of_median
from models.evaluation.neighbours import COVERAGE_K, PRECISION_K, manifold_figures, nearest
from models.evaluation.report import Figure, Report
from models.training.progress import progress

SAMPLES = 2000
LEAST = classifier.FEATURES + 1  # images that a covariance of the features needs
BLOCK = 250  # images sampled together

MEANING = {
    "frechet": "Frechet distance to the training images, features; lower is nearer",
    "precision": "share of images that lie among training images",
    "recall": "share of training images that lie among these images",
    "density": "training balls an image lies in, over k; can be above 1",
    "coverage": "share of training images with one of these nearby",
    "class_gap": "distance of the shares of the classes from the training images', 0 to 1",
    "confidence": "how sure the classifier is of its class, mean",
    "nearest_pixels": "distance to the nearest training image, pixels, median",
    "nearest_features": "distance to the nearest training image, features, median",
    "very_near": "share nearer to a training image (pixels) than 99 % of held-out images are",
}


@dataclass
class Seen:
    """Images (n, 28, 28) in [0, 1] as the classifier sees them: features (n, 128), probabilities (n, 10)."""

    images: np.ndarray
    features: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of(cls, model, images):
        return cls(images, *classifier.look(model, images))

    def nearest(self, train):
        """((distances, indices) of the nearest training images in pixels, the same in features)."""
        pixels = nearest(self.images, train.images)
        return pixels, nearest(self.features, train.features)


def count(n, images) -> int:
    """How many samples: `n`, by default 2,000, at most as many as there are held-out images to stand beside them."""
    most = min(len(images.x_test), len(images.x_train))
    if most < LEAST:
        raise DataError(f"{images.source}: has {most} held-out images, the figures need {LEAST} or more")
    if n is None:
        return min(SAMPLES, most)
    if not LEAST <= n <= most:
        check.fail("evaluate", "-n", n, f"in [{LEAST}, {most}] (the features, the held-out images)")
    return n


def chosen(most, n):
    """n of `most` images, the same each time: those of a file may stand in the order of their classes."""
    return np.random.default_rng(0).permutation(most)[:n]


def draw(trainer, labels):
    """As many samples as labels, a block at a time, with a progress bar; of these classes where the model knows any."""
    blocks = [labels[i : i + BLOCK] for i in range(0, len(labels), BLOCK)]
    bar = progress(blocks, desc="samples", unit="block")
    asked = lambda block: {"labels": block} if trainer.classes else {}
    return np.concatenate([trainer.sample(len(block), seed=i, **asked(block)) for i, block in enumerate(bar)])


def figures(seen, near, train, very_near) -> dict:
    """{name: Interval} of one set of images."""
    some = chosen(len(train.images), len(seen.images))
    reference = frechet.moments(train.features)
    n, shares = len(seen.images), class_shares(train.probabilities)
    inside = manifold_figures(train.features[some], seen.features)
    return {
        "frechet": of_distance(lambda i: frechet.distance(frechet.moments(seen.features[i]), reference), n),
        **{name: of_mean(values) for name, values in inside.items()},
        "class_gap": of_distance(lambda i: np.abs(class_shares(seen.probabilities[i]) - shares).sum() / 2, n),
        "confidence": of_mean(seen.probabilities.max(1)),
        "nearest_pixels": of_median(near[0][0]),
        "nearest_features": of_median(near[1][0]),
        "very_near": of_mean(near[0][0] < very_near),
    }


def class_shares(probabilities):
    """The share of images in each class."""
    return np.bincount(probabilities.argmax(1), minlength=classifier.CLASSES) / len(probabilities)


def evaluate(run, trainer, n=None) -> tuple:
    """(Report, samples) of an image model's run."""
    data, n = trainer.data, count(n, trainer.data)
    model = classifier.for_images(data, run.folder / classifier.CARRIED)
    train, held_out = Seen.of(model, data.x_train / 255.0), chosen(len(data.x_test), n)
    real = Seen.of(model, data.x_test[held_out] / 255.0)
    ours = Seen.of(model, draw(trainer, data.y_test[held_out]))
    near, real_near = ours.nearest(train), real.nearest(train)
    very_near = np.percentile(real_near[0][0], 1)
    a, b = figures(ours, near, train, very_near), figures(real, real_near, train, very_near)
    found = [Figure(name, a[name], meaning, b[name]) for name, meaning in MEANING.items()]
    report = Report.of(
        run,
        trainer,
        beside="real, held out",
        settings=settings(model, data, n),
        figures=found + (bounds.vae_figures(trainer) if trainer.kind == "vae" else []),
        pictures=[
            plots.neighbours(ours, near, train),
            plots.shares_and_distances(ours, real, near, real_near, train),
            *plots.over_training(run, model, train, real),
        ],
    )
    return report, ours.images


def settings(model, data, n) -> dict:
    return {
        "samples": f"{n:,} samples, {n:,} held-out images, against {len(data.x_train):,} training images",
        "neighbours": f"k = {PRECISION_K} (precision, recall), {COVERAGE_K} (density, coverage); balls of {n:,} images",
        "intervals": f"95 %, bootstrap over images, {RESAMPLES} resamples ({COSTLY} for frechet and class_gap)",
        "classifier": f"right in {classifier.accuracy(model, data.x_test, data.y_test):.2%} of the held-out images",
    }
