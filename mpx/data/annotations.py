"""Where a class is in an image, according to its dataset; metrics compare saliency with it.

A `Region` is in pixels of the upright original: x to the right, y down, (0,0) the outer corner of the first pixel, so that
a box (x0,y0,x1,y1) of whole numbers covers the pixels x0 to x1-1. An `Annotation` is a region as the network's input shows
it, with the way back to the original.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from mpx.data.preprocessing import Box, Point, Preprocess

Label = int | str  # class index; or a name or ImageNet wnid
SMALL = 0.25  # share of the image below which the pointing game calls a class difficult, if other classes are there


@dataclass(frozen=True)
class Region:
    """All objects of one class in one image.

    draw: returns the pixels of the class, an image of mode "1" and of the original's size. points: visible keypoints by
    name. difficult: belongs to the difficult part of the pointing game, small and beside other classes. objects: the region
    of each object, where the dataset draws them one by one.
    """

    boxes: tuple[Box, ...] = ()
    draw: Callable[[], Image.Image] | None = None
    points: dict[str, Point] = field(default_factory=dict, hash=False)
    difficult: bool = False
    objects: "tuple[Region, ...]" = ()

    def single_objects(self) -> "tuple[Region, ...]":
        """Return the region of each object. Where the dataset draws them together, an object is the pixels of its box."""
        if self.objects or len(self.boxes) < 2:
            return self.objects or (self,)
        return tuple(Region((box,), difficult=self.difficult) for box in self.boxes)


class AnnotatedObject(NamedTuple):
    """One object of an image; area in pixels."""

    label: Label
    box: Box
    area: float


def as_box(values: Iterable, where: str) -> Box:
    """Return four finite numbers x0 < x1, y0 < y1; `where` begins the sentence of the ValueError about others."""
    try:
        x0, y0, x1, y1 = (float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: {values!r} is no box: give four numbers x0,y0,x1,y1") from None
    if not (math.isfinite(x0 + y0 + x1 + y1) and x0 < x1 and y0 < y1):
        raise ValueError(f"{where}: {values!r} is no box: x1 must be beyond x0 and y1 beyond y0, in pixels")
    return x0, y0, x1, y1


def regions_by_label(
    objects: Iterable[AnnotatedObject], pixels: float, other_labels: Iterable[Label] = ()
) -> dict[Label, Region]:
    """Return label -> region of the objects in an image of `pixels` pixels; other_labels: further classes in the image.

    Difficult as in Zhang et al. 2016 (excitation backprop): a class whose objects cover less than a quarter of an image that
    has other classes too.
    """
    boxes: dict[Label, list[Box]] = defaultdict(list)
    areas: dict[Label, float] = defaultdict(float)
    for label, box, area in objects:
        boxes[label].append(box)
        areas[label] += area
    alone = len({*boxes, *other_labels}) < 2
    return {
        label: Region(tuple(label_boxes), difficult=not alone and areas[label] < SMALL * pixels)
        for label, label_boxes in boxes.items()
    }


def regions_digest(regions: dict[Label, Region]) -> str:
    """Return a hash of an item's regions, which changes with any of them and with the files that they are drawn from."""
    paths = [
        argument
        for region in regions.values()
        if isinstance(region.draw, partial)
        for argument in region.draw.args
        if isinstance(argument, Path)
    ]
    files = [(stat.st_size, stat.st_mtime_ns) for stat in (path.stat() for path in paths if path.is_file())]
    text = re.sub(r" at 0x[0-9a-f]+", "", f"{regions} {files}")  # a function has another address in another process
    return sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


@dataclass(frozen=True)
class Annotation:
    """A region, and the geometry between the original of `size` (width, height) and the network's input."""

    region: Region
    size: tuple[int, int]
    preprocess: Preprocess

    def boxes(self) -> Tensor:
        """Return (N,4) boxes in pixels of the network's input, clipped to it, without those wholly outside.

        A region that is only drawn has one box, around its drawing.
        """
        boxes: tuple[Box | None, ...] = self.region.boxes
        if self.region.draw and not self.region.boxes:
            boxes = (self._drawing().getbbox(),)
        clipped = [self.preprocess.box(box, self.size) for box in boxes if box]
        return torch.tensor([b for b in clipped if b[2] > b[0] and b[3] > b[1]], dtype=torch.float32).view(-1, 4)

    def mask(self) -> Tensor:
        """Return (H,W) bool: pixels of the network's input whose centre lies in a pixel of the region."""
        return self.preprocess.mask(self._drawing())

    def original_mask(self) -> Tensor:
        """Return (h,w) bool: the original's pixels of the drawing or, without one, those with their centre in a box."""
        return functional.pil_to_tensor(self._drawing())[0].bool()

    def to_original(self, x: float, y: float) -> Point:
        """Map a point of the network's input to the original; the centre of pixel (i,j) is (j+0.5,i+0.5) in both."""
        return self.preprocess.to_original((x, y), self.size)

    def shows(self, x: Tensor, y: Tensor) -> Tensor:
        """Return (N,) bool: whether the network's input shows any part of the original's pixels with centres x, y (N,)."""
        height, width = self.preprocess.crop
        (left, top), (right, bottom) = self.to_original(0, 0), self.to_original(width, height)
        return (left < x + 0.5) & (x - 0.5 < right) & (top < y + 0.5) & (y - 0.5 < bottom)

    def points(self) -> dict[str, Point]:
        """Return the keypoints inside the network's input, in its pixels."""
        height, width = self.preprocess.crop
        points = {name: self.preprocess.point(point, self.size) for name, point in self.region.points.items()}
        return {name: (x, y) for name, (x, y) in points.items() if 0 <= x < width and 0 <= y < height}

    def _drawing(self) -> Image.Image:
        if not self.region.draw:
            return Image.fromarray(_inside(self.region.boxes, self.size).numpy())
        drawing = self.region.draw()
        if drawing.size != tuple(self.size):
            raise ValueError(
                f"a region drawn for an image of {drawing.size[0]}x{drawing.size[1]} pixels does not fit one of "
                f"{self.size[0]}x{self.size[1]}: give the images that the annotations were made for"
            )
        return drawing


def _inside(boxes: Iterable[Box], size: tuple[int, int]) -> Tensor:
    """Return (h,w) bool: whether a pixel's centre lies in one of the boxes; size: (width, height)."""
    x, y = (torch.arange(side, dtype=torch.float64) + 0.5 for side in size)
    inside = torch.zeros(size[1], size[0], dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        inside |= ((y0 <= y) & (y < y1))[:, None] & ((x0 <= x) & (x < x1))
    return inside
