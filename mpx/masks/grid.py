"""Mask kinds: from the low-resolution parameter (B,1,h,w) to the mask (B,1,H,W) in [0,1]; 1 keeps a pixel, 0 perturbs it.

A mask kind knows the parameter's shape, its initial value (`init`: "ones", "random", "disc" or a number in [0,1]) and its
projection back to [0,1] after a step; clamping inside the graph would kill gradients at 0 and 1.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Grid:
    """A grid of cells, upsampled and then smoothed by a Gaussian of `sigma` pixels (0: not at all).

    Both are linear and separable, so the mask is R p C^T with two small matrices made once: the gradient flows through
    the smoothing, it costs nothing per step, and its backward is deterministic on every device.
    Fong & Vedaldi 2017, section 4.3 (28x28 cells, sigma 5).

    mask_size: cells per side, or (h,w), or None for one per pixel; image_size: (H,W) in pixels; upsample: "linear" or
    "nearest". straight_through: the gradient is as if the mask were only upsampled, not smoothed.
    """

    per_row = ()

    def __init__(
        self, image_size, mask_size=28, sigma: float = 0.0, upsample: str = "linear", init="ones",
        straight_through: bool = False, device="cpu",
    ):  # fmt: skip
        mask_size = list(image_size) if mask_size is None else mask_size
        size = list(mask_size) if isinstance(mask_size, Sequence) else [mask_size] * 2
        if len(size) != 2 or any(not isinstance(n, int) or not 1 <= n <= side for n, side in zip(size, image_size)):
            raise ValueError(
                f"mask_size={mask_size} must be one or two whole numbers from 1 to the image's side "
                f"({image_size[0]}x{image_size[1]} px), or null for one cell per pixel"
            )
        if upsample not in ("linear", "nearest"):
            raise ValueError(f"mask.upsample={upsample!r} must be 'linear' or 'nearest'")
        if not sigma >= 0:
            raise ValueError(f"mask.sigma={sigma} px must be 0 (no smoothing) or larger")
        constant = isinstance(init, (int, float)) and 0 <= init <= 1
        if not constant and init not in ("ones", "random", "disc"):
            raise ValueError(f"mask.init={init!r} must be 'ones', 'random', 'disc' or a number from 0 to 1")
        self.shape = (1, *size)  # of one row's parameter
        self.image_size, self.init = tuple(image_size), init
        self.rows, self.cols = (
            _resample(n, side, sigma, upsample).to(device) for n, side in zip(size, image_size)
        )  # (H,h), (W,w)
        self.plain = straight_through and [
            _resample(n, side, 0.0, upsample).to(device) for n, side in zip(size, image_size)
        ]  # what the gradient believes

    def __call__(self, parameter: Tensor) -> Tensor:
        mask = self.rows @ parameter @ self.cols.T
        if not self.plain:
            return mask
        rows, cols = self.plain
        upsampled = rows @ parameter @ cols.T
        return mask.detach() + (upsampled - upsampled.detach())

    def start(self, rng) -> Tensor:
        """Initial parameter (B,1,h,w); "disc" starts from ones and is then searched for by the solver."""
        draw = rng.uniform(*self.shape)
        return draw if self.init == "random" else torch.full_like(draw, 1.0 if isinstance(self.init, str) else self.init)

    def project_(self, parameter: Tensor) -> None:
        parameter.clamp_(0, 1)

    def disc(self, radius: float) -> Tensor:
        """Parameter (1,1,h,w) of a centred disc of `radius` pixels perturbed, everything else kept."""
        y, x = ((torch.arange(n) + 0.5) * side / n - side / 2 for n, side in zip(self.shape[1:], self.image_size))
        return (torch.hypot(y[:, None], x) > radius).to(self.rows)[None, None]


def _resample(cells: int, pixels: int, sigma: float, upsample: str) -> Tensor:
    """(pixels, cells) matrix of upsampling followed by Gaussian smoothing with reflected edges."""
    mode = {"mode": "linear", "align_corners": False} if upsample == "linear" else {"mode": "nearest"}
    basis = F.interpolate(torch.eye(cells, dtype=torch.float64)[None], size=pixels, **mode)  # (1,cells,pixels)
    if sigma > 0:
        radius = math.ceil(3 * sigma)
        if radius >= pixels:
            raise ValueError(f"mask.sigma={sigma} needs a radius of {radius} px, but the image's side is {pixels} px")
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
        basis = F.pad(basis, [radius, radius], mode="reflect")
        basis = F.conv1d(basis.transpose(0, 1), (kernel / kernel.sum())[None, None]).transpose(0, 1)
    return basis[0].T.float()
