"""The normalised support p' of Fong & Vedaldi 2017, footnote 4."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # tables of numbers need no torch
    from torch import Tensor

    from mpx.tasks.base import Task

MIN_DROP = 0.01  # support that full perturbation must cost for p' to have a value
Number = TypeVar("Number", float, "Tensor")


def normalise(p: Number, p_before: Number, p_reference: Number, min_drop: float = MIN_DROP) -> Number:
    """Return (p - p_reference) / (p_before - p_reference): 1 at the image's support, 0 at the fully perturbed image's.

    NaN where full perturbation costs less than `min_drop`, because then there is nothing to lose.
    """
    drop = p_before - p_reference
    if isinstance(drop, float):
        return (p - p_reference) / drop if drop >= min_drop else math.nan
    return ((p - p_reference) / drop).where(drop >= min_drop, math.nan)


def nothing_to_lose(rows: Sequence[Mapping[str, Any]], task: "Task") -> str | None:
    """Return a sentence about the rows (of results.csv) that full perturbation costs next to nothing; None without any."""
    found = [row for row in rows if math.isnan(row["value_normalised"])]
    if not found:
        return None
    row = found[0]
    before, reference = task.format(row["value_before"]), task.format(row["value_reference"])
    remedy = "another target or a stronger perturbation"
    if task.is_bounded and row["value_before"] < 2 * MIN_DROP:
        remedy = "another target or score=log_odds" if task.quantity == "probability" else "another target"
    verb = "has" if len(found) == 1 else "have"
    return (
        f"{len(found)} of {len(rows)} rows {verb} next to nothing to lose ({row['image']}, {row['class']}: {before}, fully "
        f"perturbed {reference}), so the mask may be empty and value_normalised has no value: try {remedy}"
    )
