"""Similarity of two maps (B,1,H,W) of the same rows."""

import torch
from torch import Tensor

SSIM_WINDOW = 11  # px


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return the rank correlation (B,) in [-1,1]; equal values share their mean rank; 0 where a map is constant."""
    x, y = (torch.stack([_ranks(row) for row in maps.flatten(1).cpu()]) for maps in (a, b))
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    norm = (x.square().sum(1) * y.square().sum(1)).sqrt()
    return torch.where(norm > 0, (x * y).sum(1) / norm.clamp(min=1e-300), 0.0).float()


def _ranks(values: Tensor) -> Tensor:
    """Map values (N,) to ranks (N,) float64."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[inverse]


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity (B,); NaN for maps smaller than its window."""
    from torchmetrics.functional.image import structural_similarity_index_measure  # slow to import

    if min(a.shape[2:]) < SSIM_WINDOW:
        return a.new_full(a.shape[:1], torch.nan)
    values = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)  # a pair only with return_full_image
    return values


def iou_of_pixels(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU (B,) of two sets of pixels, bool; 1 for two empty sets."""
    union = (a | b).sum((1, 2, 3))
    return torch.where(union > 0, (a & b).sum((1, 2, 3)) / union.clamp(min=1), 1.0)
