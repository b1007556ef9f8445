"""What the target's probability is where a part of the photo is covered.

occlusion   what a square takes away, mean over the squares that cover a pixel  (Zeiler & Fergus 2014)
rise        the mean probability of random masks that keep the pixel            (Petsiuk, Das & Saenko 2018)
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.explainers import at_least, captum
from mpx.perturbations.blur import constant


@torch.no_grad()
def occlusion(
    photos: Tensor,
    classifier,
    targets: Tensor,
    patch: int = 35,
    stride: int = 8,
    color: list[float] | None = None,
    pictures: int = 64,
) -> Tensor:
    """patch: px, the square's side; stride: px between squares, the last may reach over the edge; color: see `fill`."""
    at_least(1, stride=stride, pictures=pictures)
    if not stride <= patch <= min(photos.shape[2:]):
        raise ValueError(
            f"explainer.patch={patch} must be from explainer.stride={stride} to the photo's shorter side, "
            f"{min(photos.shape[2:])} px"
        )
    method = captum("occlusion").Occlusion(lambda x: classifier(x).softmax(1))
    found = [
        method.attribute(
            x, (3, patch, patch), (3, stride, stride), x0, of, perturbations_per_eval=max(1, pictures // len(x))
        )
        for x, x0, of in zip(*(values.split(pictures) for values in (photos, fill(photos, classifier, color), targets)))
    ]
    return torch.cat(found).mean(1, keepdim=True).to(photos)  # the same for all colours


@torch.no_grad()
def rise(
    photos: Tensor,
    classifier,
    targets: Tensor,
    rng,
    masks: int = 4000,
    cells: int = 7,
    keep: float = 0.5,
    color: list[float] | None = None,
    pictures: int = 64,
) -> Tensor:
    """masks: of each row, its own; cells: of a mask's side; keep: the probability of each; color: see `fill`.

    The published sum_k p_k M_k / (masks * keep), less its smallest value in the picture: so all pixels keep their order.
    """
    at_least(1, masks=masks, cells=cells, pictures=pictures)
    if not 0 < keep < 1:
        raise ValueError(f"explainer.keep={keep} is a probability: it must be above 0 and below 1")
    size, base = photos.shape[2:], fill(photos, classifier, color)
    cell = [math.ceil(side / cells) for side in size]  # px
    rng = rng.at("rise")
    grids = (rng.uniform(masks, cells, cells) < keep).to(photos)  # (B,masks,cells,cells)
    shifts = torch.stack([rng.integers(0, side - 1, masks) for side in cell], 2).to(photos.device)  # (B,masks,2)
    total = torch.zeros_like(photos[:, 0])
    for rows in torch.arange(len(photos), device=photos.device).split(pictures):
        for some in torch.arange(masks, device=photos.device).split(max(1, pictures // len(rows))):
            grid, shift = grids[rows][:, some], shifts[rows][:, some]
            kept = shifted(grid.flatten(0, 1)[:, None], cell, shift.flatten(0, 1), size).unflatten(0, grid.shape[:2])
            shown = torch.lerp(base[rows, None], photos[rows, None], kept)  # (rows,some,3,H,W)
            of = targets[rows, None].expand(grid.shape[:2]).reshape(-1, 1)
            p = classifier(shown.flatten(0, 1)).softmax(1).gather(1, of).view(grid.shape[:2]).to(photos)
            total[rows] += torch.einsum("bk,bkhw->bhw", p, kept[:, :, 0])
    total = total[:, None] / (masks * keep)
    return total - total.amin((1, 2, 3), keepdim=True)


def shifted(grids: Tensor, cell: list[int], shifts: Tensor, size) -> Tensor:
    """Grids (N,1,h,w) -> masks (N,1,H,W): upsampled to a cell more than the photo each way, and cut at `shifts` (N,2) px."""
    up = F.interpolate(
        grids, size=[(n + 1) * c for n, c in zip(grids.shape[2:], cell)], mode="bilinear", align_corners=False
    )
    ys, xs = (shifts[:, i, None] + torch.arange(size[i], device=grids.device) for i in (0, 1))  # (N,H), (N,W)
    return up[torch.arange(len(up), device=grids.device)[:, None, None], 0, ys[:, :, None], xs[:, None, :]][:, None]


def fill(photos: Tensor, classifier, color: list[float] | None) -> Tensor:
    """(B,3,H,W) of one colour, (r,g,b) in [0,1]; None: the one that the network's normalisation makes 0, as published code
    has it, which multiplies normalised photos."""
    return (-classifier.shift / classifier.scale).expand_as(photos) if color is None else constant(photos, color)
