"""The Frechet distance between two sets of features, each taken for a Gaussian (Heusel et al. 2017: the FID).

    d = |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2))

(Dowson & Landau 1982; for Gaussians the square of the 2-Wasserstein distance.) It sees means and covariances, nothing
else. A covariance of few samples is uncertain, which adds to d: compare figures of equally many samples only.
"""

import numpy as np

from core import check


def moments(features) -> tuple:
    """(mean (D,), covariance (D, D)) of features (n, D), float64; n must be above D."""
    n, d = features.shape
    check.count("frechet", "the number of samples", n, d + 1)
    features = features.astype(np.float64)
    return features.mean(0), np.cov(features, rowvar=False).reshape(d, d)


def distance(a: tuple, b: tuple) -> float:
    """Between the Gaussians of two `moments`; never negative.

    tr((C1 C2)^(1/2)) is the sum of the singular values of C1^(1/2) C2^(1/2): no product is rooted, so that a singular
    covariance, which features that never fire make, costs no digits.
    """
    (m1, c1), (m2, c2) = a, b
    common = np.linalg.svd(root(c1) @ root(c2), compute_uv=False).sum()
    return max(float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * common), 0.0)


def root(c):
    """The symmetric square root of a covariance; eigenvalues that rounding has put below 0 count as 0."""
    values, vectors = np.linalg.eigh(c)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
