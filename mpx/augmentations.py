"""Augmentations: random changes that keep a mask from being an adversarial pattern, drawn anew at every step for each row.

An augmentation is a function `(x (B,C,H,W), context: AugmentationContext, **options) -> x`. Its YAML puts it under one of
two keys. `image_augmentations` change image and perturbed image alike, below the mask (C is the channels of all levels; no
gradient passes). `input_augmentations` change the network's input. The YAML owns a root key of the augmentation's name, its
strength; 0 turns it off.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.devices import to_device
from mpx.operators import per_channel, unwrap
from mpx.randomness import RowRandom


@dataclass(frozen=True)
class AugmentationContext:
    """What an augmentation may use besides the tensors of its B rows."""

    rng: RowRandom  # draws of these rows at this iteration and sample
    iteration: Tensor  # (B,) iterations done, of each row


def noise(x: Tensor, context: AugmentationContext, sigma: float, scale: float | Sequence[float] = 1.0) -> Tensor:
    """Add Gaussian noise (SmoothGrad, Smilkov et al. 2017) of standard deviation `sigma` in units of [0,1].

    scale: factor of sigma, one number or one per channel.
    """
    if not sigma >= 0:
        raise ValueError(f"noise={sigma} must be 0 or larger, in units of [0,1]")
    draw = context.rng.normal(*x.shape[1:])
    factors = per_channel(scale, x, "scale")
    return x + torch.cat([draw[:, c : c + 1] * (sigma * factor) for c, factor in enumerate(factors)], 1)


def flip(x: Tensor, context: AugmentationContext, probability: float, alternate: bool = False) -> Tensor:
    """Mirror left and right with this probability; with `alternate`, at every even iteration instead."""
    if not 0 <= probability <= 1:
        raise ValueError(f"flip={probability} is a probability: it must be from 0 to 1")
    if alternate:
        return torch.where(context.iteration.view(-1, 1, 1, 1) % 2 == 0, x.flip(-1), x)
    return torch.where(context.rng.uniform(1, 1, 1) < probability, x.flip(-1), x)


def jitter(x: Tensor, context: AugmentationContext, pixels: int) -> Tensor:
    """Translate by up to `pixels` along both axes, edges replicated: tau of Fong & Vedaldi 2017, equation 4."""
    if not 0 <= pixels < min(x.shape[-2:]):
        raise ValueError(f"jitter={pixels} px must be at least 0 and less than the image's side ({min(x.shape[-2:])} px)")
    corners = context.rng.integers(-pixels, pixels, 2) + pixels
    return _windows(F.pad(x, [pixels] * 4, mode="replicate"), corners, x.shape[-2:])


def crop(x: Tensor, context: AugmentationContext, pixels: int) -> Tensor:
    """Enlarge by `pixels` along both axes and crop at offsets from 0 to pixels-1 (Fong & Vedaldi 2017's code: 4)."""
    size = x.shape[-2:]
    if not 0 < pixels < min(size):
        raise ValueError(f"crop={pixels} px must be at least 1 and less than the image's side ({min(size)} px)")
    enlarged = F.interpolate(x, [side + pixels for side in size], mode="bilinear", align_corners=False)
    return _windows(enlarged, context.rng.integers(0, pixels - 1, 2), size)


def _windows(x: Tensor, corners: Tensor, size: Sequence[int]) -> Tensor:
    """Return the windows (B,C,h,w) of x (B,C,H,W) whose upper left pixels are `corners` (B,2), on the CPU."""
    h, w = size
    # rows of one seed at one iteration move alike: a view; compiled code would be compiled anew for each corner
    if not torch.compiler.is_compiling() and len(set(map(tuple, corners.tolist()))) == 1:
        top, left = corners[0].tolist()
        return x[..., top : top + h, left : left + w]
    tops, lefts = (corners if corners.device == x.device else to_device(corners, x.device)).T
    return x.unfold(2, h, 1).unfold(3, w, 1)[torch.arange(len(x), device=x.device), :, tops, lefts]


def moves_pixels(augmentation: Callable) -> bool:
    """Return whether an augmentation moves pixels, which a mask inside the network cannot follow."""
    return unwrap(augmentation) in (flip, jitter, crop)
