"""Where a class is in a picture, as a dataset says: what metrics compare a saliency with.

A `Region` is in pixels of the upright original: x to the right, y down, (0,0) the outer corner of the first pixel, so that
a box (x0,y0,x1,y1) of whole numbers is the pixels x0 to x1-1. A `Annotation` is the
same seen by the network, and knows the way back.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from mpx.data.preprocessing import Preprocess


@dataclass(frozen=True)
class Region:
    boxes: tuple[tuple[float, float, float, float], ...] = ()  # of all its objects
    draw: Callable[[], Image.Image] | None = None  # () -> the pixels that belong to it, mode "1", of the original's size
    points: dict[str, tuple[float, float]] = field(default_factory=dict, hash=False)  # visible keypoints by name
    difficult: bool = False  # of the pointing game's difficult part: small, and other classes beside it


def digest(regions: dict) -> str:
    """Of an item's regions, label -> Region: another where one of them, or a file that it is drawn from, has changed."""
    paths = (arg for region in regions.values() for arg in getattr(region.draw, "args", ()) if isinstance(arg, Path))
    files = [(stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in paths if path.is_file())]
    text = re.sub(r" at 0x[0-9a-f]+", "", f"{regions} {files}")  # a function is elsewhere in another process
    return sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


@dataclass(frozen=True)
class Annotation:
    """A region and the geometry between the original of `size` (width, height) and the network's picture."""

    region: Region
    size: tuple[int, int]
    preprocess: Preprocess

    def boxes(self) -> Tensor:
        """(N,4) in the network's pixels, clipped to its picture; those wholly outside are left out.

        Where a region is only drawn: the one box around its drawing.
        """
        around = [self._drawing().getbbox()] if self.region.draw and not self.region.boxes else []
        found = [self.preprocess.box(box, self.size) for box in self.region.boxes or around if box]
        return torch.tensor([b for b in found if b[2] > b[0] and b[3] > b[1]], dtype=torch.float32).view(-1, 4)

    def mask(self) -> Tensor:
        """(H,W) bool: the network's pixels whose centre lies in one of `original`'s."""
        return self.preprocess.mask(self._drawing())

    def original(self) -> Tensor:
        """(h,w) bool: the pixels of the region's drawing or, without one, those whose centre lies in one of its boxes."""
        return functional.pil_to_tensor(self._drawing())[0].bool()

    def back(self, x: float, y: float) -> tuple[float, float]:
        """A point of the network's picture in the original; the centre of pixel (i,j) is (j+0.5,i+0.5) in both."""
        return self.preprocess.back((x, y), self.size)

    def shows(self, x: Tensor, y: Tensor) -> Tensor:
        """Whether the network's picture shows any part of each of the original's pixels with these centres, (N,) both."""
        height, width = self.preprocess.crop
        (left, top), (right, bottom) = self.back(0, 0), self.back(width, height)
        return (left < x + 0.5) & (x - 0.5 < right) & (top < y + 0.5) & (y - 0.5 < bottom)

    def points(self) -> dict[str, tuple[float, float]]:
        """The keypoints that the network's picture shows, in its pixels."""
        height, width = self.preprocess.crop
        found = {name: self.preprocess.point(point, self.size) for name, point in self.region.points.items()}
        return {name: (x, y) for name, (x, y) in found.items() if 0 <= x < width and 0 <= y < height}

    def _drawing(self) -> Image.Image:
        if not self.region.draw:
            return Image.fromarray(_inside(self.region.boxes, self.size).numpy())
        drawing = self.region.draw()
        if drawing.size != tuple(self.size):
            raise ValueError(
                f"a region drawn for a picture of {drawing.size[0]}x{drawing.size[1]} pixels does not fit one of "
                f"{self.size[0]}x{self.size[1]}: give the pictures that the annotations were made for"
            )
        return drawing


def _inside(boxes, size: tuple[int, int]) -> Tensor:
    """(h,w) bool: whether a pixel's centre lies in one of the boxes; size: (width, height)."""
    x, y = (torch.arange(side, dtype=torch.float64) + 0.5 for side in size)
    inside = torch.zeros(size[1], size[0], dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        inside |= ((y0 <= y) & (y < y1))[:, None] & ((x0 <= x) & (x < x1))
    return inside
