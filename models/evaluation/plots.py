"""The pictures of an evaluation, each (caption, file name, PNG bytes)."""

import numpy as np
from matplotlib import pyplot as plt

from models.datasets import DataError
from models.evaluation import classifier, frechet
from models.evaluation.bootstrap import of_distance, of_mean
from models.evaluation.neighbours import manifold_figures
from models.training.pictures import grid, png

SHOWN = 14  # samples beside their neighbours
OURS, REAL = "tab:orange", "tab:blue"


def neighbours(ours, near, train):
    """The samples that lie nearest to a training image, then others, over their nearest training images."""
    closest = np.argsort(near[0][0], kind="stable")[: SHOWN // 2]
    chosen = np.concatenate([closest, [i for i in range(SHOWN) if i not in closest][: SHOWN - len(closest)]])
    columns = [ours.images[chosen], train.images[near[0][1][chosen]], train.images[near[1][1][chosen]]]
    figure, axis = plt.subplots(figsize=(10, 2.5))
    axis.imshow(grid(np.concatenate(columns).clip(0, 1), SHOWN), cmap="gray", vmin=0, vmax=1)
    axis.set_xticks(
        [len(closest) * 14.5, (len(closest) + SHOWN) * 14.5], ["those nearest to a training image", "the first others"]
    )
    axis.set_yticks([14, 43, 72], ["sample", "nearest by pixels", "nearest by features"])
    axis.tick_params(length=0)
    caption = "Samples, and the training images nearest to each: a copy would show the same image twice"
    return caption, "evaluation-neighbours.png", png(figure)


def shares_and_distances(ours, real, near, real_near, train):
    """How the samples are shared out over the classes, and how far they are from the training images."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.9))
    classes, width = np.arange(classifier.CLASSES), 0.4
    for seen, colour, name, side in ((ours, OURS, "samples", -0.5), (train, REAL, "training images", 0.5)):
        shares = np.bincount(seen.probabilities.argmax(1), minlength=len(classes)) / len(seen.images)
        axes[0].bar(classes + side * width, shares, width, color=colour, label=name)
    axes[0].set_xticks(classes)
    axes[0].set_xlabel("class, by the classifier")
    axes[0].set_ylabel("share")
    axes[0].legend(fontsize=7)
    for axis, mine, others, space in zip(axes[1:], near, real_near, ("pixels", "features")):
        bins = np.linspace(0, max(mine[0].max(), others[0].max()), 40)
        axis.hist(others[0], bins, color=REAL, alpha=0.6, label="held-out images")
        axis.hist(mine[0], bins, color=OURS, alpha=0.6, label="samples")
        axis.set_xlabel(f"to the nearest training image, {space}")
        axis.legend(fontsize=7)
    caption = "Shares of the classes; distances to the nearest training image (copies would stand at the left)"
    return caption, "evaluation-distances.png", png(figure)


def over_training(run, model, train, real) -> list:
    """The figures of the samples that were kept along the way, where a run kept any."""
    kept = {int(p.stem[4:]): p for p in run.samples.glob("set_*.npz") if p.stem[4:].isdigit()}
    if not kept:
        return []
    steps = sorted(kept)
    sets = [classifier.look(model, read_set(kept[step])[: len(real.images)] / 255.0)[0] for step in steps]
    n, reference = len(sets[0]), frechet.moments(train.features)
    along = [small_figures(features, train.features[:n], reference) for features in sets]
    held_out = small_figures(real.features[:n], train.features[:n], reference)
    figure, axes = plt.subplots(1, len(held_out), figsize=(2.6 * len(held_out), 2.8))
    for axis, (name, line) in zip(axes, held_out.items()):
        values, low, high = np.array([found[name] for found in along]).T
        axis.errorbar(steps, values, np.maximum([values - low, high - values], 0), color=OURS, marker="o", capsize=3)
        axis.axhline(line.value, color=REAL, linestyle="--", label=f"held-out images: {line.value:.2f}")
        axis.set_ylim(0)
        axis.set_xlabel("step")
        axis.set_title(name, fontsize=9)
        axis.legend(fontsize=6)
    figure.tight_layout()
    caption = (
        f"Along training, {n} samples each beside as many held-out images: worse figures than those of more samples"
    )
    return [(caption, "evaluation-training.png", png(figure))]


def small_figures(features, train, reference) -> dict:
    """{name: Interval} of a few images, from their features alone."""
    far = of_distance(lambda i: frechet.distance(frechet.moments(features[i]), reference), len(features))
    return {"frechet": far, **{name: of_mean(values) for name, values in manifold_figures(train, features).items()}}


def read_set(path):
    """Images, bytes (n, 28, 28), that training has kept in `path`."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            images = archive["images"]
    except Exception as error:  # zipfile, zlib and NumPy's parser of headers raise a dozen kinds on a damaged file
        raise DataError(f"{path}: not a set of samples ({error or type(error).__name__})") from None
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or len(images) <= classifier.FEATURES:
        raise DataError(f"{path}: holds {images.dtype} {images.shape}, should be uint8 (n, 28, 28), n above 128")
    return images


def spans(ours, real):
    """Of texts: the longest stretch of each that stands in the training text."""
    figure, axis = plt.subplots(figsize=(6, 2.8))
    bins = np.linspace(0, max(*ours, *real) + 1, 25).tolist()
    axis.hist(real, bins, color=REAL, alpha=0.6, label="held-out texts")
    axis.hist(ours, bins, color=OURS, alpha=0.6, label="the model's texts")
    axis.set_xlabel("longest stretch that stands in the training text, characters")
    axis.set_ylabel("texts")
    axis.legend(fontsize=8)
    return "What is copied: whoever has learnt by heart stands far to the right", "evaluation-copies.png", png(figure)


def scores(figures):
    """Of translations: each score with its interval, ours beside the baseline's."""
    figure, axis = plt.subplots(figsize=(6, 2.8))
    for at, shown in enumerate(figures):
        for colour, (value, low, high), side in ((OURS, shown.ours, -0.15), (REAL, shown.beside, 0.15)):
            ends = np.maximum([[value - low], [high - value]], 0)
            axis.bar(at + side, value, 0.3, yerr=ends, color=colour, capsize=3)
    axis.set_xticks(range(len(figures)), [shown.name for shown in figures])
    axis.set_ylabel("score; the reference itself: 100")
    axis.legend(handles=[plt.Rectangle((0, 0), 1, 1, color=c) for c in (OURS, REAL)], labels=["model", "source copied"])
    return "Translations beside the source copied as it is", "evaluation-scores.png", png(figure)
