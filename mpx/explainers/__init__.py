"""Baselines in the mask's place."""

from torch import Tensor


def to_saliency(relevance: Tensor) -> Tensor:
    """(B,1,H,W) of any real numbers -> [0,1]."""
    positive = relevance.clamp(min=0)
    return positive / positive.amax((1, 2, 3), keepdim=True).clamp(min=1e-30)
