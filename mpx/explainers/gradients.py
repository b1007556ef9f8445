"""Gradients of the target's logit y to the image's pixels x.

gradient              max over colours of |dy/dx|                                    (Simonyan, Vedaldi & Zisserman 2014)
smoothgrad            the same of the mean gradient under noise                      (Smilkov et al. 2017)
integrated_gradients  (x - x0) times the mean gradient on the path from x0 to x      (Sundararajan, Taly & Yan 2017)
"""

import torch
from torch import Tensor

from mpx.explainers.base import ExplainerContext, captum_attr, split_rows
from mpx.models.classifier import Classifier
from mpx.option_values import Count, NotNegative, Positive
from mpx.perturbations.blur import gaussian_blur
from mpx.tasks.base import repeat_rows


def gradient(
    images: Tensor, classifier: Classifier, targets: Tensor, context: ExplainerContext, max_batch: Count = 64
) -> Tensor:
    """Return the largest absolute gradient over colours."""
    return largest_over_colours(input_gradients(images, classifier, targets, max_batch))


def smoothgrad(
    images: Tensor,
    classifier: Classifier,
    targets: Tensor,
    context: ExplainerContext,
    samples: Count = 50,
    noise: NotNegative = 0.15,
    max_batch: Count = 64,
) -> Tensor:
    """Return the largest absolute value over colours of the mean gradient under noise.

    noise: standard deviation, as a share of the range of the image's own values. Noisy values are not clipped.
    """
    spread = noise * (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True))
    total = torch.zeros_like(images)
    numbers = torch.arange(samples).split(max(1, max_batch // len(images)))
    for part in numbers:
        draws = torch.stack([context.rng.at("smoothgrad", k).normal(*images.shape[1:]) for k in part.tolist()])
        noisy = images + spread * draws  # (samples of the part,B,C,H,W)
        gradients = input_gradients(noisy.flatten(0, 1), classifier, repeat_rows(targets, len(part)), max_batch)
        total += gradients.view_as(noisy).sum(0)
    return largest_over_colours(total / samples)


def integrated_gradients(
    images: Tensor,
    classifier: Classifier,
    targets: Tensor,
    context: ExplainerContext,
    blur: Positive | None = None,
    steps: Count = 50,
    max_batch: Count = 64,
) -> Tensor:
    """Return integrated gradients, summed over colours, so that they add up to y(x) - y(x0).

    blur: px, sigma of the Gaussian blur that makes x0 of the image; None: x0 is black. steps: gradients on the path.
    """

    def logit(x: Tensor, target: Tensor) -> Tensor:
        return classifier.task.logit(classifier(x), target)

    method = captum_attr("integrated_gradients").IntegratedGradients(logit)
    start = torch.zeros_like(images) if blur is None else gaussian_blur(images, blur)
    parts = [
        method.attribute(x, x0, additional_forward_args=y, n_steps=steps, internal_batch_size=max(max_batch, len(x)))
        for x, x0, y in split_rows(max_batch, images, start, targets)
    ]
    return torch.cat(parts).sum(1, keepdim=True).to(images)


@torch.enable_grad()
def input_gradients(images: Tensor, classifier: Classifier, targets: Tensor, max_batch: int) -> Tensor:
    """Return dy/dx (B,C,H,W)."""
    gradients = []
    for part, target in split_rows(max_batch, images, targets):
        x = part.detach().clone().requires_grad_()
        gradients.append(torch.autograd.grad(classifier.task.logit(classifier(x), target).sum(), x)[0])
    return torch.cat(gradients)


def largest_over_colours(gradients: Tensor) -> Tensor:
    """Map (B,C,H,W) to (B,1,H,W): M_ij = max_c |w_ijc|, Simonyan et al. 2014, section 3.1."""
    return gradients.abs().amax(1, keepdim=True)
