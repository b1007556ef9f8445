"""Boxes around salient pixels: (x0,y0,x1,y1) in pixels of the network's image, without the far edge, as in annotations."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from mpx.data.annotations import Annotation

THRESHOLD_GRIDS = {
    "value": [i / 20 for i in range(20)],  # share of the way from the map's smallest to its largest value
    "energy": [i / 20 for i in range(1, 20)],  # share of the map's sum that the most salient pixels reach
    "mean": [i / 2 for i in range(1, 21)],  # times the map's mean
}


def scaled_to_unit(saliency: Tensor) -> Tensor:
    """Scale maps (B,1,H,W) linearly to [0,1]; a constant map becomes 0."""
    low, high = saliency.amin((1, 2, 3), keepdim=True), saliency.amax((1, 2, 3), keepdim=True)
    return torch.where(high > low, (saliency - low) / (high - low), 0)


def thresholds(saliency: Tensor) -> Tensor:
    """Return the thresholds (B,A) float64, on the CPU, of all THRESHOLD_GRIDS one after the other."""
    flat = saliency.flatten(1).cpu().double()
    value, energy, mean = (flat.new_tensor(grid) for grid in THRESHOLD_GRIDS.values())
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    ranked = flat.sort(1, descending=True)[0]
    reached = ranked.cumsum(1)
    index = torch.searchsorted(reached, energy * reached[:, -1:]).clamp(max=flat.shape[1] - 1)
    return torch.cat([low + value * (high - low), ranked.gather(1, index), mean * flat.mean(1, keepdim=True)], 1)


def tight_boxes(saliency: Tensor, thresholds: Tensor) -> Tensor:
    """Return boxes (B,A,4) around all pixels at or above each threshold (B,A); the whole image where there is none."""
    profiles = [saliency.amax(axis)[:, 0].cpu().double() for axis in (2, 3)]  # (B,W) by column, (B,H) by row
    ends = []
    for profile in profiles:
        above = profile[:, None] >= thresholds[..., None]  # (B,A,length)
        has_any = above.any(2)
        length = profile.shape[1]
        first, last = above.int().argmax(2), length - above.flip(2).int().argmax(2)
        ends.append((torch.where(has_any, first, 0), torch.where(has_any, last, length)))
    (x0, x1), (y0, y1) = ends
    return torch.stack([x0, y0, x1, y1], 2).to(saliency)


def best_iou(boxes: Tensor, annotations: Sequence[Annotation | None]) -> Tensor:
    """Return the IoU (B,A) of each of the boxes (B,A,4) with the best annotated box of its row; NaN where it has none."""
    best = torch.full(boxes.shape[:2], torch.nan)
    for row, annotation in enumerate(annotations):
        truth = annotated_boxes(annotation)
        if len(truth):
            best[row] = box_iou(boxes[row].cpu().float(), truth).amax(1)
    return best


def annotated_boxes(annotation: Annotation | None) -> Tensor:
    """Return the boxes (N,4) of an annotation; none where there is no annotation."""
    return torch.zeros(0, 4) if annotation is None else annotation.boxes()


def component_boxes(pixels: np.ndarray) -> Tensor:
    """Return the boxes (N,4) of the 8-connected components of (H,W) bool; one empty box where there is none."""
    from scipy import ndimage  # slow to import

    slices = ndimage.find_objects(ndimage.label(pixels, np.ones((3, 3)))[0])
    return torch.tensor([(x.start, y.start, x.stop, y.stop) for y, x in slices] or [(0, 0, 0, 0)], dtype=torch.float32)


def pixels_inside(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Map boxes (N,4) to their pixels (N,1,H,W) bool."""
    y, x = (torch.arange(length, device=boxes.device) for length in size)
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    return ((y0 <= y) & (y < y1))[:, None, :, None] & ((x0 <= x) & (x < x1))[:, None, None, :]


def area_share(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Map boxes (...,4) to their area (...) as a share of the image's."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) / (size[0] * size[1])
