"""The contract of a mask: from a low-resolution parameter to the mask (B,*mask_shape) in [0,1]; 1 keeps, 0 perturbs.

A mask is a class that is called as `mask(context: MaskContext, **options)` once per batch. Its parameter is learnt: the mask
projects the parameter back after each step, because clamping inside the graph would kill gradients at 0 and 1.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mpx.operators import check_range, check_shape, describe, dotted_name
from mpx.randomness import RowRandom


@dataclass(frozen=True)
class MaskContext:
    """The B rows that a mask is made for."""

    mask_shape: tuple[int, ...]  # (C,h,w) of what one row's perturbation masks: (1,H,W) for pixels
    images: Tensor  # (B,C,H,W) in [0,1]
    game: str = "deletion"
    areas: Tensor | None = None  # (B,) the area requested for each row, a share of the image; None without area=

    @property
    def size(self) -> tuple[int, int]:
        """(h,w) of the masked elements: for pixels the image's height and width."""
        h, w = self.mask_shape[1:]
        return h, w

    @property
    def device(self) -> torch.device:
        return self.images.device


class Mask(nn.Module):
    """The masks of B rows.

    shape: of one row's parameter. count: number of masks that `sample` returns; the first is the result.
    is_random: whether `sample` draws. row_tensors: names of the buffers that hold one entry per row; a subclass inherits the
    names and extends them by its own. starts_from_disc: whether the initial mask is the smallest sufficient `disc`.
    """

    row_tensors: ClassVar[tuple[str, ...]] = ()
    count: ClassVar[int] = 1
    is_random: ClassVar[bool] = False
    shape: tuple[int, ...] = ()
    starts_from_disc: bool = False

    def initial(self, rng: RowRandom) -> Tensor:
        """Return the first parameter (B,*shape), normally that of the mask that keeps everything.

        The mask's gradient must not vanish there, or the search cannot begin.
        """
        raise NotImplementedError

    def forward(self, parameter: Tensor) -> Tensor:
        """Map the parameter (B,*shape) to the mask (B,*mask_shape) in [0,1]; a random mask returns its mean."""
        raise NotImplementedError

    @torch.no_grad()
    def project_(self, parameter: Tensor) -> None:
        """Move the parameter back into its allowed set, in place; by default [0,1]."""
        parameter.clamp_(0, 1)

    def sample(self, parameter: Tensor, rng: RowRandom) -> list[Tensor]:
        """Return the `count` masks of one evaluation, (B,*mask_shape) each; by default the mask itself."""
        return [self(parameter)]

    def cells(self, parameter: Tensor) -> Tensor:
        """Return the mask at its own resolution for regularizers, (B,1,h,w) in [0,1]; by default the parameter.

        The axes are those of the image. A parameter that is no such grid needs cells of its own, at least `self(parameter)`.
        """
        return parameter

    def padded(self, parameter: Tensor) -> Tensor:
        """Return the mask with a frame around the image, for masks that reach beyond it; by default without a frame."""
        return self(parameter)

    def crop(self, padded: Tensor) -> Tensor:
        """Return the part (B,*mask_shape) of `padded` that lies in the image."""
        return padded

    def inside(self, padded: Tensor) -> int:
        """Return how many of one row's `padded` values lie in the image."""
        return padded[0].numel()

    def disc(self, radius: float) -> Tensor:
        """Return the parameter (1,*shape) that perturbs a disc of `radius` pixels and keeps the rest."""
        raise ValueError("mask.init=disc is for grids of cells: choose 'ones', 'random' or a number from 0 to 1")

    @staticmethod
    def gathered(parts: Sequence[tuple["Mask", int]]) -> "Mask":
        """Return the mask whose k-th row is row `index` of `mask`, for the k-th pair (mask, index) of `parts`.

        The masks are of one class and have equal options. They stay as they are.
        """
        mask = copy.copy(parts[0][0])
        mask._buffers = dict(mask._buffers)  # copy.copy shares the dictionary
        for name in mask.row_tensors:
            mask._buffers[name] = torch.stack([part.get_buffer(name)[row] for part, row in parts])
        return mask


@torch.no_grad()
def check_mask(mask: Mask, parameter: Tensor, mask_shape: tuple[int, ...]) -> None:
    """Raise ValueError where a mask's shapes or values at a first parameter (B,*shape) are not those of the contract."""
    rows, kind = len(parameter), type(mask)
    rendered, cells = mask(parameter), mask.cells(parameter)
    check_shape("mask", kind, rendered, "(B,*mask_shape)", (rows, *mask_shape))
    check_range("mask", kind, rendered)
    if cells.ndim != 4 or cells.shape[:2] != (rows, mask_shape[0]):
        raise ValueError(
            f"cells of mask {dotted_name(kind)} returned {describe(cells)}: regularizers need ({rows},{mask_shape[0]},h,w): "
            "let cells(parameter) return the mask at its own resolution, or self(parameter)"
        )
    check_range("cells of mask", kind, cells, ": let cells(parameter) map the parameter to [0,1]")
