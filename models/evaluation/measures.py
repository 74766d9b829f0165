"""Figures of merit of generated images, by plain distances between pixels.

Images are (n, 28, 28) in [0, 1]; a distance is the Euclidean one over 784 pixels.
"""

import numpy as np

from models.datasets import DataError


def distances(x, y):
    """Euclidean distances (n, m) between two sets of images, by |x - y|^2 = |x|^2 - 2 x.y + |y|^2."""
    x, y = (a.reshape(len(a), -1).astype(np.float64, copy=False) for a in (x, y))
    squares = np.einsum("ij,ij->i", x, x)[:, None] - 2 * x @ y.T + np.einsum("ij,ij->i", y, y)
    return np.sqrt(np.maximum(squares, 0))


def mean_pairwise(x) -> float:
    """The mean distance between two different images of a set: how various the set is."""
    d = distances(x, x)
    return float(d.sum() / (len(x) * (len(x) - 1)))


def nearest_labels(samples, images):
    """The class (n,) of each sample's nearest training image."""
    return images.y_train[distances(samples, images.x_train / 255.0).argmin(1)]


def label_figures(samples, labels, images) -> dict:
    """`image_figures`; and of samples that were asked for by class (labels are not None)

    labelled         the share whose nearest training image has the class that was asked for
    """
    figures = image_figures(samples, images)
    if labels is None:
        return figures
    return {**figures, "labelled": float((nearest_labels(samples, images) == labels).mean())}


def image_figures(samples, images) -> dict:
    """What tells a good set of samples from one that collapsed or was copied.

    classes          how many of the ten digits are the label of some sample's nearest training image
    largest_share    the share of the commonest of them
    variety          mean pairwise distance, over that of as many real test images
    novelty          median distance to the nearest training image, over that of as many real test images
    """
    if len(images.x_test) < 2:
        raise DataError(f"{images.source}: has {len(images.x_test)} test image, the figures need two or more")
    real = images.x_test[: len(samples)] / 255.0
    train = images.x_train / 255.0
    to_train, real_to_train = distances(samples, train), distances(real, train)
    counts = np.bincount(images.y_train[to_train.argmin(1)], minlength=10)
    return {
        "classes": int((counts > 0).sum()),
        "largest_share": float(counts.max() / len(samples)),
        "variety": mean_pairwise(samples) / mean_pairwise(real),
        "novelty": float(np.median(to_train.min(1)) / np.median(real_to_train.min(1))),
    }
