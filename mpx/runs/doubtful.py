"""Sentences about rows whose masks say little: nothing to lose, an empty mask, no effect, another area than requested."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from mpx.explanation import Explanation
from mpx.learning.method import Method
from mpx.pictures.text import format_percent
from mpx.runs.tables import table_rows
from mpx.tasks.base import Task
from mpx.tasks.normalised import MIN_DROP

EMPTY_AREA = 1e-3  # share of the image; a cell of a 28x28 mask is larger
MIN_EFFECT = 0.1  # share of what full perturbation takes that a mask must take, or in a preservation keep
AREA_TOLERANCE = 0.5  # share of the requested area by which a mask's may differ from it

Line = Mapping[str, Any]  # of results.csv


def warn_of_doubtful_rows(explanation: Explanation) -> None:
    """Warn the caller's caller of each kind of rows whose masks say little."""
    assert explanation.method is not None
    for sentence in doubtful_rows(table_rows(explanation), explanation.method, explanation.task):
        warnings.warn(sentence, stacklevel=3)


def doubtful_rows(rows: Sequence[Line], method: Method, task: Task) -> list[str]:
    """Return a sentence about each kind of rows whose masks say little.

    The effect of an explainer's map is not told, as nothing scales it to be a mask; of several areas, only the largest's,
    as the smaller ones are there to find which suffices.
    """
    valued = [row for row in rows if not math.isnan(row["value_normalised"])]
    empty = [row for row in valued if row["area"] < EMPTY_AREA]
    learnt = [] if method.explainer else [row for row in valued if row["area"] >= EMPTY_AREA]
    largest = max((row["requested_area"] for row in rows if row["requested_area"]), default="")
    ineffective = [row for row in learnt if row["requested_area"] == largest and _effect(row, method) < MIN_EFFECT]
    kinds = [_empty_mask(empty, rows, method, task), _no_effect(ineffective, rows, method, task), _other_area(learnt, rows)]
    return [*nothing_to_lose(rows, task), *(sentence for sentence in kinds if sentence)]


def nothing_to_lose(rows: Sequence[Line], task: Task) -> list[str]:
    """Return the sentence about rows that full perturbation changes next to nothing; none where there are no such rows."""
    found = [row for row in rows if math.isnan(row["value_normalised"])]
    if not found:
        return []
    row = found[0]
    before, reference = task.format(row["value_before"]), task.format(row["value_reference"])
    remedy = "another target or a stronger perturbation"
    if task.is_bounded and row["value_before"] < 2 * MIN_DROP:
        remedy = "another target or score=log_odds" if task.quantity == "probability" else "another target"
    return [
        f"{_count(found, rows)} next to nothing to lose ({row['image']}, {row['class']}: {before}, fully perturbed "
        f"{reference}), so the mask may be empty and value_normalised has no value: try {remedy}"
    ]


def _empty_mask(found: Sequence[Line], rows: Sequence[Line], method: Method, task: Task) -> str:
    if not found:
        return ""
    row = found[0]
    before, after = task.format(row["value_before"]), task.format(row["value_after"])
    return (
        f"{_count(found, rows)} an empty mask ({row['image']}, {row['class']}: {before}, and {after} under the mask): try "
        f"{_remedy(method)}"
    )


def _no_effect(found: Sequence[Line], rows: Sequence[Line], method: Method, task: Task) -> str:
    if not found:
        return ""
    row = found[0]
    before, after, reference = (task.format(row[f"value_{name}"]) for name in ("before", "after", "reference"))
    return (
        f"{_count(found, rows)} a mask of next to no effect ({row['image']}, {row['class']}: {before}, {after} under the "
        f"mask, fully perturbed {reference}): try {_remedy(method)}"
    )


def _other_area(learnt: Sequence[Line], rows: Sequence[Line]) -> str:
    requested = [row for row in learnt if row["requested_area"]]
    found = [row for row in requested if abs(row["area"] / row["requested_area"] - 1) > AREA_TOLERANCE]
    if not found:
        return ""
    row = found[0]
    return (
        f"{_count(found, rows)} an area far from the requested one ({row['image']}, {row['class']}: "
        f"{format_percent(row['area'])} for area={row['requested_area']:g}): try more steps"
    )


def _effect(row: Line, method: Method) -> float:
    """Return the share of what full perturbation takes that the mask takes or, in a preservation, keeps."""
    kept = row["value_normalised"]
    return kept if method.game == "preservation" else 1 - kept


def _remedy(method: Method) -> str:
    """Return what makes the masks of a method larger."""
    if method.explainer:
        return "another explainer"
    weights = [name for name, (weight, _) in method.regularizers.items() if weight]
    if None not in method.areas:
        return "a larger area or more steps"
    if "l1" in weights:
        return "a smaller lambda_l1 or more steps"
    return f"smaller weights of {' and '.join(weights)}, or more steps" if weights else "more steps"


def _count(found: Sequence[Line], rows: Sequence[Line]) -> str:
    return f"{len(found)} of {len(rows)} rows {'has' if len(found) == 1 else 'have'}"
