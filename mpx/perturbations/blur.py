"""What a pixel becomes where the mask is 0.

A perturbation is a function of the photos x (B,3,H,W) in [0,1], called once per batch, never per step. It returns

- their fully perturbed version (B,3,H,W), or
- a pyramid (B,K,3,H,W) from fully to least perturbed (the photo itself is added as the last level), or
- a function `rng -> (B,3,H,W)` where every step shall draw anew, or
- a site of its own, where something else than pixels is masked (layers.py, wavelets.py). `PixelPerturbation` is the site of the others.

A site knows the `shape` (C,h,w) of a row's mask, and has
  draw(rng) -> what one evaluation has at random, for `show`,
  still(rng) -> what is judged and looked at instead of a draw (optional),
  show(drawn, mask) -> the pictures that the network is given, and tensors (each of B rows) for `inside`,
  inside(*tensors) -> a context in which the network is asked,
  to_pixels(evidence (B,C,h,w)) -> (B,1,H,W) in [0,1], to be looked at.
Source of the constant, noise and blur operators: Fong & Vedaldi 2017, equation 2.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur


class PixelPerturbation:
    """The site of all that blends photos x (B,3,H,W) with what a perturbation returned for them."""

    per_row = ("photos", "levels")

    def __init__(self, x: Tensor, prepared):
        self.shape, self.photos = (1, *x.shape[2:]), x
        self.fresh = prepared if callable(prepared) else None
        self.levels = None if self.fresh else self._stack(prepared)
        if self.fresh:
            self.per_row = None  # what the function knows of its rows cannot be told

    def _stack(self, perturbed: Tensor) -> Tensor:
        pyramid = perturbed if perturbed.ndim == 5 else perturbed.unsqueeze(1)
        return torch.cat([pyramid, self.photos.unsqueeze(1)], 1)

    def draw(self, rng) -> Tensor:
        """(B,K,3,H,W) from fully perturbed to the photo."""
        return self.levels if self.fresh is None else self._stack(self.fresh(rng))

    def show(self, levels: Tensor, mask: Tensor) -> tuple[Tensor, tuple]:
        return blend(levels, mask), ()

    def inside(self):
        return nullcontext()

    def to_pixels(self, evidence: Tensor) -> Tensor:
        return evidence


def blend(levels: Tensor, mask: Tensor) -> Tensor:
    """Photos perturbed under a mask: linear interpolation between levels, so mask 1 gives the last level exactly.

    levels: (B,K,3,H,W) from fully perturbed to the photo; mask: (B,1,H,W) in [0,1] -> (B,3,H,W). Differentiable in the
    mask, also at 0 and 1 and, for a pyramid, in the amount of blur (equation 2's sigma).
    """
    if levels.shape[1] == 2:
        return torch.lerp(levels[:, 0], levels[:, 1], mask)
    place = mask * (levels.shape[1] - 1)
    below = place.detach().nan_to_num(0).long().clamp(0, levels.shape[1] - 2)  # (B,1,H,W); a NaN stays its row's own
    index = below.unsqueeze(1).expand(-1, 1, *levels.shape[2:])  # (B,1,3,H,W)
    return torch.lerp(levels.gather(1, index)[:, 0], levels.gather(1, index + 1)[:, 0], place - below)


def blur_gaussian(x: Tensor, sigma: float = 10.0, kernel_size: int | None = None) -> Tensor:
    """Gaussian blur of `sigma` pixels at the network's resolution, edges reflected.

    kernel_size: px, odd, to which the Gaussian is cut; None: 3 sigma each way, which leaves nothing out.
    """
    radius = math.ceil(3 * sigma) if kernel_size is None else kernel_size // 2
    if kernel_size is not None and (kernel_size % 2 == 0 or not 0 < radius < min(x.shape[-2:])):
        raise ValueError(
            f"kernel_size={kernel_size} must be odd, at least 3 and at most {2 * min(x.shape[-2:]) - 1}, for the image is "
            f"{x.shape[-2]}x{x.shape[-1]} px"
        )
    if not sigma > 0 or radius >= min(x.shape[-2:]):
        raise ValueError(
            f"sigma={sigma} needs a radius of {radius} px, but the image is {x.shape[-2]}x{x.shape[-1]} px: "
            f"choose sigma above 0 and below {(min(x.shape[-2:]) - 1) / 3:.1f}"
        )
    size, sigma = 2 * radius + 1, float(sigma)  # columns, then rows: torchvision convolves with all of a square
    return gaussian_blur(gaussian_blur(x, [1, size], [sigma, sigma]), [size, 1], [sigma, sigma])


def blur_median(x: Tensor, kernel_size: int = 11) -> Tensor:
    """Median over a square of `kernel_size` pixels (odd), edges replicated: what the predecessor trains on."""
    if kernel_size % 2 == 0 or not 1 <= kernel_size <= min(x.shape[-2:]):
        raise ValueError(
            f"kernel_size={kernel_size} must be odd, at least 1 and at most the image's side ({min(x.shape[-2:])} px)"
        )
    padded = F.pad(x, [kernel_size // 2] * 4, mode="replicate")
    planes = padded.flatten(0, 1)  # one plane at a time: the windows take kernel_size**2 times its memory
    windows = (p.unfold(0, kernel_size, 1).unfold(1, kernel_size, 1).flatten(2) for p in planes)
    return torch.stack([w.median(-1).values for w in windows]).view_as(x)


def blur_mean(x: Tensor, sigma: float = 5.0, kernel_size: int = 11) -> Tensor:
    """Average of a Gaussian and a median blur: what the predecessor's README describes and its pictures show."""
    return (blur_gaussian(x, sigma) + blur_median(x, kernel_size)) / 2


def blur_pyramid(x: Tensor, sigma: float = 10.0, levels: int = 8) -> Tensor:
    """Equation 2's blur: sigma grows as sigma*(1-m) at each pixel, read off `levels` equidistant blurs and the photo."""
    if levels < 1:
        raise ValueError(f"levels={levels} must be at least 1 blurred level below the photo")
    return torch.stack([blur_gaussian(x, sigma * (levels - k) / levels) for k in range(levels)], dim=1)


def constant(x: Tensor, color: list[float]) -> Tensor:
    """One colour everywhere, (r,g,b) in [0,1]: `black`, and `fade` to the average colour of ImageNet."""
    if (
        not isinstance(color, Sequence)
        or len(color) != 3
        or not all(isinstance(c, (int, float)) and 0 <= c <= 1 for c in color)
    ):
        raise ValueError(f"color={color} must be three numbers from 0 to 1: red, green, blue")
    return x.new_tensor(color).view(1, -1, 1, 1).expand_as(x)


def mean_color(x: Tensor) -> Tensor:
    """The photo's own average colour (equation 2's mu_0)."""
    return x.mean((2, 3), keepdim=True).expand_as(x)


def noise(x: Tensor, rng, sigma: float = 0.2, fresh: bool = True, mean: float = 0.5):
    """Gaussian noise around `mean`, standard deviation `sigma`, clipped to [0,1]; `fresh` draws it every step."""
    if not sigma >= 0:
        raise ValueError(f"perturbation.sigma={sigma} of the noise must be 0 or larger, in units of [0,1]")

    def draw(rng) -> Tensor:
        return (mean + sigma * rng.normal(*x.shape[1:])).clamp(0, 1)

    return draw if fresh else draw(rng)


def inpaint(x: Tensor, tile: int | None = None) -> Tensor:
    """Classical in-fill: each `tile` x `tile` square as scikit-image's biharmonic equation predicts it from around it.

    tile: px; None: an eighth of the shorter side.

    Four passes, each with every second square of every second row unknown, so that an unknown square always has known
    neighbours. The reference is fixed before the mask is known, as everything prepared once per batch must be.
    """
    from skimage.restoration import inpaint_biharmonic

    tile = max(1, min(x.shape[-2:]) // 8) if tile is None else tile
    if not 1 <= tile < min(x.shape[-2:]) / 2:
        raise ValueError(f"tile={tile} must be at least 1 and below half the image's side ({min(x.shape[-2:])} px)")
    rows, cols = (torch.arange(n) // tile % 2 for n in x.shape[-2:])
    filled = x.detach().cpu().clone()
    for photo, out in zip(filled.clone(), filled):
        for unknown in [(rows == i)[:, None] & (cols == j) for i in (0, 1) for j in (0, 1)]:
            guess = inpaint_biharmonic(photo.permute(1, 2, 0).numpy(), unknown.numpy(), channel_axis=-1)
            out[:, unknown] = torch.from_numpy(guess).to(out.dtype).permute(2, 0, 1)[:, unknown]
    return filled.clamp(0, 1).to(x.device)
