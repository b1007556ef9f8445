"""Segmentation: logits (B,K,h,w) of K classes per pixel; people read the class's mean probability over a region."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.data.targets import Categories
from mpx.tasks.base import Labels, Task, first_tensor, fitting_task


class Segmentation(Task):
    """The task of a network that labels pixels: a tensor (B,K,h,w), or a dict or a tuple with it, of any size h,w.

    region: where the class is explained. "predicted": the pixels that the network gives to the class on the unperturbed
    image; "image": all of it; [x0,y0,x1,y1]: a box, or [x,y]: a pixel, as shares of the image's width and height.
    background: index of a class that top1, top2, ... leave out; null: none.
    """

    support_unit = "mean softmax probability of the target class over the region"
    prepares = True
    is_placed = True

    def __init__(self, region: str | Sequence[float] = "predicted", background: int | None = None):
        is_place = not isinstance(region, str) and len(region) in (2, 4) and all(0 <= share <= 1 for share in region)
        if not (region in ("predicted", "image") if isinstance(region, str) else is_place):
            raise ValueError(
                f"task.region={region!r} must be predicted, image, [x0,y0,x1,y1] or [x,y], in shares of the image's sides"
            )
        if len(region) == 4 and not isinstance(region, str) and not (region[0] < region[2] and region[1] < region[3]):
            raise ValueError(f"task.region={list(region)} is an empty box: give [x0,y0,x1,y1] with x0 < x1 and y0 < y1")
        self.region = region
        self.background = background

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

    def resolve(self, target: Any, output: Tensor, label: Labels, categories: Categories) -> list[int]:
        """Return class indices; top1, top2, ... are the classes with the most pixels. output: (K,h,w) of an image."""
        pixels = torch.bincount(output.argmax(0).flatten(), minlength=len(output)).float()
        if self.background is not None:
            pixels[self.background] = -1.0
        targets = super().resolve(target, pixels, label, categories)
        if self.region == "predicted":
            for index in targets:
                if pixels[index] < 1:
                    name = categories[index] if categories else f"class {index}"
                    raise ValueError(f"the model gives no pixel to {name} here: set task.region=image, or to a box")
        return targets

    def prepare(self, targets: Tensor, output: Tensor, reference: Tensor | None = None) -> Tensor:
        """Return (B,2+h*w): the class index, h, and 1 for each pixel of the region."""
        h, w = output.shape[2:]
        if self.region == "predicted":
            region = output.argmax(1) == targets[:, None, None]
        else:
            x0, y0, x1, y1 = (0, 0, 1, 1) if isinstance(self.region, str) else (*self.region, *self.region)[:4]
            left, top = min(int(x0 * w), w - 1), min(int(y0 * h), h - 1)
            region = torch.zeros(len(targets), h, w, dtype=torch.bool, device=output.device)
            region[:, top : max(top + 1, math.ceil(y1 * h)), left : max(left + 1, math.ceil(x1 * w))] = True
        height = torch.full_like(targets, h)
        return torch.cat([torch.stack([targets, height], 1).to(output), region.flatten(1).to(output)], 1)

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
