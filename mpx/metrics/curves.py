"""Deletion and insertion: the class's probability as pixels go or come in the order of their saliency.

Petsiuk, Das & Saenko 2018 (RISE), as their code: W pixels a step in a picture W wide, so 225 points for 224x224; deletion
turns pixels into the mean colour (normalised 0), insertion starts from a blur of 11x11 pixels, sigma 5; the area is that of
the trapezoids over an axis from 0 to 1. Ties go in reading order, so that a constant map deletes from the top.
"""

import torch
from torch import Tensor

from mpx.metrics.batched import ask, filled


def deletion(
    saliency: Tensor, classifier, images: Tensor, targets: Tensor, fill: str | float = "mean", step: int | None = None,
    sigma: float = 5.0, kernel_size: int = 11, pictures: int = 64,
) -> Tensor:  # fmt: skip
    """Area under the curve as the most salient pixels are removed first: (B,) in [0,1], low is good.

    fill: mean, photo (its own mean colour), blur or a number in [0,1]; step: pixels; None: the picture's width.
    """
    removed = filled(images, classifier, fill, sigma, kernel_size)
    return area(curve(saliency, classifier, images, removed, targets, step, pictures))


def insertion(
    saliency: Tensor, classifier, images: Tensor, targets: Tensor, fill: str | float = "blur", step: int | None = None,
    sigma: float = 5.0, kernel_size: int = 11, pictures: int = 64,
) -> Tensor:  # fmt: skip
    """The same as the most salient pixels come first into a picture without any: high is good."""
    blank = filled(images, classifier, fill, sigma, kernel_size)
    return area(curve(saliency, classifier, blank, images, targets, step, pictures))


RISE = {
    "class": "the row's, softmax",
    "normalisation": "(sum - first/2 - last/2) / (points - 1)",
    "ties": "in reading order",
}
deletion.protocol = {**RISE, "better": "lower", "source": "Petsiuk et al. 2018"}
insertion.protocol = {**RISE, "better": "higher", "source": "Petsiuk et al. 2018"}


def area(points: Tensor) -> Tensor:
    """(B,N) -> (B,)."""
    return (points.sum(1) - (points[:, 0] + points[:, -1]) / 2) / (points.shape[1] - 1)


def curve(
    saliency: Tensor, classifier, start: Tensor, finish: Tensor, targets: Tensor, step: int | None = None, pictures: int = 64
) -> Tensor:
    """(B,1+steps) probabilities on the way from start to finish (B,3,H,W), `step` pixels at a time, most salient first."""
    step = saliency.shape[-1] if step is None else step
    size = saliency[0].numel()
    if not 1 <= step <= size:
        raise ValueError(f"step={step} must be from 1 to {size}, the pixels of a picture")
    when = order(saliency) // step  # (B,1,H,W): the step that turns a pixel

    def make(row: Tensor, point: Tensor) -> Tensor:
        return torch.where(when[row] < point.view(-1, 1, 1, 1), finish[row], start[row])

    return ask(classifier, make, targets, -(-size // step) + 1, pictures)


def order(saliency: Tensor) -> Tensor:
    """(B,1,H,W) int64: each pixel's place, the most salient 0; of equal ones the first in reading order."""
    places = torch.arange(saliency[0].numel(), device=saliency.device).expand(len(saliency), -1)
    best = saliency.flatten(1).sort(dim=1, descending=True, stable=True)[1]
    return torch.empty_like(best).scatter_(1, best, places).view_as(saliency)
