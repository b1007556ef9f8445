"""Gradients of the target's logit y at the photo's pixels.

gradient              max over colours of |dy/dx|                               (Simonyan, Vedaldi & Zisserman 2014)
smoothgrad            the same of the mean gradient under noise                 (Smilkov et al. 2017)
integrated_gradients  (x - x0) times the mean gradient on the way from x0 to x  (Sundararajan, Taly & Yan 2017)
"""

import torch
from torch import Tensor

from mpx.explainers import at_least, captum
from mpx.perturbations.blur import blur_gaussian


@torch.enable_grad()
def slopes(photos: Tensor, classifier, targets: Tensor, pictures: int) -> Tensor:
    """(B,3,H,W): dy/dx."""
    at_least(1, pictures=pictures)
    found = []
    for x, of in zip(photos.split(pictures), targets.split(pictures)):
        x = x.detach().clone().requires_grad_()
        found.append(torch.autograd.grad(classifier(x).gather(1, of[:, None]).sum(), x)[0])
    return torch.cat(found)


def largest(slope: Tensor) -> Tensor:
    """(B,3,H,W) -> (B,1,H,W): the paper's M_ij = max_c |w_ijc|."""
    return slope.abs().amax(1, keepdim=True)


def gradient(photos: Tensor, classifier, targets: Tensor, pictures: int = 64) -> Tensor:
    return largest(slopes(photos, classifier, targets, pictures))


def smoothgrad(
    photos: Tensor, classifier, targets: Tensor, rng, samples: int = 50, noise: float = 0.15, pictures: int = 64
) -> Tensor:
    """noise: its standard deviation, as a share of the range of the photo's own values. Noisy values are not clipped."""
    at_least(1, samples=samples, pictures=pictures)
    at_least(0, noise=noise)
    spread = noise * (photos.amax((1, 2, 3), keepdim=True) - photos.amin((1, 2, 3), keepdim=True))
    total, together = torch.zeros_like(photos), max(1, pictures // len(photos))
    for first in range(0, samples, together):
        draws = [rng.at("smoothgrad", k).normal(*photos.shape[1:]) for k in range(first, min(first + together, samples))]
        noisy = photos + spread * torch.stack(draws)  # (samples,B,3,H,W)
        found = slopes(noisy.flatten(0, 1), classifier, targets.repeat(len(draws)), pictures)
        total += found.view_as(noisy).sum(0)
    return largest(total / samples)


def integrated_gradients(
    photos: Tensor, classifier, targets: Tensor, blur: float | None = None, steps: int = 50, pictures: int = 64
) -> Tensor:
    """blur: px, sigma of the Gaussian blur that makes x0 of the photo; None: x0 is black. steps: gradients on the way.

    Summed over colours, so that it adds up to y(x) - y(x0).
    """
    at_least(1, steps=steps, pictures=pictures)
    method = captum("integrated_gradients").IntegratedGradients(classifier)
    start = torch.zeros_like(photos) if blur is None else blur_gaussian(photos, blur)
    found = [
        method.attribute(x, x0, of, n_steps=steps, internal_batch_size=max(pictures, len(x)))
        for x, x0, of in zip(*(values.split(pictures) for values in (photos, start, targets)))
    ]
    return torch.cat(found).sum(1, keepdim=True).to(photos)
