"""Saliency and mask by game: the evidence is m in a preservation, which keeps it, else 1 - m."""

from torch import Tensor


def saliency_of(mask: Tensor, game: str) -> Tensor:
    """Return the evidence, of the shape of the mask: m in a preservation, else 1 - m."""
    return mask if game == "preservation" else 1 - mask


def mask_of(saliency: Tensor, game: str) -> Tensor:
    """Return the mask whose evidence the saliency is; inverse of `saliency_of`."""
    return saliency if game == "preservation" else 1 - saliency
