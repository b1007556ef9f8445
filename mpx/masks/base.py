"""The contract of a mask: from a low-resolution parameter to the mask (B,*mask_shape) in [0,1]; 1 keeps, 0 perturbs.

A mask is a class that is called as `mask(context: MaskContext, **options)` once per batch. Its parameter is learnt: it projects
the parameter back after each step, for clamping inside the graph would kill gradients at 0 and 1.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mpx.randomness import RowRandom


@dataclass(frozen=True)
class MaskContext:
    """What a mask may use of the B rows that it is made for."""

    mask_shape: tuple[int, ...]  # (C,h,w) of what one row's perturbation masks: (1,H,W) for pixels
    images: Tensor  # (B,C,H,W) in [0,1]
    game: str = "deletion"
    areas: Tensor | None = None  # (B,) share of the image asked of each row; None where the method asks for none

    @property
    def size(self) -> tuple[int, int]:
        """(h,w) of what is masked: the image's height and width where pixels are."""
        h, w = self.mask_shape[1:]
        return h, w

    @property
    def device(self) -> torch.device:
        return self.images.device


class Mask(nn.Module):
    """The masks of B rows.

    shape: of one row's parameter. count: number of masks that `sample` returns, of which the first is the result.
    is_random: whether `sample` draws. row_tensors: names of the attributes that are tensors of B rows; a subclass inherits it
    and extends it by what it adds. starts_from_disc: whether the search begins with the smallest sufficient `disc`.
    """

    row_tensors: ClassVar[tuple[str, ...]] = ()
    count: ClassVar[int] = 1
    is_random: ClassVar[bool] = False
    shape: tuple[int, ...]
    starts_from_disc: bool = False

    def initial(self, rng: RowRandom) -> Tensor:
        """Return the first parameter (B,*shape)."""
        raise NotImplementedError

    def forward(self, parameter: Tensor) -> Tensor:
        """Map the parameter (B,*shape) to the mask (B,*mask_shape) in [0,1]; of a random mask, to its mean."""
        raise NotImplementedError

    @torch.no_grad()
    def project_(self, parameter: Tensor) -> None:
        """Move the parameter back to where it is allowed, in place; by default to [0,1]."""
        parameter.clamp_(0, 1)

    def sample(self, parameter: Tensor, rng: RowRandom) -> list[Tensor]:
        """Return the `count` masks of one evaluation, (B,*mask_shape) each; by default the mask itself."""
        return [self(parameter)]

    def cells(self, parameter: Tensor) -> Tensor:
        """Return what regularizers see at the mask's own resolution, (B,1,h,w) in [0,1]; by default the parameter."""
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
        """Return the parameter (1,*shape) that perturbs a centred disc of `radius` pixels and keeps the rest."""
        raise ValueError("mask.init=disc is for mask=grid and its kin: choose 'ones', 'random' or a number from 0 to 1")
