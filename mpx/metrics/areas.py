"""What the masks of one image and class say together where several areas were asked (Fong, Patrick & Vedaldi 2019)."""

import math
from collections.abc import Sequence

from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

COLUMNS = ("image", "target", "class", "smallest_area", "p_before", "p_after", "mask")


def groups(problems: Sequence[tuple]) -> dict[tuple, list[int]]:
    """(image, target) -> places of its rows, in their order."""
    found = {}
    for place, problem in enumerate(problems):
        found.setdefault(problem, []).append(place)
    return found


def smallest(rows: list[dict], share: float, keeps: bool) -> list[dict]:
    """Of each image and class, the row (of results.csv) with the smallest area that is enough: a*, section 3.1.

    Enough: the probability is at least `share` of the photo's (keeps), or at most what `share` leaves of it (a deletion).
    Where no area is, `smallest_area` is empty and the row that of the largest.
    """
    found = []
    for places in groups([(row["image"], row["target"]) for row in rows]).values():
        ordered = sorted((rows[place] for place in places), key=lambda row: row["requested_area"])
        enough = [row for row in ordered if _enough(row, share, keeps)]
        best = enough[0] if enough else ordered[-1]
        found.append({**best, "smallest_area": best["requested_area"] if enough else ""})
    return found


def _enough(row: dict, share: float, keeps: bool) -> bool:
    p, whole = row["p_after"], row["p_before"]
    return p >= share * whole if keeps else p <= (1 - share) * whole


def summed(saliency: Tensor, smooth: float = 0.09) -> Tensor:
    """Sum of the masks (A,1,H,W) of A areas, smoothed: (1,H,W), for the pointing game, whose answer is its largest place.

    smooth: standard deviation of the Gaussian as a share of the shorter side; 0: none.
    """
    total = saliency.sum(0)
    sigma = smooth * min(total.shape[1:])
    if not sigma:
        return total
    size = 2 * min(math.ceil(3 * sigma), min(total.shape[1:]) - 1) + 1
    return gaussian_blur(gaussian_blur(total, [1, size], [sigma] * 2), [size, 1], [sigma] * 2)
