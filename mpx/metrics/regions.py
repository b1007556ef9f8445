"""The saliency beside the region that a dataset annotates (data/regions.py).

A row is NaN where the network's picture shows nothing of the region; for mass and iou a pixel's centre must lie in it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.metrics import Scored


def pointing(saliency: Tensor, places: list, tolerance: float = 15.0) -> dict[str, Tensor]:
    """1 where the most salient pixel lies less than `tolerance` original pixels from one of the class's, else 0.

    Zhang et al. 2016, as TorchRay has it; the first of equal pixels in reading order points. Summarised as the mean over
    classes of each one's mean; `difficult` is the same of regions that are small and beside other classes.
    """
    width = saliency.shape[-1]
    hits = torch.full((len(saliency),), torch.nan)
    for row, (place, peak) in enumerate(zip(places, saliency.flatten(1).argmax(1).tolist())):
        if place is None:
            continue
        x, y = place.to_original(peak % width + 0.5, peak // width + 0.5)
        rows, cols = place.original_mask().nonzero().double().T + 0.5
        if place.shows(cols, rows).any():
            hits[row] = ((cols - x) ** 2 + (rows - y) ** 2).min() < tolerance**2
    hard = torch.tensor([place is not None and place.region.difficult for place in places])
    return {"": hits, "difficult": hits.where(hard, torch.nan)}


def by_class(columns: dict[str, Tensor], targets: Tensor) -> dict[str, Scored]:
    return {suffix: Scored(values, targets) for suffix, values in columns.items()}


def mass(saliency: Tensor, places: list) -> Tensor:
    """Share of all the saliency that lies in the region: (B,) in [0,1]. A map of zeros counts as a constant one.

    Wang et al. 2020 (energy-based pointing game); Arras et al. 2022 (relevance mass accuracy).
    """
    inside = masks(places, saliency)
    blank = saliency.sum((1, 2, 3), keepdim=True) <= 0
    saliency = torch.where(blank, torch.ones_like(saliency), saliency)
    share = (saliency * inside).sum((1, 2, 3)) / saliency.sum((1, 2, 3))
    return share.where(inside.any((1, 2, 3)), torch.nan)


def iou(saliency: Tensor, places: list, threshold: float = 0.5) -> Tensor:
    """Intersection over union of the region and the pixels at or above `threshold` of the way from least to most salient."""
    inside = masks(places, saliency)
    low, high = saliency.amin((1, 2, 3), keepdim=True), saliency.amax((1, 2, 3), keepdim=True)
    found = saliency >= low + threshold * (high - low)
    share = (found & inside).sum((1, 2, 3)) / (found | inside).sum((1, 2, 3))
    return share.where(inside.any((1, 2, 3)), torch.nan)


def keypoints(saliency: Tensor, places: list, window: int = 5) -> dict[str, Tensor]:
    """Mean saliency in a square of `window` pixels around each keypoint that the picture shows, by its name, and over all.

    Fong & Vedaldi 2017, section 5.4; at the picture's edges what is left of the square counts.
    """
    if window % 2 == 0 or window < 1:
        raise ValueError(f"window={window} must be odd, 1 or larger: it is centred on a pixel")
    around = F.avg_pool2d(saliency, window, 1, window // 2, count_include_pad=False)[:, 0]
    points = [{} if place is None else place.points() for place in places]
    found = {name: torch.full((len(points),), torch.nan) for name in sorted({name for row in points for name in row})}
    for row, named in enumerate(points):
        for name, (x, y) in named.items():
            found[name][row] = around[row, int(y), int(x)]
    return {"": torch.stack([torch.full((len(points),), torch.nan), *found.values()]).nanmean(0), **found}


pointing.summary = by_class
pointing.protocol = {"pixels": "the original's", "mean": "over classes of each one's mean", "better": "higher"}
mass.protocol = {"pixels": "the network's", "better": "higher"}
iou.protocol = {"pixels": "the network's", "normalisation": "threshold from the map's least to its most", "better": "higher"}
keypoints.protocol = {"pixels": "the network's", "better": "higher"}


def masks(places: list, saliency: Tensor) -> Tensor:
    """(B,1,H,W) bool: the regions in the network's pixels, empty where there is none."""
    inside = torch.zeros(saliency.shape, dtype=torch.bool)
    for row, place in zip(inside, places):
        if place is not None:
            mask = place.mask()
            if mask.shape != row.shape[1:]:
                raise ValueError(
                    f"a region of {tuple(mask.shape)} pixels does not fit a saliency of {tuple(row.shape[1:])}: "
                    "give the preprocessing that the saliency was made with"
                )
            row[0] = mask
    return inside.to(saliency.device)
