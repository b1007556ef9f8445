"""Means over rows with bootstrap intervals, for metrics and for the other columns of a results table.

An image is drawn with all its rows, because the rows of an image do not vary independently. torchmetrics' BootStrapper
resamples single rows and cannot do that.
"""

import math
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

DRAWS = 1000  # bootstrap samples
ARROWS = {"higher": "↑", "lower": "↓", "near 0": "0", "none": ""}  # of which values are better
CHUNK = 2**20  # numbers of one chunk of samples


@dataclass(frozen=True, eq=False)
class SummaryContext:
    """What a summary may use besides a metric's columns of N rows."""

    targets: np.ndarray  # (N,) class indices
    image_indices: np.ndarray  # (N,) the number of each row's image


@dataclass(frozen=True, eq=False)
class RowValues:
    """What a summary takes the mean of."""

    values: np.ndarray  # (N,); a NaN does not count
    groups: np.ndarray | None = None  # (N,) int: the mean is taken over the means of these groups
    notes: dict[str, Any] = field(default_factory=dict)  # stored beside the mean


def mean_with_interval(
    values: np.ndarray, groups: np.ndarray | None = None, images: np.ndarray | None = None, draws: int = DRAWS
) -> dict[str, Any]:
    """Return the mean of the finite values (N,) as "value", the middle 95 % of its bootstrap (seed 0) and their number "n".

    groups: (N,) or None; where given, the mean of the groups' means. A group that a draw lacks does not count in that draw.
    images: (N,) an image's number for each value; None gives each value an image of its own. The interval needs two images.
    draws: bootstrap samples; 0: no interval.
    """
    values = np.asarray(values, float)
    finite = np.isfinite(values)
    rows = int(finite.sum())
    if not rows:
        return {"value": None, "interval95": None, "n": 0}
    image = _numbered(np.arange(rows) if images is None else np.asarray(images)[finite])
    group = _numbered(np.zeros(rows) if groups is None else np.asarray(groups)[finite])
    from scipy.sparse import csr_array  # slow to import

    sums = csr_array((values[finite], (image, group)))  # (I,G); values of the same cell are added
    counts = csr_array((np.ones(rows), (image, group)))
    n_images = sums.shape[0]
    value = _mean_of_groups(np.ones((1, n_images)), sums, counts).item()
    interval = None
    if n_images > 1 and draws:
        means = [_mean_of_groups(weights, sums, counts) for weights in _bootstrap_weights(n_images, sums.shape[1], draws)]
        interval = np.percentile(np.concatenate(means), [2.5, 97.5]).tolist()
    return {"value": value, "interval95": interval, "n": rows}


def describe(values: Iterable[float], images: Iterable[Hashable] | None = None, draws: int = DRAWS) -> dict[str, Any]:
    """Return number, mean, median and the mean's 95 % interval of the finite values.

    images: the image of each value; None gives each value an image of its own.
    """
    pairs = [(v, image) for v, image in zip(values, count() if images is None else images) if math.isfinite(v)]
    numbers: dict[Hashable, int] = {}
    image_numbers = np.array([numbers.setdefault(image, len(numbers)) for _, image in pairs], int)
    finite = np.array([value for value, _ in pairs])
    mean = mean_with_interval(finite, images=image_numbers, draws=draws)
    median = np.median(finite).item() if len(finite) else None
    return {"n": mean["n"], "mean": mean["value"], "median": median, "interval95": mean["interval95"]}


def _numbered(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1]


def _bootstrap_weights(n_images: int, n_groups: int, draws: int) -> Iterator[np.ndarray]:
    """Yield chunks (D,I) of how often each image is drawn."""
    rng = np.random.default_rng(0)
    size = max(1, CHUNK // (n_images + n_groups))
    for start in range(0, draws, size):
        drawn = rng.integers(n_images, size=(min(size, draws - start), n_images))
        offsets = np.arange(len(drawn))[:, None] * n_images
        yield np.bincount((drawn + offsets).ravel(), minlength=drawn.size).reshape(drawn.shape)


def _mean_of_groups(weights: np.ndarray, sums: Any, counts: Any) -> np.ndarray:
    """Map weights (D,I) and sparse sums and counts (I,G) to the means (D,)."""
    totals, rows = weights @ sums, weights @ counts
    return (totals / np.maximum(rows, 1)).sum(1) / (rows > 0).sum(1)
