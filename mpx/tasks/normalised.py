"""The normalised support p' of Fong & Vedaldi 2017, footnote 4."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # tables of numbers need no torch
    from torch import Tensor

    from mpx.tasks.base import Task

EMPTY_AREA = 1e-3  # share of the image; a cell of a 28x28 mask is larger
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


def doubtful_rows(rows: Sequence[Mapping[str, Any]], task: "Task") -> list[str]:
    """Return a sentence about each kind of rows (of results.csv) whose masks say nothing."""
    lost = [row for row in rows if math.isnan(row["value_normalised"])]
    empty = [row for row in rows if row["area"] < EMPTY_AREA and not math.isnan(row["value_normalised"])]
    kinds = (_nothing_to_lose, lost), (_empty_mask, empty)
    return [sentence(found, len(rows), task) for sentence, found in kinds if found]


def _nothing_to_lose(found: Sequence[Mapping[str, Any]], count: int, task: "Task") -> str:
    row = found[0]
    before, reference = task.format(row["value_before"]), task.format(row["value_reference"])
    remedy = "another target or a stronger perturbation"
    if task.is_bounded and row["value_before"] < 2 * MIN_DROP:
        remedy = "another target or score=log_odds" if task.quantity == "probability" else "another target"
    return (
        f"{_rows(found, count)} next to nothing to lose ({row['image']}, {row['class']}: {before}, fully perturbed "
        f"{reference}), so the mask may be empty and value_normalised has no value: try {remedy}"
    )


def _empty_mask(found: Sequence[Mapping[str, Any]], count: int, task: "Task") -> str:
    row = found[0]
    before, after = task.format(row["value_before"]), task.format(row["value_after"])
    return (
        f"{_rows(found, count)} an empty mask ({row['image']}, {row['class']}: {before}, and {after} under the mask): try "
        "a smaller lambda_l1 or more steps"
    )


def _rows(found: Sequence[Any], count: int) -> str:
    return f"{len(found)} of {count} rows {'has' if len(found) == 1 else 'have'}"
