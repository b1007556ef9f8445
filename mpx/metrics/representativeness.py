"""Representativeness: the evidence, thresholded, is deleted by perturbations that the mask was not learnt with."""

import torch
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.batched import class_probabilities
from mpx.metrics.boxes import scaled_to_unit
from mpx.option_values import Blur, Count, NotNegative
from mpx.perturbations.blur import gaussian_blur
from mpx.tasks.normalised import MIN_DROP, normalise

ALPHAS = [i / 20 for i in range(20)]
EVERYTHING = 2.0  # a threshold that every pixel of the mask is below


@metric(
    direction="lower",
    needs=("perturbations",),
    notes={
        "normalisation": "(p - p_reference) / (p_before - p_reference)",
    },
)
def representativeness(
    saliency: Tensor, context: MetricContext, sigma: Blur = 10.0, min_drop: NotNegative = MIN_DROP, max_batch: Count = 64
) -> dict[str, Tensor]:
    """Return the mean normalised probability p' (B,) over growing deleted regions, by perturbation and over all of them.

    Fong & Vedaldi 2017, section 5.2: the mask (1 - saliency) is blurred by `sigma` px, scaled to [0,1], and deleted where it
    is below alpha = 0, 0.05, ..., 0.95. NaN where p_before - p_reference is below `min_drop`. `name@alpha` are the points of
    the curve. A constant map deletes nothing.
    """
    images = context.images
    is_constant = saliency.amax((1, 2, 3), keepdim=True) == saliency.amin((1, 2, 3), keepdim=True)
    mask = torch.where(is_constant, 1.0, scaled_to_unit(gaussian_blur(1 - saliency, sigma)))
    alphas = torch.tensor([*ALPHAS, EVERYTHING], device=images.device)
    values: dict[str, Tensor] = {}
    for name, perturb in context.perturbations.items():
        reference = perturb(images)

        def make_images(row: Tensor, number: Tensor, reference: Tensor = reference) -> Tensor:
            return torch.where(mask[row] < alphas[number].view(-1, 1, 1, 1), reference[row], images[row])

        p = class_probabilities(context, make_images, len(alphas), max_batch)
        points = normalise(p[:, :-1], p[:, :1], p[:, -1:], min_drop)  # alpha 0 deletes nothing
        values |= {name: points.mean(1), **{f"{name}@{alpha:g}": point for alpha, point in zip(ALPHAS, points.T)}}
    return {"": torch.stack([values[name] for name in context.perturbations]).nanmean(0), **values}
