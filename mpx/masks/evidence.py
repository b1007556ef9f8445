"""Evidence and mask by game: the evidence is m in a preservation, which keeps it, else 1 - m."""

from torch import Tensor


def evidence_of(mask: Tensor, game: str) -> Tensor:
    """Return the evidence, of the shape of the mask: m in a preservation, else 1 - m."""
    return mask if game == "preservation" else 1 - mask


def mask_of(evidence: Tensor, game: str) -> Tensor:
    """Return the mask with this evidence; inverse of `evidence_of`."""
    return evidence if game == "preservation" else 1 - evidence
