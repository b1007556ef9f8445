"""The verdict on a row: in a word, what its mask is worth; and a sentence about each kind of rows that do not work.

A row has one verdict, the first that holds in this order. A class that is not in the image leaves nothing to explain. A
perturbation that does not hide it leaves nothing to measure. A search that has not ended is no result, and one that falls
short has not found the evidence. Only a mask that has its effect can be doubted for how it has it.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.explanation import Explanation
from mpx.learning.method import Method
from mpx.option_values import Count, NotNegative, Share
from mpx.pictures.text import format_percent
from mpx.tasks.base import Answer, Task

WORKS, ABSENT, WEAK, UNFINISHED, SHORT, ONLY_OWN, SCATTERED = (
    "works", "the class was never there", "perturbation too weak", "not converged", "falls short",
    "only under its own perturbation", "scattered",
)  # fmt: skip
MEANINGS = {  # of each verdict, in this order wherever verdicts are counted
    WORKS: "the mask takes, or in a preservation keeps, nearly all that perturbing everything takes",
    ABSENT: "the value is near 0 on the image itself, so there is nothing to take away",
    WEAK: "more than half of the value is left when everything is perturbed",
    UNFINISHED: "the mask is empty, its area is far from the requested one, or the objective was still falling",
    SHORT: "the mask takes, or in a preservation keeps, only a part of what perturbing everything takes",
    ONLY_OWN: "under no other perturbation does the mask succeed: it may show traces of this one rather than evidence",
    SCATTERED: "the evidence lies in many pieces, and other perturbations confirm little of it",
}
WHY_NOT = (  # a coarse mask, for a fine one can draw any class
    "another target, or game=preservation score=log_odds mask_size=7 lambda_l1=3 lambda_tv=1, which keeps what speaks most "
    "for this one: if its value stays near 0, nothing does"
)
FINEST = 56
EMPTY_AREA = 1e-3  # share of the image; a cell of a 28x28 mask is larger

Row = Mapping[str, Any]  # the texts and numbers of a row, as `tables.row_values` returns them
Line = Mapping[str, Any]  # of results.csv


def row_verdict(
    row: Row,
    absent_value: Share = 0.01,
    weak_share: Share = 0.5,
    area_tolerance: NotNegative = 0.5,
    falling_share: Share = 0.1,
    effect_share: Share = 0.9,
    many_components: Count = 10,
    confirmed_share: Share = 0.5,
) -> str:
    """Return the verdict on a row, a key of MEANINGS; "" on an explainer's map, which nothing scales to be a mask.

    row: with the columns of its metrics, where it is evaluated. configs/config.yaml explains the options.
    """
    before, reference, requested = row["value_before"], row["value_reference"], row["requested_area"]
    has_nothing_to_lose = math.isnan(row["value_normalised"])
    chance = row["chance"] if before > row["chance"] else 0.0
    if row["bounded"] and before < absent_value:
        return ABSENT
    if has_nothing_to_lose or row["bounded"] and reference - chance > weak_share * (before - chance):
        return WEAK
    if not row["is_learnt"]:
        return ""
    is_far = not math.isnan(requested) and abs(row["area"] / requested - 1) > area_tolerance
    if row["area"] < EMPTY_AREA or is_far or row["fall"] > falling_share:
        return UNFINISHED
    if effect(row, row["game"]) < effect_share:
        return SHORT
    if row.get("cross_perturbation_only_own") == 1:
        return ONLY_OWN
    confirmed = row.get("cross_perturbation")  # None: not evaluated
    if row["components"] > many_components and not (confirmed is not None and confirmed >= confirmed_share):
        return SCATTERED
    return WORKS


def effect(row: Row, game: str) -> float:
    """Return how much of what full perturbation takes the mask takes or, in a preservation, keeps: 1 is all of it."""
    kept = row["value_normalised"]
    return kept if game == "preservation" else 1 - kept


def judge(explanation: Explanation, verdict: Callable[[Row], str] = row_verdict, metrics: Sequence[Row] = ()) -> None:
    """Set the verdict on each row. metrics: of each row, column -> value."""
    from mpx.runs.tables import row_values

    rows = [row_values(explanation, i) for i in range(len(explanation))]
    explanation.verdict = [verdict(row | dict(values)) for row, values in zip(rows, metrics or [{}] * len(rows))]


def judge_and_warn(explanation: Explanation) -> None:
    """Set the verdict on each row, and warn the caller's caller of each kind of rows that do not work."""
    from mpx.runs.tables import table_rows

    assert explanation.method is not None
    judge(explanation)
    for sentence in verdict_sentences(table_rows(explanation), explanation.method, explanation.task):
        warnings.warn(sentence, stacklevel=3)


def count_verdicts(rows: Iterable[Line]) -> dict[str, int]:
    """Return the number of rows of each verdict, without those of none."""
    counts = Counter(row.get("verdict", "") for row in rows)  # older runs have none
    return {verdict: counts[verdict] for verdict in MEANINGS if counts[verdict]}


def verdict_sentences(rows: Sequence[Line], method: Method, task: Task) -> list[str]:
    """Return a sentence about the rows of each verdict that do not work: how many, the first of them, and what to try.

    Of several areas, that the smaller ones fall short is not told, as they are there to find which suffices.
    """
    largest = max((row["requested_area"] for row in rows if row["requested_area"]), default="")
    sentences = []
    for verdict in list(MEANINGS)[1:]:
        found = [row for row in rows if row["verdict"] == verdict]
        if verdict == SHORT:
            found = [row for row in found if row["requested_area"] == largest]
        if found:
            remedy = _remedy(verdict, method, task, found[0])
            example = _example(found[0], task)
            sentences.append(f"{len(found)} of {len(rows)} rows: {verdict}, {MEANINGS[verdict]} ({example}): try {remedy}")
    return sentences


def chance_of(answers: Sequence[Answer]) -> float:
    """Return the probability of each of a few answers that exclude each other, if the network knows nothing; 0 of many.

    answers: those listed of a row, five of a network with more.
    """
    total = sum(answer.value for answer in answers)
    return 1 / len(answers) if 0 < len(answers) < 5 and abs(total - 1) < 1e-3 else 0.0


def objective_fall(total: np.ndarray) -> float:
    """Return the share of the fall of an objective (steps,) that its last fifth brought; NaN of less than two steps.

    1/4 where it falls evenly, 0 where it has settled.
    """
    n = max(1, len(total) // 5)
    if len(total) < 2:
        return math.nan
    first, before, last = (float(part.mean()) for part in (total[:n], total[-2 * n : -n], total[-n:]))
    return max(0.0, before - last) / (first - last) if first > last else 0.0


def count_components(evidence: Tensor) -> int:
    """Return how many of the largest connected components hold four fifths of the evidence (H,W) of at least one half.

    Computed at about FINEST cells per side: scipy.ndimage.label would do, but takes longer to import than to run.
    """
    found = F.avg_pool2d(evidence[None, None].float(), max(1, min(evidence.shape) // FINEST)) >= 0.5
    labels = torch.arange(1.0, found.numel() + 1).view(found.shape) * found
    while True:  # the largest label spreads over its component
        spread = F.max_pool2d(F.max_pool2d(labels, (3, 1), 1, (1, 0)) * found, (1, 3), 1, (0, 1)) * found
        if torch.equal(spread, labels):
            break
        labels = spread
    sizes = labels[found].unique(return_counts=True)[1].sort(descending=True)[0]
    return int((sizes.cumsum(0) < 0.8 * sizes.sum()).sum()) + 1 if len(sizes) else 0


def _example(row: Line, task: Task) -> str:
    """Return a row in numbers."""
    before, after, reference = (task.format(row[f"value_{name}"]) for name in ("before", "after", "reference"))
    requested = f" for area={row['requested_area']:g}" if row["requested_area"] else ""
    area = format_percent(row["area"]) + requested
    values = f"{before}, {after} under the mask of {area}, {reference} with everything perturbed"
    return f"{row['image']}, {row['class']}: {values}"


def _remedy(verdict: str, method: Method, task: Task, row: Line) -> str:
    """Return what may help against a verdict."""
    if verdict == ABSENT:
        return WHY_NOT if task.quantity == "probability" else "another target"
    if verdict == WEAK:
        return "another target or a stronger perturbation"
    if verdict == ONLY_OWN:
        return "another perturbation or a coarser mask"
    if verdict == SCATTERED:
        return "a larger lambda_tv or a coarser mask"
    if verdict == UNFINISHED and row["area"] >= EMPTY_AREA:
        return "more steps"
    weights = [name for name, (weight, _) in method.regularizers.items() if weight]
    if None not in method.areas:
        return "a larger area or more steps"
    if "l1" in weights:
        return "a smaller lambda_l1 or more steps"
    return f"smaller weights of {' and '.join(weights)}, or more steps" if weights else "more steps"
