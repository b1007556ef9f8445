"""Noise around grey, or around a random colour."""

from collections.abc import Callable

from torch import Tensor

from mpx.perturbations.base import PerturbationContext
from mpx.randomness import RowRandom


def noise(
    images: Tensor, context: PerturbationContext, sigma: float = 0.2, redraw: bool = True, mean: float = 0.5
) -> Tensor | Callable[[RowRandom], Tensor]:
    """Gaussian noise of standard deviation `sigma` around `mean`, clamped to [0,1] (Fong & Vedaldi 2017, equation 2).

    redraw: draw it anew at every evaluation; otherwise once per image.
    """
    if not sigma >= 0:
        raise ValueError(f"perturbation.sigma={sigma} of the noise must be 0 or larger, in units of [0,1]")

    def draw(rng: RowRandom) -> Tensor:
        return (mean + sigma * rng.normal(*images.shape[1:])).clamp(0, 1)

    return draw if redraw else draw(context.rng)


def random_color(images: Tensor, context: PerturbationContext, sigma: float = 0.2) -> Callable[[RowRandom], Tensor]:
    """One random colour with Gaussian noise of `sigma`, clamped to [0,1] (Chang et al. 2019, "random")."""

    def draw(rng: RowRandom) -> Tensor:
        return (rng.uniform(images.shape[1], 1, 1) + sigma * rng.normal(*images.shape[1:])).clamp(0, 1)

    return draw
