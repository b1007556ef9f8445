"""Masks whose cells are regions of the photo: superpixels, which follow its edges, and a vision transformer's patches."""

import torch
from torch import Tensor

from mpx.masks.grid import Grid


class Patches(Grid):
    """One cell for each square of `patch` pixels, constant inside: 16 for a ViT-B/16. null: mask_size cells per side."""

    per_row = ()

    def __init__(self, image_size, mask_size=28, patch: int | None = None, init="ones", device="cpu"):
        if patch is not None:
            if not 1 <= patch <= min(image_size) or any(side % patch for side in image_size):
                raise ValueError(
                    f"mask.patch={patch} px must divide the image's sides, {image_size[0]}x{image_size[1]} px, or be null"
                )
            mask_size = [side // patch for side in image_size]
        super().__init__(image_size, mask_size, upsample="nearest", init=init, device=device)


class Superpixels(Grid):
    """One value for each of a photo's SLIC segments (Achanta et al. 2012, by scikit-image), constant inside.

    n_segments: about how many; compactness: of SLIC, larger gives squarer ones; denoise: px, Gaussian smoothing of the photo
    before; sigma: px, Gaussian smoothing of the mask, for soft edges.

    A row's parameter is as long as SLIC's smallest segments allow, so that it does not depend on the other photos; what is
    beyond a photo's own number stays as it began. Regularizers see the mask's means over mask_size x mask_size cells, where
    a segment counts by its area.
    """

    per_row = ("labels",)

    def __init__(
        self, image_size, photos: Tensor, n_segments: int = 100, compactness: float = 10.0,
        denoise: float = 1.0, sigma: float = 0.0, mask_size=28, init="ones", device="cpu",
    ):  # fmt: skip
        pixels = image_size[0] * image_size[1]
        if tuple(photos.shape[2:]) != tuple(image_size):
            raise ValueError("mask=superpixels masks pixels, and this perturbation something else: choose another mask")
        if not 2 <= n_segments <= pixels // 4:
            raise ValueError(f"mask.n_segments={n_segments} must be from 2 to {pixels // 4}, a quarter of the pixels")
        if not compactness > 0 or not denoise >= 0:
            raise ValueError(f"mask.compactness={compactness} must be above 0 and mask.denoise={denoise} px at least 0")
        if init == "disc":
            raise ValueError("mask.init='disc' is for grids: superpixels start from 'ones', 'random' or a number in [0,1]")
        super().__init__(image_size, mask_size, upsample="nearest", init=init, device=device)
        self.pool = [(m / m.sum(0)).T for m in (self.rows, self.cols)]  # (h,H), (w,W)
        self.soft = Grid(image_size, list(image_size), sigma, "nearest", device=device) if sigma else None
        self.labels = torch.stack([_slic(photo, n_segments, compactness, denoise) for photo in photos]).to(device)  # (B,H*W)
        self.shape = (1, 1, _most(image_size, n_segments))

    def __call__(self, parameter: Tensor) -> Tensor:
        mask = parameter.flatten(1).gather(1, self.labels).view(-1, 1, *self.image_size)
        return self.soft(mask) if self.soft else mask

    def cells(self, parameter: Tensor) -> Tensor:
        rows, cols = self.pool
        return rows @ self(parameter) @ cols.T


def _slic(photo: Tensor, n_segments: int, compactness: float, denoise: float) -> Tensor:
    """(H*W,) number of each pixel's segment, from 0."""
    from skimage.segmentation import slic

    pixels = photo.detach().cpu().permute(1, 2, 0).numpy()
    return torch.from_numpy(slic(pixels, n_segments, compactness, sigma=denoise, start_label=0)).long().flatten()


def _most(image_size, n_segments: int) -> int:
    """How many segments SLIC can find: it starts from a regular grid, and merges what is below half its cells' size."""
    from skimage.util import regular_grid

    starts = [len(range(*axis.indices(side))) for axis, side in zip(regular_grid(image_size, n_segments), image_size)]
    pixels = image_size[0] * image_size[1]
    return pixels // max(1, int(0.5 * pixels / (starts[0] * starts[1])))
