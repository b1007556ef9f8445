"""Colours: one for all images, or each image's mean colour (Fong & Vedaldi 2017, equation 2's mu_0)."""

from collections.abc import Sequence

from torch import Tensor

from mpx.operators import per_channel
from mpx.perturbations.base import PerturbationContext


def constant(images: Tensor, context: PerturbationContext, color: float | Sequence[float]) -> Tensor:
    """One colour everywhere, in [0,1]: `black`, and `fade` to ImageNet's mean colour."""
    return filled_with(images, color)


def mean_color(images: Tensor, context: PerturbationContext) -> Tensor:
    """The mean colour of each image."""
    return images.mean((2, 3), keepdim=True).expand_as(images)


def filled_with(images: Tensor, color: float | Sequence[float]) -> Tensor:
    """Return a tensor like images (B,C,H,W) that has one colour everywhere: one number in [0,1], or one per channel."""
    numbers = per_channel(color, images, "color")
    if not all(0 <= number <= 1 for number in numbers):
        raise ValueError(f"color={color} must be from 0 to 1")
    return images.new_tensor(numbers).view(1, -1, 1, 1).expand_as(images)
