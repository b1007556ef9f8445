"""At random a blur or a colour with noise, so that no mask fits one of them only (Dabkowski & Gal 2017)."""

from collections.abc import Callable

import torch
from torch import Tensor

from mpx.perturbations.base import PerturbationContext
from mpx.perturbations.blur import gaussian_blur
from mpx.randomness import RowRandom


def mix(
    images: Tensor,
    context: PerturbationContext,
    sigma: float = 11.0,
    blur_probability: float = 0.5,
    spread: float = 0.33,
    noise: float = 0.055,
) -> Callable[[RowRandom], Tensor]:
    """At each evaluation the blurred image or a random colour with noise.

    sigma: px, of the blur. spread: colours are uniform within spread/2 of mid-grey. noise: its standard deviation, in units
    of [0,1].
    """
    if not 0 <= blur_probability <= 1:
        raise ValueError(f"perturbation.blur_probability={blur_probability} must be from 0 to 1")
    blurred = gaussian_blur(images, sigma)

    def draw(rng: RowRandom) -> Tensor:
        chooses_blur = rng.uniform(1, 1, 1) < blur_probability
        color = 0.5 + spread * (rng.uniform(images.shape[1], 1, 1) - 0.5) + noise * rng.normal(*images.shape[1:])
        return torch.where(chooses_blur, blurred, color.clamp(0, 1))

    return draw
