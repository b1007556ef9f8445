"""A Gaussian at the centre, where photographers aim: the baseline that any method must beat."""

import torch
from torch import Tensor

from mpx.explainers.base import ExplainerContext
from mpx.models.classifier import Classifier
from mpx.option_values import Positive


def center(
    images: Tensor, classifier: Classifier, targets: Tensor, context: ExplainerContext, sigma: Positive = 0.25
) -> Tensor:
    """Return the same Gaussian for every row; sigma: standard deviation as a share of the sides."""
    h, w = images.shape[2:]
    ys, xs = (((torch.arange(n).to(images) + 0.5) / n - 0.5) / sigma for n in (h, w))
    return (-0.5 * (ys[:, None] ** 2 + xs**2)).exp().expand(len(images), 1, h, w).clone()
