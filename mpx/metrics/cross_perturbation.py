"""Cross perturbation: whether a mask works under perturbations that it was not learnt with."""

import torch
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.normalised_drop import normalised_probabilities
from mpx.option_values import Count, NotNegative, Share
from mpx.tasks.normalised import MIN_DROP


@metric(
    direction={"": "higher", "only_own": "lower"},
    needs=("perturbations",),
    notes={
        "normalisation": "as normalised_drop; for a preservation 1 minus it",
    },
)
def cross_perturbation(
    saliency: Tensor, context: MetricContext, success_share: Share = 0.9, failure_share: Share = 0.5,
    min_drop: NotNegative = MIN_DROP, max_batch: Count = 64,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the mask's success (B,) under each perturbation and, as main value, the mean over all but its own.

    The success is 1 - p' of a deletion and p' of a preservation (see `normalised_drop`), at least 0 and at most 1.
    `only_own` is 1 for a mask whose success is at least `success_share` under its own perturbation and below
    `failure_share` under every other: such a mask shows traces of the perturbation rather than evidence.
    """
    p = normalised_probabilities(context, context.mask_for(saliency), context.perturbations, min_drop, max_batch)
    if context.value_normalised is not None:  # as optimized: its own perturbation need not be a blend of two images
        p[next(iter(p))] = context.value_normalised
    success = {name: (values if context.game == "preservation" else 1 - values).clamp(0, 1) for name, values in p.items()}
    own_success, *rows_of_others = success.values()
    if not rows_of_others:
        return {"": torch.full_like(own_success, torch.nan), **success, "only_own": torch.full_like(own_success, torch.nan)}
    other_success = torch.stack(rows_of_others)
    has_value = own_success.isfinite() & other_success.isfinite().any(0)
    only_own = (own_success >= success_share) & ~(other_success >= failure_share).any(0)
    return {"": other_success.nanmean(0), **success, "only_own": torch.where(has_value, only_own.to(own_success), torch.nan)}
