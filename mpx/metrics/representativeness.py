"""Representativeness: the evidence, made a hard region, is deleted by perturbations that it was not learnt with."""

import torch
from torch import Tensor

from mpx.metrics.batched import ask
from mpx.metrics.boxes import scaled
from mpx.metrics.drops import normalised
from mpx.perturbations.blur import blur_gaussian

ALPHAS = [i / 20 for i in range(20)]


def representativeness(
    saliency: Tensor, classifier, images: Tensor, targets: Tensor, perturbations: dict, sigma: float = 10.0,
    least: float = 0.01, pictures: int = 64,
) -> dict[str, Tensor]:  # fmt: skip
    """Mean normalised score p' over ever larger hard regions, by perturbation and over all of them: (B,), low is good.

    Fong & Vedaldi 2017, section 5.2: the mask (1 - saliency) blurred by `sigma` px and scaled to [0,1], deleted where it is
    below alpha = 0, 0.05, ..., 0.95; p' = (p - p_b) / (p_0 - p_b), with p_b of the picture perturbed everywhere, NaN where
    p_0 - p_b is below `least`. `name@alpha` are the curve's points. A constant map points at nothing and deletes nothing.
    """
    constant = saliency.amax((1, 2, 3), keepdim=True) == saliency.amin((1, 2, 3), keepdim=True)
    keep = torch.where(constant, 1.0, scaled(blur_gaussian(1 - saliency, sigma)))
    alphas = torch.tensor([*ALPHAS, 2.0], device=images.device)  # the last: everything
    found = {}
    for name, perturb in perturbations.items():
        blank = perturb(images)

        def make(row: Tensor, which: Tensor, blank=blank) -> Tensor:
            return torch.where(keep[row] < alphas[which].view(-1, 1, 1, 1), blank[row], images[row])

        p = ask(classifier, make, targets, len(alphas), pictures)
        left = normalised(p[:, :-1], p[:, :1], p[:, -1:], least)  # alpha 0 deletes nothing
        found |= {name: left.mean(1), **{f"{name}@{alpha:g}": point for alpha, point in zip(ALPHAS, left.T)}}
    return {"": torch.stack([found[name] for name in perturbations]).nanmean(0), **found}


representativeness.protocol = {
    **{"class": "the row's, softmax", "normalisation": "(p - p_b) / (p_0 - p_b)", "better": "lower"},
}
