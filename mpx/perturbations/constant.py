"""Colours: one for all images, or each image's mean colour (Fong & Vedaldi 2017, equation 2's mu_0)."""

from collections.abc import Sequence

from torch import Tensor

from mpx.perturbations.base import PerturbationContext


def constant(images: Tensor, context: PerturbationContext, color: Sequence[float]) -> Tensor:
    """One colour everywhere, (r,g,b) in [0,1]: `black`, and `fade` to ImageNet's mean colour."""
    return filled_with(images, color)


def mean_color(images: Tensor, context: PerturbationContext) -> Tensor:
    """The mean colour of each image."""
    return images.mean((2, 3), keepdim=True).expand_as(images)


def filled_with(images: Tensor, color: Sequence[float]) -> Tensor:
    """Return a tensor like images (B,3,H,W) that has one colour (r,g,b) in [0,1] everywhere."""
    is_color = (
        isinstance(color, Sequence) and len(color) == 3 and all(isinstance(c, (int, float)) and 0 <= c <= 1 for c in color)
    )
    if not is_color:
        raise ValueError(f"color={color} must be three numbers from 0 to 1: red, green, blue")
    return images.new_tensor(color).view(1, -1, 1, 1).expand_as(images)
