"""Figures of nearest neighbours: do samples lie where the data does, all over it, and on it?

The data's manifold is approximated by balls, one around each real image, as wide as the distance to its k-th nearest
fellow; features (n, D). Precision and recall: Kynkaanniemi et al. 2019, section 3, with their k. Density and coverage,
which one outlier's wide ball does not fool: Naeem et al. 2020, equations 4 and 5, with their k.
"""

import numpy as np

from core import check
from models.evaluation.measures import distances

PRECISION_K, COVERAGE_K = 3, 5
BLOCK = 250  # rows of a matrix of distances at a time


def radii(x, k: int):
    """For each of x (n, D) the distance to the k-th nearest other one."""
    check.count("neighbours", "the number of images", len(x), k + 1)
    d = distances(x, x)
    np.fill_diagonal(d, np.inf)
    return np.partition(d, k - 1, axis=1)[:, k - 1]


def manifold_figures(real, made) -> dict:
    """{name: a value for each image}, of which the figure is the mean.

    precision  is the made image in a ball of the real ones?         (made,)
    recall     is the real image in a ball of the made ones?         (real,)
    density    in how many real balls is the made one, over k?       (made,)
    coverage   is there a made image in the real one's ball?         (real,)
    """
    d = distances(real, made)  # (real, made)
    own = radii(real, COVERAGE_K)[:, None]
    return {
        "precision": (d <= radii(real, PRECISION_K)[:, None]).any(0),
        "recall": (d <= radii(made, PRECISION_K)).any(1),
        "density": (d <= own).sum(0) / COVERAGE_K,
        "coverage": (d <= own).any(1),
    }


def nearest(x, train) -> tuple:
    """For each of x: (distance to the nearest of `train`, its index), a block at a time."""
    blocks = [distances(x[i : i + BLOCK], train) for i in range(0, len(x), BLOCK)]
    return np.concatenate([d.min(1) for d in blocks]), np.concatenate([d.argmin(1) for d in blocks])
