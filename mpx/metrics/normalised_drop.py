"""Normalised drop: the share of the possible loss of probability that perturbing the evidence causes."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.batched import stack_probabilities
from mpx.option_values import Count, NotNegative
from mpx.tasks.normalised import MIN_DROP, normalise


@metric(
    direction="higher",
    needs=("perturbations",),
    notes={
        "normalisation": "(p_before - p) / (p_before - p_reference), clipped to [0,1]",
        "perturbation": "the one that the mask was learnt with",
    },
)
def normalised_drop(
    saliency: Tensor, context: MetricContext, min_drop: NotNegative = MIN_DROP, max_batch: Count = 64
) -> Tensor:
    """Return 1 - p' (B,), at least 0 and at most 1: 1 where perturbing the evidence costs as much as perturbing everything.

    p' = (p - p_reference) / (p_before - p_reference) of Fong & Vedaldi 2017, footnote 4, with the evidence perturbed as the
    mask was learnt: p_before of the image, p_reference of the fully perturbed one. NaN where p_before - p_reference is below
    `min_drop`.
    """
    if context.value_normalised is not None and context.game != "preservation" and min_drop == MIN_DROP:
        return (1 - context.value_normalised).clamp(0, 1)
    name, perturb = next(iter(context.perturbations.items()))
    return (1 - normalised_probabilities(context, 1 - saliency, {name: perturb}, min_drop, max_batch)[name]).clamp(0, 1)


def normalised_probabilities(
    context: MetricContext,
    mask: Tensor,
    perturbations: Mapping[str, Callable[[Tensor], Tensor]],
    min_drop: float,
    max_batch: int,
) -> dict[str, Tensor]:
    """Return p' (B,) of the images under a mask (B,1,H,W), for each perturbation."""
    images = [context.images]
    for perturb in perturbations.values():
        reference = perturb(context.images)
        images += [reference, torch.lerp(reference, context.images, mask)]
    p = stack_probabilities(context, torch.stack(images, 1), max_batch)
    return {
        name: normalise(p[:, 2 * i + 2], p[:, 0], p[:, 2 * i + 1], min_drop)
        for i, name in enumerate(perturbations)
    }
