"""Contexts of operators, for tests that call an operator by itself."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mpx import Classifier
from mpx.augmentations import AugmentationContext
from mpx.masks.base import MaskContext
from mpx.perturbations.base import FixedPixelPerturbation, PerturbationContext
from mpx.randomness import RowRandom
from mpx.regularizers import RegularizerContext
from mpx.scores import ScoreContext


class MeanColor(nn.Module):
    """Logits of three classes: the mean of each colour."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def mask_context(size: Sequence[int], game: str = "deletion", images: Tensor | None = None) -> MaskContext:
    """Of pixels (H,W), or of other elements (C,h,w)."""
    shape = (1, *size) if len(size) == 2 else tuple(size)
    return MaskContext(shape, torch.zeros(1, 3, *shape[1:]) if images is None else images, game)


def perturbation_context(images: Tensor, network: nn.Module | None = None) -> PerturbationContext:
    """Rows of seeds 1, 2, ... and target 0."""
    classifier = Classifier(network or MeanColor()).requires_grad_(False)
    targets = torch.zeros(len(images), dtype=torch.long, device=images.device)
    return PerturbationContext(classifier, targets, RowRandom([*range(1, len(images) + 1)], images.device))


def regularizer_context(evidence: Tensor, iteration: int = 0, **fields) -> RegularizerContext:
    """Without a frame, and of one area, 0.1; fields: any that differ."""
    images = fields.get("images", evidence.new_full((len(evidence), 3, *evidence.shape[2:]), 0.5))
    context = {
        "evidence": evidence,
        "padded_evidence": evidence,
        "inside": evidence[0].numel(),
        "parameter": evidence,
        "images": images,
        "areas": evidence.new_full((len(evidence),), 0.1),
        "iteration": torch.full((len(evidence),), iteration),
        "perturbation": FixedPixelPerturbation(images, images),
    }
    return RegularizerContext(**context | fields)


def augmentation_context(rng: RowRandom, iteration: int = 0) -> AugmentationContext:
    return AugmentationContext(rng, torch.full((rng.batch_size,), iteration))


def score_context(logits: Tensor, sign: float = 1.0) -> ScoreContext:
    return ScoreContext(logits, sign)
