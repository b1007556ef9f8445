"""Segmentation: logits (B,K,h,w) of K classes per pixel; people read the class's mean probability over a region."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.data.annotations import Annotation, Region
from mpx.data.mask_files import mask_file_of, read_mask
from mpx.data.targets import NotInImageError, Target, TargetContext
from mpx.tasks.base import Task, are_shares, first_tensor, fitting_task

NAMED_REGIONS = ("predicted", "image", "dataset", "objects")


class Segmentation(Task):
    """The task of a network that labels pixels: a tensor (B,K,h,w), or a dict or a tuple with it, of any size h,w.

    region: where the class is explained. "predicted": the pixels that the network gives to the class on the unperturbed
    image; "image": all of it; "dataset": the pixels, or boxes, of the class in the dataset; "objects": those of each
    of its objects, a target each; [x0,y0,x1,y1]: a box, or [x,y]: a pixel, as shares of the input's width and height; else
    a mask file (`mpx.data.mask_files`), or a folder of one for each photo. A pixel of the output belongs to a region that it
    touches.
    background: index or name of a class that top1, top2, ... leave out; null: none.
    """

    support_unit = "mean softmax probability of the target class over the region"
    class_options = ("background",)
    prepares = True
    is_placed = True

    def __init__(self, region: str | Sequence[float] = "predicted", background: int | str | None = None):
        self.region = region
        self.background: Any = background
        if isinstance(region, str):
            if region not in NAMED_REGIONS and not Path(region).expanduser().exists():
                raise ValueError(
                    f"task.region={region!r} must be {', '.join(NAMED_REGIONS)}, [x0,y0,x1,y1] or [x,y] in shares of the "
                    "image's sides, or a mask file or a folder of them, and there is no such file"
                )
        elif not are_shares(region, [2, 4]):
            raise ValueError(f"task.region={region} must be [x0,y0,x1,y1] or [x,y] in shares of the sides, 0 to 1")
        elif len(region) == 4 and not (region[0] < region[2] and region[1] < region[3]):
            raise ValueError(f"task.region={region} is an empty box: give [x0,y0,x1,y1] with x0 < x1 and y0 < y1")

    def output(self, raw: Any, count: int) -> Tensor:
        """Return the logits (count,K,h,w)."""
        output = raw["out"] if isinstance(raw, Mapping) and "out" in raw else first_tensor(raw)
        if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != count:
            actual = tuple(output.shape) if isinstance(output, Tensor) else type(raw).__name__
            raise ValueError(
                f"task=segmentation needs outputs (B, classes, h, w), and the model gives {actual} for B={count}"
                f"{fitting_task(raw)}"
            )
        return output

    def resolve(self, target: Any, output: Tensor, context: TargetContext) -> list[Target]:
        """Return classes with their regions (h,w); top1, top2, ... are the classes with the most pixels. output: (K,h,w)."""
        pixels = torch.bincount(output.argmax(0).flatten(), minlength=len(output)).float()
        if self.background is not None:
            if self.background not in range(len(pixels)):
                raise ValueError(f"task.background={self.background} must be a class, 0 to {len(pixels) - 1}, or null")
            pixels[self.background] = -1.0
        targets = super().resolve(target, pixels, context)
        if self.region == "objects":
            return [one for target in targets for one in self._objects(target.index, output, context)]
        return [Target(one.index, self._checked_region(one.index, output, context)) for one in targets]

    def _objects(self, target: int, output: Tensor, context: TargetContext) -> list[Target]:
        """Return the dataset's objects of a class that the network's input shows. output: (K,h,w)."""
        self._checked_region(target, output, context)
        annotation = context.annotation(target)
        regions = annotation.region.single_objects() if annotation else ()
        pixels = [(region, _pixels(context.annotate(region), output)) for region in regions]
        shown = [(region, place) for region, place in pixels if place.any()]
        return [Target(target, place, number, region) for number, (region, place) in enumerate(shown, 1)]

    def _checked_region(self, target: int, output: Tensor, context: TargetContext) -> Tensor:
        """Return the region (h,w) of a class in an image, or raise NotInImageError where it has none there."""
        name = self.name(target, context.categories)
        try:
            region = self._region(target, output, context)
        except ValueError as error:
            raise NotInImageError(str(error)) from error
        if region is None:
            raise NotInImageError(f"the dataset has no region of {name} in this image: set target=label")
        if region.any():
            return region
        if self.region == "predicted":
            raise NotInImageError(f"the model gives no pixel to {name} here: set task.region=image, or to a box")
        raise NotInImageError(f"the region of {name} lies outside of the part of this image that the network gets")

    def _region(self, target: int, output: Tensor, context: TargetContext) -> Tensor | None:
        """Return the region (h,w), None where the dataset has none of this class. output: (K,h,w)."""
        h, w = output.shape[1:]
        if self.region == "predicted":
            return output.argmax(0) == target
        if not isinstance(self.region, str) or self.region == "image":
            x0, y0, x1, y1 = (0, 0, 1, 1) if isinstance(self.region, str) else (*self.region, *self.region)[:4]
            left, top = min(int(x0 * w), w - 1), min(int(y0 * h), h - 1)
            region = torch.zeros(h, w, dtype=torch.bool, device=output.device)
            region[top : max(top + 1, math.ceil(y1 * h)), left : max(left + 1, math.ceil(x1 * w))] = True
            return region
        if self.region in ("dataset", "objects"):
            annotation = context.annotation(target)
        else:
            file = mask_file_of(Path(self.region).expanduser(), context.file)
            annotation = context.annotate(Region(draw=partial(read_mask, file)))
        if annotation is None:
            return None
        return _pixels(annotation, output)

    def prepare(
        self, targets: Tensor, output: Tensor, reference: Tensor | None = None, places: Tensor | None = None
    ) -> Tensor:
        """Return (B,2+h*w): the class index, h, and 1 for each pixel of the region. places: (B,h,w) regions."""
        if places is None:
            rows = zip(targets.tolist(), output)
            places = torch.stack([self._checked_region(target, row, TargetContext()) for target, row in rows])
        height = torch.full_like(targets, output.shape[2])
        return torch.cat([torch.stack([targets, height], 1).to(output), places.flatten(1).to(output)], 1)

    def logits(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithms (B,K) of the classes' mean probabilities over the region, and the class indices (B,)."""
        region = targets[:, 2:].unflatten(1, output.shape[2:])[:, None]
        inside = output.log_softmax(1).masked_fill(region == 0, -math.inf)
        return inside.flatten(2).logsumexp(2) - region.sum((2, 3)).log(), targets[:, 0].long()

    def logit(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the mean logit (B,) of the class over the region (Vinogradova, Dibrov & Myers 2020)."""
        region = targets[:, 2:].unflatten(1, output.shape[2:])
        values = output.gather(1, targets[:, :1, None, None].long().expand(-1, 1, *output.shape[2:]))[:, 0]
        return (values * region).sum((1, 2)) / region.sum((1, 2))

    def region_of(self, targets: Tensor, size: Sequence[int]) -> Tensor | None:
        """Return the regions in images of `size` (H,W)."""
        region = targets[:, 2:].unflatten(1, (int(targets[0, 1]), -1))[:, None]
        return F.interpolate(region, list(size), mode="nearest-exact") > 0


def _pixels(annotation: Annotation, output: Tensor) -> Tensor:
    """Return the pixels (h,w) of an output (K,h,w) that a region touches."""
    return F.adaptive_max_pool2d(annotation.mask()[None].to(output), output.shape[1:])[0] > 0
