"""Blurs: Gaussian, median, the mean of both, and a pyramid of Gaussian blurs (Fong & Vedaldi 2017, equation 2)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional

from mpx.operators import per_channel
from mpx.perturbations.base import PerturbationContext


def blur_gaussian(
    images: Tensor, context: PerturbationContext, sigma: float | Sequence[float] = 10.0, kernel_size: int | None = None
) -> Tensor:
    """Gaussian blur of `sigma` pixels at the network's resolution; kernel_size: see `gaussian_blur`.

    sigma: also one number per channel; a channel of 0 stays as it is.
    """
    if not isinstance(sigma, Sequence):
        return gaussian_blur(images, sigma, kernel_size)
    numbers = per_channel(sigma, images, "perturbation.sigma")
    if not any(numbers):
        raise ValueError(f"perturbation.sigma={sigma} blurs no channel: at least one must be above 0")
    planes = zip(images.split(1, 1), numbers)
    return torch.cat([gaussian_blur(plane, s, kernel_size) if s else plane for plane, s in planes], 1)


def blur_median(images: Tensor, context: PerturbationContext, kernel_size: int = 11) -> Tensor:
    """Median over a square of `kernel_size` pixels (odd), as jacobgil/pytorch-explain-black-box optimizes."""
    return median_blur(images, kernel_size)


def blur_mean(images: Tensor, context: PerturbationContext, sigma: float = 5.0, kernel_size: int = 11) -> Tensor:
    """Mean of a Gaussian and a median blur, as in the pictures of jacobgil/pytorch-explain-black-box."""
    return (gaussian_blur(images, sigma) + median_blur(images, kernel_size)) / 2


def blur_pyramid(images: Tensor, context: PerturbationContext, sigma: float = 10.0, levels: int = 8) -> Tensor:
    """Gaussian blur whose sigma grows as sigma*(1-m) at each pixel, interpolated between `levels` blurs and the image."""
    if levels < 1:
        raise ValueError(f"levels={levels} must be at least 1 blurred level below the photo")
    return torch.stack([gaussian_blur(images, sigma * (levels - k) / levels) for k in range(levels)], dim=1)


def gaussian_blur(images: Tensor, sigma: float, kernel_size: int | None = None) -> Tensor:
    """Return images (B,C,H,W) convolved with a Gaussian of standard deviation `sigma` pixels, edges reflected.

    kernel_size: px, odd, to which the Gaussian is cut; None for 3 sigma each way, beyond which nothing is left.
    """
    side = min(images.shape[-2:])
    title = f"{images.shape[-2]}x{images.shape[-1]} px"
    radius = math.ceil(3 * sigma) if kernel_size is None else kernel_size // 2
    if kernel_size is not None and (kernel_size % 2 == 0 or not 0 < radius < side):
        raise ValueError(
            f"kernel_size={kernel_size} must be odd, at least 3 and at most {2 * side - 1}, because the image is {title}"
        )
    if not sigma > 0 or radius >= side:
        raise ValueError(
            f"sigma={sigma} needs a radius of {radius} px, but the image is {title}: "
            f"choose sigma above 0 and below {(side - 1) / 3:.1f}"
        )
    size, deviation = 2 * radius + 1, [float(sigma)] * 2
    # rows and columns one after the other, because torchvision convolves with the whole square
    blurred = functional.gaussian_blur(images, [1, size], deviation)
    return functional.gaussian_blur(blurred, [size, 1], deviation)


def median_blur(images: Tensor, kernel_size: int) -> Tensor:
    """Return the median of images (B,C,H,W) over a square of `kernel_size` pixels (odd), edges replicated."""
    side = min(images.shape[-2:])
    if kernel_size % 2 == 0 or not 1 <= kernel_size <= side:
        raise ValueError(f"kernel_size={kernel_size} must be odd, at least 1 and at most the image's side ({side} px)")
    padded = F.pad(images, [kernel_size // 2] * 4, mode="replicate")
    planes = padded.flatten(0, 1)  # one plane at a time: the windows take kernel_size**2 times its memory
    windows = (plane.unfold(0, kernel_size, 1).unfold(1, kernel_size, 1).flatten(2) for plane in planes)
    return torch.stack([w.median(-1).values for w in windows]).view_as(images)
