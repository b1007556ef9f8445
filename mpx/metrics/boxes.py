"""Weak localisation: the box around what a threshold leaves of the saliency, beside the boxes of the class.

Boxes are (x0,y0,x1,y1) in the network's pixels, without their far edge, as data/regions.py. A row's columns are the IoU with
the best of the class's boxes at each threshold of a grid; the summaries choose from it.
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.ops import box_iou

from mpx.metrics import Scored

GRIDS = {
    "value": [i / 20 for i in range(20)],  # of the way from the map's least to its most
    "energy": [i / 20 for i in range(1, 20)],  # of the map's sum, in the most salient pixels
    "mean": [i / 2 for i in range(1, 21)],  # times the map's mean
}


def localisation(saliency: Tensor, places: list, rule: str = "energy", tuned: float = 0.5, overlap: float = 0.5) -> dict:
    """IoU with the class's best box at each threshold of the three rules of Fong & Vedaldi 2017, section 5.6.

    The box is around all pixels that are left, not the largest component of them; the whole picture where none is.
    Summarised as the error, the share of rows with an IoU below `overlap`, at the threshold with the least error on the rows
    that tune it: those of a share `tuned` of the images, every other one by default; they do not count in the error. `rule`
    is the main value's.
    """
    if rule not in GRIDS:
        raise ValueError(f"rule={rule!r} must be one of {', '.join(GRIDS)}")
    if not 0 < tuned < 1:
        raise ValueError(
            f"tuned={tuned} is the share of images whose rows tune the threshold: it must be above 0 and below 1"
        )
    names = [f"{rule}@{alpha:g}" for rule, grid in GRIDS.items() for alpha in grid]
    return dict(zip(names, best_iou(tight(saliency, thresholds(saliency)), places).T))


def least_error(columns: dict[str, Tensor], images: Tensor, rule: str = "energy", tuned: float = 0.5, overlap: float = 0.5):
    found = {}
    for name in GRIDS:
        grid = {suffix: values for suffix, values in columns.items() if suffix.startswith(f"{name}@")}
        iou = torch.stack(list(grid.values()))  # (thresholds, N)
        error = (iou < overlap).double().where(iou.isfinite(), torch.nan)
        rows = error[0].isfinite().nonzero()[:, 0]  # those that have a box
        tunes = images[rows].unique(return_inverse=True)[1] * tuned % 1 < tuned
        tuning, scored = rows[tunes], rows[~tunes]
        if not len(scored):  # a single row cannot both tune and count
            found[name] = Scored(torch.full_like(error[0], torch.nan))
            continue
        best = int(error[:, tuning].mean(1).argmin())
        values = torch.full_like(error[0], torch.nan)
        values[scored] = error[best, scored]
        found[name] = Scored(values, note={"threshold": float(list(grid)[best].split("@")[1]), "tuned_on": len(tuning)})
    return {"": found[rule], **found}


def max_box_acc_v2(saliency: Tensor, places: list, levels: int = 100) -> dict:
    """IoU of the best pair of a component's box and a box of the class, at thresholds 0, 1/levels, ... of the map's range.

    Choe et al. 2020: pixels above the threshold, 8-connected, all components. Summarised as the share of rows with an IoU of
    at least 0.3, 0.5 and 0.7, each at the threshold that is best for it on these very rows, as the definition has it; the
    main value is their mean. Unlike that paper's code, a component's holes give no boxes.
    """
    if levels < 1:
        raise ValueError(f"levels={levels} must be 1 or larger: it is the number of thresholds")
    maps = scaled(saliency)[:, 0].cpu().numpy()
    best = torch.full((len(maps), levels), torch.nan)
    for row, (pixels, place) in enumerate(zip(maps, places)):
        truth = torch.zeros(0, 4) if place is None else place.boxes()
        if len(truth):
            best[row] = torch.stack([box_iou(components(pixels > t / levels), truth).amax() for t in range(levels)])
    return {f"@{t / levels:g}": values for t, values in enumerate(best.T)}


def most_boxes(columns: dict[str, Tensor]) -> dict:
    iou = torch.stack(list(columns.values()))  # (levels, N)
    known = iou[0].isfinite()
    found = {}
    for overlap in (0.3, 0.5, 0.7):
        hit = (iou >= overlap).double().where(known, torch.nan)
        best = int(hit[:, known].mean(1).nan_to_num().argmax())
        found[f"{overlap * 100:.0f}"] = Scored(hit[best], note={"threshold": float(list(columns)[best][1:])})
    return {"": Scored(torch.stack([s.values for s in found.values()]).mean(0)), **found}


localisation.summary, max_box_acc_v2.summary = least_error, most_boxes
localisation.protocol = {
    **{"pixels": "the network's", "box": "around all that is left", "better": "lower"},
    "threshold": "tuned on rows that do not count, and fixed in the interval",
}
max_box_acc_v2.protocol = {
    **{"pixels": "the network's", "box": "of each component", "better": "higher"},
    "threshold": "the best on the rows scored, as published",
}


def scaled(saliency: Tensor) -> Tensor:
    """(B,1,H,W) from 0, the map's least, to 1, its most; a constant map is 0."""
    low, high = saliency.amin((1, 2, 3), keepdim=True), saliency.amax((1, 2, 3), keepdim=True)
    return torch.where(high > low, (saliency - low) / (high - low), 0)


def thresholds(saliency: Tensor) -> Tensor:
    """(B,A) float64, on the CPU: the values from which on a pixel is left, for all of GRIDS one after the other."""
    flat = saliency.flatten(1).cpu().double()
    value, energy, mean = (flat.new_tensor(grid) for grid in GRIDS.values())
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    ranked = flat.sort(1, descending=True)[0]
    reached = ranked.cumsum(1)
    index = torch.searchsorted(reached, energy * reached[:, -1:]).clamp(max=flat.shape[1] - 1)
    return torch.cat([low + value * (high - low), ranked.gather(1, index), mean * flat.mean(1, keepdim=True)], 1)


def tight(saliency: Tensor, thresholds: Tensor) -> Tensor:
    """(B,A,4) boxes around all pixels at or above each threshold (B,A); the whole picture where there is none."""
    sides = [saliency.amax(axis)[:, 0].cpu().double() for axis in (2, 3)]  # (B,W), (B,H): a column's most, a row's most
    ends = []
    for line in sides:
        left = line[:, None] >= thresholds[..., None]  # (B,A,side)
        some = left.any(2)
        first, last = left.int().argmax(2), line.shape[1] - left.flip(2).int().argmax(2)
        ends.append((torch.where(some, first, 0), torch.where(some, last, line.shape[1])))
    (x0, x1), (y0, y1) = ends
    return torch.stack([x0, y0, x1, y1], 2).to(saliency)


def best_iou(boxes: Tensor, places: list) -> Tensor:
    """(B,A): of each of the boxes (B,A,4) with the best of the row's; NaN where it has none."""
    best = torch.full(boxes.shape[:2], torch.nan)
    for row, place in enumerate(places):
        truth = torch.zeros(0, 4) if place is None else place.boxes()
        if len(truth):
            best[row] = box_iou(boxes[row].cpu().float(), truth).amax(1)
    return best


def components(pixels: np.ndarray) -> Tensor:
    """(N,4) boxes of the 8-connected components of (H,W) bool; one empty box where there is none."""
    found = ndimage.find_objects(ndimage.label(pixels, np.ones((3, 3)))[0])
    return torch.tensor([(x.start, y.start, x.stop, y.stop) for y, x in found] or [(0, 0, 0, 0)], dtype=torch.float32)
