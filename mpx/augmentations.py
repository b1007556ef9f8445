"""Random changes that keep a mask from being an adversarial pattern; new ones at every step, from each row's own generator.

An augment maps (x (B,C,H,W), rng) to x. Its YAML puts it under `image_augmentations`, where it moves what lies under the mask (photo
and perturbed photo alike, C = 3 per level, no gradient passes), or under `input_augmentations`, where it changes the picture that the
network sees. It owns a root key of its own name, its strength, and 0 turns it off.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def noise(x: Tensor, rng, sigma: float, scale: list[float] = (1.0, 1.0, 1.0)) -> Tensor:
    """Adds Gaussian noise (SmoothGrad, Smilkov et al. 2017), `sigma` in units of [0,1], times `scale` per channel."""
    if not sigma >= 0:
        raise ValueError(f"noise={sigma} must be 0 or larger, in units of [0,1]")
    draw = rng.normal(*x.shape[1:])
    return x + torch.cat([draw[:, c : c + 1] * (sigma * s) for c, s in enumerate(scale)], 1)


def flip(x: Tensor, rng, probability: float, iteration: Tensor | None = None, alternate: bool = False) -> Tensor:
    """Mirrors left and right with this probability, the mask with the photo; or `alternate`: at every even iteration."""
    if not 0 <= probability <= 1:
        raise ValueError(f"flip={probability} is a probability: it must be from 0 to 1")
    if alternate:
        return torch.where(iteration.view(-1, 1, 1, 1) % 2 == 0, x.flip(-1), x)
    return torch.where(rng.uniform(1, 1, 1) < probability, x.flip(-1), x)


def jitter(x: Tensor, rng, pixels: int) -> Tensor:
    """Moves by up to `pixels` each way along both axes, edges replicated: tau of Fong & Vedaldi 2017, equation 4."""
    if not 0 <= pixels < min(x.shape[-2:]):
        raise ValueError(f"jitter={pixels} px must be at least 0 and less than the image's side ({min(x.shape[-2:])} px)")
    h, w = x.shape[-2:]
    out = torch.empty_like(x)
    for old, new, (dy, dx) in zip(x, out, rng.integers(-pixels, pixels, 2).tolist()):
        top, bottom, left, right = max(0, -dy), h - max(0, dy), max(0, -dx), w - max(0, dx)
        new[:, top:bottom, left:right] = old[:, top + dy : bottom + dy, left + dx : right + dx]
        new[:, top:bottom, :left] = new[:, top:bottom, left, None]
        new[:, top:bottom, right:] = new[:, top:bottom, right - 1, None]
        new[:, :top], new[:, bottom:] = new[:, top, None], new[:, bottom - 1, None]
    return out


def crop(x: Tensor, rng, pixels: int) -> Tensor:
    """Enlarges by `pixels` along both axes and cuts out at offsets from 0 to pixels-1 (Fong & Vedaldi 2017's code: 4)."""
    size = x.shape[-2:]
    if not 0 < pixels < min(size):
        raise ValueError(f"crop={pixels} px must be at least 1 and less than the image's side ({min(size)} px)")
    out = torch.empty_like(x)
    for old, new, (top, left) in zip(x.unsqueeze(1), out, rng.integers(0, pixels - 1, 2).tolist()):
        canvas = F.interpolate(old, [side + pixels for side in size], mode="bilinear", align_corners=False)
        new[:] = canvas[0, :, top : top + size[0], left : left + size[1]]
    return out


MOVES = (flip, jitter, crop)  # against what stays where it is
