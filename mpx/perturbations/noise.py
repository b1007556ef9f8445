"""Noise around grey, or around a random colour."""

from collections.abc import Callable, Sequence

from torch import Tensor

from mpx.operators import per_channel
from mpx.perturbations.base import PerturbationContext
from mpx.randomness import RowRandom


def noise(
    images: Tensor,
    context: PerturbationContext,
    sigma: float | Sequence[float] | None = 0.2,
    redraw: bool = True,
    mean: float | Sequence[float] | None = 0.5,
) -> Tensor | Callable[[RowRandom], Tensor]:
    """Gaussian noise of standard deviation `sigma` around `mean`, clamped to [0,1] (Fong & Vedaldi 2017, equation 2).

    sigma, mean: one number, or one per channel; None: those of each image's values. redraw: draw it anew at every
    evaluation; otherwise once per image.
    """
    values = images.flatten(1)
    deviation = values.std(1).view(-1, 1, 1, 1) if sigma is None else _deviation(sigma, images)
    centre = values.mean(1).view(-1, 1, 1, 1) if mean is None else _centre(mean, images)

    def draw(rng: RowRandom) -> Tensor:
        return (centre + deviation * rng.normal(*images.shape[1:])).clamp(0, 1)

    return draw if redraw else draw(context.rng)


def random_color(
    images: Tensor, context: PerturbationContext, sigma: float | Sequence[float] = 0.2
) -> Callable[[RowRandom], Tensor]:
    """One random colour with Gaussian noise of `sigma`, clamped to [0,1] (Chang et al. 2019, "random")."""
    deviation = _deviation(sigma, images)

    def draw(rng: RowRandom) -> Tensor:
        return (rng.uniform(images.shape[1], 1, 1) + deviation * rng.normal(*images.shape[1:])).clamp(0, 1)

    return draw


def _centre(mean: float | Sequence[float], images: Tensor) -> Tensor:
    """Return the mean (C,1,1)."""
    return images.new_tensor(per_channel(mean, images, "perturbation.mean")).view(-1, 1, 1)


def _deviation(sigma: float | Sequence[float], images: Tensor) -> Tensor:
    """Return the standard deviation (C,1,1)."""
    numbers = per_channel(sigma, images, "perturbation.sigma")
    if not all(number >= 0 for number in numbers):
        raise ValueError(f"perturbation.sigma={sigma} of the noise must be 0 or larger, in units of [0,1]")
    return images.new_tensor(numbers).view(-1, 1, 1)
