"""Masks whose cells are segments: superpixels, which follow an image's edges (SLIC, Achanta et al. 2012), or given ones."""

import torch
from torch import Tensor

from mpx.masks.base import MaskContext
from mpx.masks.grid import Grid, resampling


class Segments(Grid):
    """One value for each segment of an image, constant inside.

    labels: (1,H,W) or (B,H,W) the index of each pixel's segment, from 0 to count-1. sigma: px, Gaussian smoothing of the
    mask, 0 for sharp edges.

    Regularizers see the mask's means over mask_size x mask_size cells, where a segment counts by its area.
    """

    row_tensors = (*Grid.row_tensors, "labels")
    labels: Tensor  # (B,H*W) index of each pixel's segment
    pool_rows: Tensor  # (h,H) means over the pixels of a cell
    pool_columns: Tensor  # (w,W)
    smooth_rows: Tensor | None  # (H,H), where sigma is above 0
    smooth_columns: Tensor | None  # (W,W)

    def __init__(
        self,
        context: MaskContext,
        labels: Tensor,
        count: int,
        sigma: float = 0.0,
        mask_size: int | list[int] | None = 28,
        init: str | float = "ones",
    ):
        if init == "disc":
            raise ValueError("mask.init='disc' is for grids: segments start from 'ones', 'random' or a number in [0,1]")
        super().__init__(context, mask_size, upsample="nearest", init=init)
        labels = labels.to(context.device).expand(len(context.images), *context.size)
        self.register_buffer("labels", labels.flatten(1), persistent=False)
        for name, matrix in ("pool_rows", self.row_matrix), ("pool_columns", self.column_matrix):
            self.register_buffer(name, (matrix / matrix.sum(0)).T, persistent=False)
        rows, columns = resampling(context.size, context, sigma, "nearest") if sigma else (None, None)
        self.register_buffer("smooth_rows", rows, persistent=False)
        self.register_buffer("smooth_columns", columns, persistent=False)
        self.shape = (1, 1, count)

    def forward(self, parameter: Tensor) -> Tensor:
        mask = parameter.flatten(1).gather(1, self.labels).view(-1, 1, *self.image_size)
        if self.smooth_rows is None or self.smooth_columns is None:
            return mask
        return self.smooth_rows @ mask @ self.smooth_columns.T

    def cells(self, parameter: Tensor) -> Tensor:
        return self.pool_rows @ self(parameter) @ self.pool_columns.T


class Superpixels(Segments):
    """One value for each of an image's SLIC segments, constant inside.

    n_segments: approximate number. compactness: of SLIC, larger values give squarer segments. denoise: px, Gaussian
    smoothing of the image before the segmentation. sigma: px, Gaussian smoothing of the mask, 0 for sharp edges.

    The length of a row's parameter is the largest number of segments that SLIC can return, so it does not depend on the
    other images; values beyond an image's own number are unused.
    """

    def __init__(
        self,
        context: MaskContext,
        n_segments: int = 100,
        compactness: float = 10.0,
        denoise: float = 1.0,
        sigma: float = 0.0,
        mask_size: int | list[int] | None = 28,
        init: str | float = "ones",
    ):
        images = context.images
        pixels = context.size[0] * context.size[1]
        if tuple(images.shape[2:]) != context.size:
            raise ValueError("mask=superpixels needs a perturbation of pixels: choose another mask or perturbation")
        if not 2 <= n_segments <= pixels // 4:
            raise ValueError(f"mask.n_segments={n_segments} must be from 2 to {pixels // 4}, a quarter of the pixels")
        if not compactness > 0 or not denoise >= 0:
            raise ValueError(f"mask.compactness={compactness} must be above 0 and mask.denoise={denoise} px at least 0")
        labels = torch.stack([slic_labels(image, n_segments, compactness, denoise) for image in images])
        super().__init__(context, labels, _max_segments(context.size, n_segments), sigma, mask_size, init)


def slic_labels(image: Tensor, n_segments: int, compactness: float, denoise: float, adaptive: bool = False) -> Tensor:
    """Return the index (H,W) of each pixel's segment, from 0, on the CPU; adaptive: each adapts its compactness (SLICO)."""
    from skimage.segmentation import slic

    pixels = image.detach().cpu().permute(1, 2, 0).numpy()
    labels = slic(pixels, n_segments, compactness, sigma=denoise, start_label=0, slic_zero=adaptive)
    return torch.from_numpy(labels).long()


def _max_segments(image_size: tuple[int, int], n_segments: int) -> int:
    """Return the largest number of segments: SLIC starts from a regular grid, and merges segments below half a cell."""
    from skimage.util import regular_grid

    starts = [len(range(*axis.indices(side))) for axis, side in zip(regular_grid(image_size, n_segments), image_size)]
    pixels = image_size[0] * image_size[1]
    return pixels // max(1, int(0.5 * pixels / (starts[0] * starts[1])))
