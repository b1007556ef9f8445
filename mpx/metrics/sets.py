"""Explanations as sets: the smallest sufficient, necessary and complete region, and disjoint sufficient ones.

The regions are sets of pixels, wholly kept or wholly perturbed, so that what is claimed of them is what one forward pass
says. They follow Kelly & Chockler 2025 (arXiv 2507.23497), with the normalised support p' for the decision.
"""

from typing import Annotated

import torch
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.batched import class_probabilities
from mpx.metrics.deletion_insertion import saliency_ranks
from mpx.option_values import Allowed, Count, NotNegative
from mpx.tasks.normalised import MIN_DROP, normalise

MORE_THAN_HALF = Allowed(lambda share: 0.5 < share < 1, "above 0.5 and below 1")


@metric(
    direction={"": "lower", "sufficient": "lower", "necessary": "lower", "disjoint": "none", "kept": "none", "left": "none"},
    needs=("perturbations",),
    notes={
        "normalisation": "(p - p_reference) / (p_before - p_reference)",
        "perturbation": "the one that the mask was learnt with",
        "regions": "the most salient pixels",
        "unit": "share of the image's area",
    },
)
def sets(
    saliency: Tensor, context: MetricContext, sufficient_share: Annotated[float, MORE_THAN_HALF] = 0.9, levels: Count = 50,
    max_disjoint: Count = 3, min_drop: NotNegative = MIN_DROP, max_batch: Count = 64,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the areas (B,) of the smallest regions of the most salient pixels that are sufficient, necessary and both.

    Sufficient: p' is at least `sufficient_share` with nothing but the region. Necessary: p' is at most 1 minus that share
    without it. Complete, the main value: both. `kept` and `left` are p' with nothing but the complete region and without it.
    `disjoint`: how many regions of consecutive ranks are each sufficient alone, at most `max_disjoint`; the area of the k-th
    is `disjoint@k`.
    levels: areas that are tried, evenly spaced up to the whole image. NaN where perturbing everything costs less than
    `min_drop`.
    """
    perturbed = next(iter(context.perturbations.values()))(context.images)
    level_of_pixel = saliency_ranks(saliency) * levels // saliency[0].numel()  # (B,1,H,W), 0: most salient
    ends = class_probabilities(context, lambda row, k: torch.where(_expand(k == 0), context.images[row], perturbed[row]), 2)

    def normalised(start: Tensor, keep: bool) -> Tensor:
        """Return p' (B,levels) with nothing but, or without, the levels from start (B,) on: one of them, two, ..."""

        def make_images(row: Tensor, number: Tensor) -> Tensor:
            level, first = level_of_pixel[row], start[row]
            region = (level >= _expand(first)) & (level <= _expand(first + number))
            return torch.where(region == keep, context.images[row], perturbed[row])

        return normalise(class_probabilities(context, make_images, levels, max_batch), ends[:, :1], ends[:, 1:], min_drop)

    start = torch.zeros(len(saliency), dtype=torch.long, device=saliency.device)
    kept, left = normalised(start, keep=True), normalised(start, keep=False)
    sufficient, necessary = kept >= sufficient_share, left <= 1 - sufficient_share
    complete = _first(sufficient & necessary)
    has_value = kept[:, 0].isfinite()
    columns = {
        "": (complete + 1) / levels,
        "sufficient": (_first(sufficient) + 1) / levels,
        "necessary": (_first(necessary) + 1) / levels,
        "kept": kept.gather(1, complete[:, None])[:, 0],
        "left": left.gather(1, complete[:, None])[:, 0],
        "disjoint": torch.zeros_like(kept[:, 0]),
    }
    for k in range(1, max_disjoint + 1):
        found = sufficient.any(1)
        size = _first(sufficient) + 1
        columns["disjoint"] += found
        columns[f"disjoint@{k}"] = (size / levels).where(found, torch.nan)
        start = torch.where(found, start + size, levels)
        if k < max_disjoint:
            sufficient = normalised(start, keep=True) >= sufficient_share
    return {name: values.where(has_value, torch.nan) for name, values in columns.items()}


def _expand(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _first(fulfilled: Tensor) -> Tensor:
    """Return the first index (B,) at which a condition (B,N) is fulfilled."""
    return fulfilled.int().argmax(1)
