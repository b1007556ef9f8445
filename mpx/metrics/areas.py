"""The rows of one image and class with masks of several areas, together (Fong, Patrick & Vedaldi 2019)."""

import math
from collections.abc import Hashable, Sequence

from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from mpx.tasks.base import Task

# of smallest_areas.csv
SMALLEST_COLUMNS = ("image", "target", "class", "smallest_area", "value_before", "value_after", "mask")


def group_rows(keys: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    """Map each key, such as (image, target), to the indices of its rows, in their order."""
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return groups


def smallest_area_rows(rows: Sequence[dict], sufficient_share: float, game: str, task: Task) -> list[dict]:
    """Return, for each image and class, the row (of results.csv) with the smallest sufficient area: a*, section 3.1.

    An area suffices where the value is at least `sufficient_share` of the image's in a preservation, else at most the
    remaining share; where values have no range, this holds of value_normalised. Where no area suffices, `smallest_area` is
    empty and the row is that of the largest area.
    """
    chosen = []
    for indices in group_rows([(row["image"], row["target"], row["class"]) for row in rows]).values():
        ordered = sorted((rows[index] for index in indices), key=lambda row: row["requested_area"])
        sufficient = [row for row in ordered if _suffices(row, sufficient_share, game, task)]
        best = sufficient[0] if sufficient else ordered[-1]
        chosen.append({**best, "smallest_area": best["requested_area"] if sufficient else ""})
    return chosen


def _suffices(row: dict, share: float, game: str, task: Task) -> bool:
    after, before = (row["value_after"], row["value_before"]) if task.is_bounded else (row["value_normalised"], 1.0)
    return after >= share * before if game == "preservation" else after <= (1 - share) * before


def sum_of_areas(saliency: Tensor, smooth: float = 0.09) -> Tensor:
    """Return the smoothed sum (1,H,W) of the masks (A,1,H,W) of A areas; its largest value plays the pointing game.

    smooth: standard deviation of the Gaussian as a share of the shorter side; 0: none.
    """
    total = saliency.sum(0)
    sigma = smooth * min(total.shape[1:])
    if not sigma:
        return total
    size = 2 * min(math.ceil(3 * sigma), min(total.shape[1:]) - 1) + 1
    return gaussian_blur(gaussian_blur(total, [1, size], [sigma] * 2), [size, 1], [sigma] * 2)
