"""A grid of cells, upsampled and then smoothed by a Gaussian (Fong & Vedaldi 2017, section 4.3: 28x28 cells, sigma 5 px)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.masks.base import Mask, MaskContext
from mpx.randomness import RowRandom


class Grid(Mask):
    """A mask R p C^T of the parameter p (B,1,h,w), with the matrices R (H,h) and C (W,w).

    Upsampling and smoothing are linear and separable, so two small matrices do both. They are made once: smoothing costs
    nothing per step, and its backward is deterministic on every device.

    mask_size: cells per side, (h,w), or None for one cell per pixel. sigma: px, standard deviation of the smoothing, 0 for
    none. upsample: "linear" or "nearest". init: "ones", "random", "disc" or a number from 0 to 1. center: (x,y) of the disc,
    as shares of the image's sides. straight_through: use the gradient of the mask that is upsampled but not smoothed.
    """

    row_matrix: Tensor  # (H,h)
    column_matrix: Tensor  # (W,w)
    unsmoothed_rows: Tensor | None  # (H,h), with straight_through
    unsmoothed_columns: Tensor | None  # (W,w), with straight_through

    def __init__(
        self,
        context: MaskContext,
        mask_size: int | list[int] | None = 28,
        sigma: float = 0.0,
        upsample: str = "linear",
        init: str | float = "ones",
        center: Sequence[float] = (0.5, 0.5),
        straight_through: bool = False,
    ):
        super().__init__()
        size = cells_per_side(mask_size, context.size)
        if upsample not in ("linear", "nearest"):
            raise ValueError(f"mask.upsample={upsample!r} must be 'linear' or 'nearest'")
        if not sigma >= 0:
            raise ValueError(f"mask.sigma={sigma} px must be 0 (no smoothing) or larger")
        is_number = isinstance(init, (int, float)) and 0 <= init <= 1
        if not is_number and init not in ("ones", "random", "disc"):
            raise ValueError(f"mask.init={init!r} must be 'ones', 'random', 'disc' or a number from 0 to 1")
        if len(center) != 2 or not all(0 <= share <= 1 for share in center):
            raise ValueError(f"mask.center={list(center)} must be [x,y], two shares of the image's sides from 0 to 1")
        self.shape = (1, *size)
        self.center = center
        self.image_size = context.size
        self.init = init
        self.starts_from_disc = init == "disc"
        rows, columns = resampling(size, context, sigma, upsample)
        self.register_buffer("row_matrix", rows, persistent=False)
        self.register_buffer("column_matrix", columns, persistent=False)
        unsmoothed = resampling(size, context, 0.0, upsample) if straight_through else (None, None)
        self.register_buffer("unsmoothed_rows", unsmoothed[0], persistent=False)
        self.register_buffer("unsmoothed_columns", unsmoothed[1], persistent=False)

    def forward(self, parameter: Tensor) -> Tensor:
        mask = self.row_matrix @ parameter @ self.column_matrix.T
        if self.unsmoothed_rows is None or self.unsmoothed_columns is None:
            return mask
        upsampled = self.unsmoothed_rows @ parameter @ self.unsmoothed_columns.T
        return mask.detach() + (upsampled - upsampled.detach())

    def initial(self, rng: RowRandom) -> Tensor:
        """Return the first parameter (B,*shape); ones where a disc replaces it."""
        if self.init == "random":
            return rng.uniform(*self.shape)
        value = 1.0 if isinstance(self.init, str) else float(self.init)
        return torch.full((rng.batch_size, *self.shape), value, dtype=torch.float32, device=rng.device)

    def disc(self, radius: float) -> Tensor:
        sides = zip(self.shape[1:], self.image_size, reversed(self.center))
        y, x = ((torch.arange(n) + 0.5) * side / n - side * middle for n, side, middle in sides)
        return (torch.hypot(y[:, None], x) > radius).to(self.row_matrix)[None, None]


def cells_per_side(mask_size: int | Sequence[int] | None, image_size: tuple[int, int]) -> list[int]:
    """Return [h,w] cells for the option `mask_size`; at most one cell per pixel."""
    mask_size = list(image_size) if mask_size is None else mask_size
    size = list(mask_size) if isinstance(mask_size, Sequence) else [mask_size] * 2
    if len(size) != 2 or any(type(n) is not int or not 1 <= n <= side for n, side in zip(size, image_size)):
        raise ValueError(
            f"mask_size={mask_size} must be one or two whole numbers from 1 to the image's side "
            f"({image_size[0]}x{image_size[1]} px), or null for one cell per pixel"
        )
    return size


def resampling(
    cells: Sequence[int], context: MaskContext, sigma: float = 0.0, upsample: str = "linear"
) -> tuple[Tensor, Tensor]:
    """Return the matrices (H,h) and (W,w) that upsample h x w cells to the mask and smooth by `sigma` pixels."""
    rows, columns = (_matrix(n, side, sigma, upsample).to(context.device) for n, side in zip(cells, context.size))
    return rows, columns


def _matrix(cells: int, pixels: int, sigma: float, upsample: str) -> Tensor:
    """Return the matrix (pixels, cells) of upsampling followed by Gaussian smoothing with reflected edges."""
    identity = torch.eye(cells, dtype=torch.float64)[None]
    if upsample == "linear":
        basis = F.interpolate(identity, size=pixels, mode="linear", align_corners=False)  # (1,cells,pixels)
    else:
        basis = F.interpolate(identity, size=pixels, mode="nearest")
    if sigma > 0:
        radius = math.ceil(3 * sigma)
        if radius >= pixels:
            raise ValueError(f"mask.sigma={sigma} needs a radius of {radius} px, but the image's side is {pixels} px")
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
        basis = F.pad(basis, [radius, radius], mode="reflect")
        basis = F.conv1d(basis.transpose(0, 1), (kernel / kernel.sum())[None, None]).transpose(0, 1)
    return basis[0].T.float()
