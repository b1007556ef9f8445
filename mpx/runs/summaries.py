"""summary.json: means over rows with bootstrap intervals, and the versions of the packages."""

import math
import platform
from collections.abc import Hashable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from typing import Any

import numpy as np

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "mpx")
SUMMARIZED_COLUMNS = ("p_normalised", "p_after", "area", "passes", "forwards", "seconds")


def summarize_rows(
    rows: Sequence[dict[str, Any]], n_skipped: int, n_missing: int, protocol: dict[str, Any]
) -> dict[str, Any]:
    """Return the statistics of SUMMARIZED_COLUMNS over lines of results.csv, the protocol and the versions.

    `n` counts rows; `n_skipped` and `n_missing` (neither done nor skipped) count images.
    """
    images = [row["image"] for row in rows]
    normalised = [row["p_normalised"] for row in rows if math.isfinite(row["p_normalised"])]
    return {
        "n": len(rows),
        "n_skipped": n_skipped,
        "n_missing": n_missing,
        **{column: statistics([row[column] for row in rows], images) for column in SUMMARIZED_COLUMNS},
        "share_p_normalised_below_0.1": sum(p <= 0.1 for p in normalised) / len(normalised) if normalised else None,
        "protocol": protocol,
        "versions": package_versions(),
    }


def statistics(values: Iterable[float], images: Iterable[Hashable] | None = None, draws: int = 1000) -> dict[str, Any]:
    """Return n, mean, median and the 95 % percentile bootstrap interval of the mean, over the finite values.

    images: the image of each value. The bootstrap draws images with all their values, because the values of one image are
    not independent. None: each value has an image of its own. An interval needs two images. The seed is fixed.
    """
    pairs = [(v, image) for v, image in zip(values, count() if images is None else images) if math.isfinite(v)]
    x = np.array([v for v, _ in pairs])
    numbers: dict[Hashable, int] = {}
    image_of_value = np.array([numbers.setdefault(image, len(numbers)) for _, image in pairs], int)
    means = _bootstrap_means(np.bincount(image_of_value, x), np.bincount(image_of_value), draws)
    return {
        "n": len(x),
        "mean": x.mean().item() if len(x) else None,
        "median": np.median(x).item() if len(x) else None,
        "interval95": np.percentile(means, [2.5, 97.5]).tolist() if len(means) else None,
    }


def _bootstrap_means(sums: np.ndarray, counts: np.ndarray, draws: int) -> np.ndarray:
    """Return `draws` means over images drawn with replacement. sums, counts: (images,) of the values of an image."""
    if len(sums) < 2 or not draws:
        return np.empty(0)
    rng = np.random.default_rng(0)
    at_once = max(1, 2**16 // len(sums))  # bounds the memory
    sizes = [min(at_once, draws - start) for start in range(0, draws, at_once)]
    drawn = (rng.integers(len(sums), size=(size, len(sums))) for size in sizes)
    return np.concatenate([sums[draw].sum(1) / counts[draw].sum(1) for draw in drawn])


def package_versions() -> dict[str, str | None]:
    """Return the versions of Python and PACKAGES; None for a package that is not installed."""
    return {"python": platform.python_version()} | {name.replace("-", "_"): _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
