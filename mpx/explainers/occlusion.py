"""Occlusion (Zeiler & Fergus 2014): the loss of probability under a square, mean over the squares that cover a pixel."""

import torch
from torch import Tensor

from mpx.explainers.base import ExplainerContext, captum_attr, split_rows
from mpx.models.classifier import Classifier
from mpx.option_values import Color, Count
from mpx.perturbations.constant import filled_with
from mpx.tasks.base import repeat_rows


@torch.no_grad()
def occlusion(
    images: Tensor,
    classifier: Classifier,
    targets: Tensor,
    context: ExplainerContext,
    patch: Count = 35,
    stride: Count = 8,
    color: Color | None = None,
    max_batch: Count = 64,
) -> Tensor:
    """Return the mean loss of probability.

    patch: px, the square's side. stride: px between squares; the last square may reach over the edge. color: see
    `one_colour`.
    """
    shorter = min(images.shape[2:])
    if not stride <= patch <= shorter:
        raise ValueError(
            f"explainer.patch={patch} must be from explainer.stride={stride} to the image's shorter side, {shorter} px"
        )

    def support(x: Tensor, target: Tensor) -> Tensor:
        return classifier.task.support(classifier(x), repeat_rows(target, len(x) // len(target)))

    method = captum_attr("occlusion").Occlusion(support)
    parts = []
    for x, x0, y in split_rows(max_batch, images, one_colour(images, classifier, color), targets):
        window, steps = (images.shape[1], patch, patch), (images.shape[1], stride, stride)
        squares_per_pass = max(1, max_batch // len(x))
        parts.append(
            method.attribute(x, window, steps, x0, additional_forward_args=y, perturbations_per_eval=squares_per_pass)
        )
    return torch.cat(parts).mean(1, keepdim=True).to(images)  # the same for all colours


def one_colour(images: Tensor, classifier: Classifier, color: Color | None) -> Tensor:
    """Return images (B,C,H,W) of one colour: one number in [0,1], or one per channel.

    None: the colour that the network's normalisation turns into 0, as in published code, which multiplies normalised images.
    """
    return (-classifier.shift / classifier.scale).expand_as(images) if color is None else filled_with(images, color)
