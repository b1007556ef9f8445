"""summary.json: means over rows with bootstrap intervals, and the versions of the packages."""

import math
import platform
from array import array
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mpx.metrics.summary import describe
from mpx.tasks.normalised import within_scale
from mpx.verdicts import count_verdicts

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "mpx")
ARITHMETIC = ("torch", "torchvision", "mpx")  # packages whose version changes numbers
SUMMARISED_COLUMNS = ("value_normalised", "value_after", "area", "passes", "forwards", "seconds")


def summarise_rows(
    rows: Sequence[dict[str, Any]], n_skipped: int, n_missing: int, protocol: dict[str, Any]
) -> dict[str, Any]:
    """Return the statistics of SUMMARISED_COLUMNS over lines of results.csv, the protocol and the versions.
    `n` counts rows; `n_skipped` and `n_missing` (neither done nor skipped) count images.
    """
    images = []
    columns = {column: array("d") for column in SUMMARISED_COLUMNS}
    for row in rows:
        images.append(row["image"])
        for column, values in columns.items():
            values.append(summarised_value(row, column))
    normalised = [value for value in columns["value_normalised"] if math.isfinite(value)]
    return {
        "n": len(rows),
        "n_skipped": n_skipped,
        "n_missing": n_missing,
        **{column: describe(values, images) for column, values in columns.items()},
        "share_value_normalised_below_0.1": sum(p <= 0.1 for p in normalised) / len(normalised) if normalised else None,
        "verdicts": count_verdicts(rows),
        "protocol": protocol,
        "versions": package_versions(),
    }


def summarised_value(row: dict[str, Any], column: str) -> float:
    """Return the number of a row that enters a mean: value_normalised within its scale, else what the column holds."""
    return within_scale(row[column]) if column == "value_normalised" else row[column]


def package_versions() -> dict[str, str | None]:
    """Return the versions of Python and PACKAGES; None for a package that is not installed."""
    return {"python": platform.python_version()} | {name.replace("-", "_"): _version(name) for name in PACKAGES}


def arithmetic_versions() -> str:
    """Return the versions that the numbers of a row depend on."""
    return ", ".join(f"{name} {_version(name)}" for name in ARITHMETIC)


@cache  # reading it takes half a millisecond, and every row says what made it
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
