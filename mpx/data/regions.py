"""Where a class is in a picture, as a dataset says: what metrics compare a saliency with.

A `Region` is in pixels of the upright original: x to the right, y down, (0,0) the outer corner of the first pixel, a box
(x0,y0,x1,y1) without its far edge. `Place` is the same seen by the network, and knows the way back.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from mpx.data.preprocess import Preprocess


@dataclass(frozen=True)
class Region:
    boxes: tuple[tuple[float, float, float, float], ...] = ()  # of all its objects
    draw: Callable[[], Image.Image] | None = None  # () -> the pixels that belong to it, mode "1", of the original's size
    points: dict[str, tuple[float, float]] = field(default_factory=dict)  # keypoints by name, those that are visible
    difficult: bool = False  # of the pointing game's difficult part: small, and other classes beside it


@dataclass(frozen=True)
class Place:
    """A region and the geometry between the original of `size` (width, height) and the network's picture."""

    region: Region
    size: tuple[int, int]
    preprocess: Preprocess

    def boxes(self) -> Tensor:
        """(N,4) in the network's pixels, clipped to its picture; those wholly outside are left out."""
        found = [self.preprocess.box(box, self.size) for box in self.region.boxes]
        return torch.tensor([b for b in found if b[2] > b[0] and b[3] > b[1]]).view(-1, 4)

    def mask(self) -> Tensor:
        """(H,W) bool: the network's pixels that belong to the region, by its drawing or else its boxes."""
        raise NotImplementedError

    def original(self) -> Tensor:
        """(h,w) bool: the same in the original's pixels."""
        raise NotImplementedError

    def back(self, x: float, y: float) -> tuple[float, float]:
        """A point of the network's picture in the original."""
        raise NotImplementedError
