"""Sentences about rows whose masks say little: nothing to lose, an empty mask, no effect, another area than requested."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
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
    largest = max((row["requested_area"] for row in rows if row["requested_area"]), default="")

    def is_learnt(row: Line) -> bool:
        return not method.explainer and not math.isnan(row["value_normalised"]) and row["area"] >= EMPTY_AREA

    def is_empty(row: Line) -> bool:
        return not math.isnan(row["value_normalised"]) and row["area"] < EMPTY_AREA

    def is_ineffective(row: Line) -> bool:
        return is_learnt(row) and row["requested_area"] == largest and _effect(row, method) < MIN_EFFECT

    def is_far(row: Line) -> bool:
        return is_learnt(row) and bool(row["requested_area"]) and _is_far(row["area"], row["requested_area"])

    def value(row: Line, name: str) -> str:
        return task.format(row[f"value_{name}"])

    return [
        *nothing_to_lose(rows, task),
        *_sentence(
            is_empty, rows, "an empty mask",
            lambda row: f"{value(row, 'before')}, and {value(row, 'after')} under the mask", _remedy(method),
        ),
        *_sentence(
            is_ineffective, rows, "a mask of next to no effect",
            lambda row: f"{value(row, 'before')}, {value(row, 'after')} under the mask, fully perturbed "
            f"{value(row, 'reference')}", _remedy(method),
        ),
        *_sentence(
            is_far, rows, "an area far from the requested one",
            lambda row: f"{format_percent(row['area'])} for area={row['requested_area']:g}", "more steps",
        ),
    ]  # fmt: skip


def nothing_to_lose(rows: Sequence[Line], task: Task) -> list[str]:
    """Return the sentence about rows that full perturbation changes next to nothing; none where there are no such rows."""
    remedy = "another target or a stronger perturbation"
    first = next(filter(_has_nothing_to_lose, rows), None)
    if first and task.is_bounded and first["value_before"] < 2 * MIN_DROP:
        remedy = "another target or score=log_odds" if task.quantity == "probability" else "another target"
    return _sentence(
        _has_nothing_to_lose, rows, "next to nothing to lose",
        lambda row: f"{task.format(row['value_before'])}, fully perturbed {task.format(row['value_reference'])}", remedy,
        consequence=", so the mask may be empty and value_normalised has no value",
    )  # fmt: skip


def _has_nothing_to_lose(row: Line) -> bool:
    return math.isnan(row["value_normalised"])


def _sentence(
    is_found: Callable[[Line], bool], rows: Sequence[Line], what: str, shown: Callable[[Line], str], remedy: str,
    consequence: str = "",
) -> list[str]:  # fmt: skip
    """Return the sentence about the rows of a kind among all rows; none where there are no such rows.

    shown: what is shown of the first of them.
    """
    first = next(filter(is_found, rows), None)
    if first is None:
        return []
    count = sum(map(is_found, rows))
    have = "has" if count == 1 else "have"
    example = f"{first['image']}, {first['class']}: {shown(first)}"
    return [f"{count} of {len(rows)} rows {have} {what} ({example}){consequence}: try {remedy}"]


def _is_far(area: float, requested: float) -> bool:
    return abs(area / requested - 1) > AREA_TOLERANCE


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
