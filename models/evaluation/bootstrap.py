"""How far a figure would move if the test set were drawn again: the bootstrap (Efron 1979).

What was measured is drawn again with replacement, as many as there were, and the figure is taken of that; the interval
is from the 2.5th to the 97.5th percentile of many such figures. It speaks of the draw of the test data and of the
samples alone: training again with another seed moves figures as well, and usually further.
"""

from typing import NamedTuple

import numpy as np

from core import check

RESAMPLES = 1000  # of means
COSTLY = 200  # of distances, which cost more than a mean
SEED = 0


class Interval(NamedTuple):
    value: float
    low: float
    high: float


def of_mean(values, weights=None) -> Interval:
    """Of sum(values) / sum(weights), both (n,), resampled together; weights None is 1 each: the mean."""
    values = np.asarray(values, np.float64)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    return _of(lambda i: values[i].sum(-1) / weights[i].sum(-1), len(values), RESAMPLES)


def of_median(values) -> Interval:
    values = np.asarray(values, np.float64)
    return _of(lambda i: np.median(values[i]), len(values), RESAMPLES)


def of_distance(figure, n: int) -> Interval:
    """Of a distance, figure(indices), for n things; moved so that the mean of the resampled ones is the distance.

    A Frechet distance is larger of fewer different things, and a resample has fewer. The interval is cut off at 0.
    """
    value, low, high = _of(figure, n, COSTLY, around=True)
    return Interval(value, max(low, 0.0), high)


def _of(figure, n, resamples, around=False):
    check.count("bootstrap", "n", n)
    rng = np.random.default_rng(SEED)
    value = float(figure(np.arange(n)))
    again = np.array([figure(rng.integers(n, size=n)) for _ in range(resamples)])
    if around:
        again += value - again.mean()
    low, high = np.percentile(again, (2.5, 97.5))
    return Interval(value, float(low), float(high))
