"""RISE (Petsiuk, Das & Saenko 2018): the mean probability of random masks that keep the pixel."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.explainers.base import ExplainerContext
from mpx.explainers.occlusion import one_colour
from mpx.models.classifier import Classifier
from mpx.option_values import Allowed, Color, Count

PROBABILITY = Allowed(lambda p: 0 < p < 1, "a probability, above 0 and below 1")


@torch.no_grad()
def rise(
    images: Tensor,
    classifier: Classifier,
    targets: Tensor,
    context: ExplainerContext,
    masks: Count = 4000,
    cells: Count = 7,
    keep: Annotated[float, PROBABILITY] = 0.5,
    color: Color | None = None,
    max_batch: Count = 64,
) -> Tensor:
    """Return sum_k p_k M_k / (masks * keep), as published, less its smallest value in the image: the order of pixels stays.

    masks: of each row, its own. cells: per side of a mask. keep: the probability of each cell. color: see `one_colour`.
    """
    size, reference = images.shape[2:], one_colour(images, classifier, color)
    cell = [math.ceil(side / cells) for side in size]  # px
    rng = context.rng.at("rise")
    grids = (rng.uniform(masks, cells, cells) < keep).to(images)  # (B,masks,cells,cells)
    shifts = torch.stack([rng.integers(0, side - 1, masks) for side in cell], 2).to(images.device)  # (B,masks,2)
    total = torch.zeros_like(images[:, 0])
    for rows in torch.arange(len(images), device=images.device).split(max_batch):
        for numbers in torch.arange(masks, device=images.device).split(max(1, max_batch // len(rows))):
            grid, shift = grids[rows][:, numbers], shifts[rows][:, numbers]
            random_masks = shifted_masks(grid.flatten(0, 1)[:, None], cell, shift.flatten(0, 1), size)
            random_masks = random_masks.unflatten(0, grid.shape[:2])  # (rows,numbers,1,H,W)
            masked = torch.lerp(reference[rows, None], images[rows, None], random_masks)
            target = targets[rows].repeat_interleave(grid.shape[1], 0)
            p = classifier.task.support(classifier(masked.flatten(0, 1)), target).view(grid.shape[:2]).to(images)
            total[rows] += torch.einsum("bk,bkhw->bhw", p, random_masks[:, :, 0])
    relevance = total[:, None] / (masks * keep)
    return relevance - relevance.amin((1, 2, 3), keepdim=True)


def shifted_masks(grids: Tensor, cell: Sequence[int], shifts: Tensor, size: Sequence[int]) -> Tensor:
    """Map grids (N,1,h,w) to masks (N,1,H,W): upsampled to one cell more than the image each way, cut at shifts (N,2) px."""
    upsampled = F.interpolate(
        grids, size=[(n + 1) * c for n, c in zip(grids.shape[2:], cell)], mode="bilinear", align_corners=False
    )
    ys, xs = (shifts[:, i, None] + torch.arange(size[i], device=grids.device) for i in (0, 1))  # (N,H), (N,W)
    rows = torch.arange(len(upsampled), device=grids.device)[:, None, None]
    return upsampled[rows, 0, ys[:, :, None], xs[:, None, :]][:, None]
