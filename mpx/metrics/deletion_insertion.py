"""Deletion and insertion: the probability of the class while pixels go or come in the order of their saliency.

Petsiuk, Das & Saenko 2018 (RISE), as their code: W pixels a step in an image W wide, so 225 points for 224x224; deletion
turns pixels into the mean colour (normalised 0), insertion starts from a blur of 11x11 pixels, sigma 5; the area is that of
the trapezoids over an axis from 0 to 1. Equal pixels go in reading order, so that a constant map deletes from the top.
"""

import torch
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.baseline import Baseline
from mpx.metrics.baseline import baseline as baseline_images
from mpx.metrics.batched import class_probabilities
from mpx.option_values import Count, OddSize, PixelCount, Positive

NOTES = {
    "normalisation": "(sum - first/2 - last/2) / (points - 1)",
    "ties": "in reading order",
    "source": "Petsiuk et al. 2018",
}


@metric(direction="lower", notes=NOTES)
def deletion(
    saliency: Tensor, context: MetricContext, baseline: Baseline = "mean", step: PixelCount | None = None,
    sigma: Positive = 5.0, kernel_size: OddSize = 11, max_batch: Count = 64,
) -> Tensor:  # fmt: skip
    """Area under the curve (B,), in [0,1], while the most salient pixels are removed first.

    baseline: what a removed pixel becomes, see `baseline_images`. step: pixels removed at once; None: the image's width.
    """
    reference = baseline_images(context, baseline, sigma, kernel_size)
    return area_under(probability_curve(saliency, context, context.images, reference, step, max_batch))


@metric(direction="higher", notes=NOTES)
def insertion(
    saliency: Tensor, context: MetricContext, baseline: Baseline = "blur", step: PixelCount | None = None,
    sigma: Positive = 5.0, kernel_size: OddSize = 11, max_batch: Count = 64,
) -> Tensor:  # fmt: skip
    """Area under the curve (B,), in [0,1], while the most salient pixels are inserted first. Options as in `deletion`."""
    reference = baseline_images(context, baseline, sigma, kernel_size)
    return area_under(probability_curve(saliency, context, reference, context.images, step, max_batch))


def area_under(points: Tensor) -> Tensor:
    """Return the area (B,) under curves (B,N) over an axis from 0 to 1, by trapezoids."""
    return (points.sum(1) - (points[:, 0] + points[:, -1]) / 2) / (points.shape[1] - 1)


def probability_curve(
    saliency: Tensor, context: MetricContext, start: Tensor, end: Tensor, step: int | None = None, max_batch: int = 64
) -> Tensor:
    """Return probabilities (B,1+steps) from start to end (B,C,H,W), `step` pixels at a time, the most salient first."""
    step = saliency.shape[-1] if step is None else step
    pixels = saliency[0].numel()
    if step > pixels:
        raise ValueError(f"step={step} must be from 1 to {pixels}, the number of pixels of an image")
    step_of_pixel = saliency_ranks(saliency) // step  # (B,1,H,W)

    def make_images(row: Tensor, point: Tensor) -> Tensor:
        return torch.where(step_of_pixel[row] < point.view(-1, 1, 1, 1), end[row], start[row])

    return class_probabilities(context, make_images, -(-pixels // step) + 1, max_batch)


def saliency_ranks(saliency: Tensor) -> Tensor:
    """Return each pixel's rank (B,1,H,W) int64, the most salient 0; equal pixels in reading order."""
    ranks = torch.arange(saliency[0].numel(), device=saliency.device).expand(len(saliency), -1)
    order = saliency.flatten(1).sort(dim=1, descending=True, stable=True)[1]
    return torch.empty_like(order).scatter_(1, order, ranks).view_as(saliency)
