"""Rankings: from the evidence of a learnt mask to a saliency whose order says something at every pixel.

A mask answers which region suffices. Most of it is exactly 0 or 1, so it does not say which of its pixels matter most, nor
which are next. The saliency does: it is what is shown in pictures and what deletion, insertion, pointing and boxes read.
The mask stays what it is: its values, its area and its perturbed images are never those of a ranking.

A ranking is a function `(evidence (B,1,H,W) in [0,1], context: RankingContext, **options) -> saliency (B,1,H,W) in [0,1]`.
A row's saliency does not depend on the other rows.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from mpx.explainers.base import ExplainerContext, to_saliency
from mpx.explainers.cam import gradcam
from mpx.models.classifier import Classifier
from mpx.option_values import NotNegative

FLOOR = 1e-3  # of a pixel that was never evidence, so that the prior orders these too


@dataclass(frozen=True)
class RankingContext:
    """What a ranking may use besides the evidence of its B rows."""

    trajectory: Tensor  # (B,1,H,W) in [0,1], the evidence of the parameter's mean over all iterations
    images: Tensor  # (B,C,H,W) in [0,1]
    classifier: Classifier  # frozen, and left as it is
    targets: Tensor  # (B,) or (B,T), as the task prepared them
    explainer_context: ExplainerContext  # for a ranking that asks an explainer


def mask(evidence: Tensor, context: RankingContext) -> Tensor:
    """Return the evidence itself, as published methods do."""
    return evidence


def trajectory(evidence: Tensor, context: RankingContext, weight: NotNegative = 0.05) -> Tensor:
    """Return e^2 + weight t of the evidence e and its mean t over the search, scaled to the maximum of e.

    The evidence leads. Where it is flat, pixels come first that were evidence early and long.
    """
    return _scaled(evidence**2 + weight * context.trajectory, evidence)


def prior(
    evidence: Tensor, context: RankingContext, weight: NotNegative = 0.05, gain: NotNegative = 10.0,
    layer: str | int | None = None,
) -> Tensor:  # fmt: skip
    """Return (e^2 + weight t + FLOOR) (1 + gain a g), scaled to the maximum of e: `trajectory` with Grad-CAM's map g.

    The prior orders pixels that the search treats alike, inside the mask and outside of it. a in [0,1] is how far it agrees
    with the evidence (`agreement`): a map that says nothing about this image has no influence. gain: of a map that agrees;
    its peak counts 1 + gain times as much as its zeros. layer: of Grad-CAM; None chooses one.
    """
    map_of_class = class_activation(context, layer)
    factor = 1 + gain * agreement(evidence, map_of_class).view(-1, 1, 1, 1) * map_of_class
    return _scaled((evidence**2 + weight * context.trajectory + FLOOR) * factor, evidence)


def agreement(evidence: Tensor, prior_map: Tensor) -> Tensor:
    """Return by how much the prior is higher on the evidence than on the image, as a share of the latter, (B,) in [0,1].

    0: no higher there than elsewhere; 1: at least twice as high.
    """
    on_evidence = (evidence * prior_map).sum((1, 2, 3)) / evidence.sum((1, 2, 3)).clamp(min=1e-9)
    ratio = on_evidence / prior_map.mean((1, 2, 3)).clamp(min=1e-9)
    return (ratio - 1).clamp(0, 1)


def class_activation(context: RankingContext, layer: str | int | None = None) -> Tensor:
    """Return Grad-CAM's saliency (B,1,H,W) in [0,1]; zeros, with a warning, where the network has no layer for it."""
    images, classifier, targets = context.images, context.classifier, context.targets
    try:
        with classifier.unfolded():  # the layer is read as the user's network computes it
            relevance = gradcam(images, classifier, targets, context.explainer_context, layer=layer)
    except ValueError as error:
        if layer is not None:
            raise ValueError(str(error).replace("explainer.layer=", "ranking.layer=")) from error
        reason = str(error).replace("explainer.layer=", "ranking.layer=, or set ranking=trajectory")
        warnings.warn(f"ranking=prior has no prior here, so the mask alone ranks the pixels: {reason}", stacklevel=2)
        return torch.zeros_like(images[:, :1])
    return to_saliency(relevance.detach().float().nan_to_num(0))


def _scaled(ranked: Tensor, evidence: Tensor) -> Tensor:
    """Scale (B,1,H,W) to the maximum of the evidence, so that an empty mask has no saliency."""
    largest, scale = (x.amax((1, 2, 3), keepdim=True) for x in (ranked, evidence))
    return ranked * (scale / largest.clamp(min=1e-9))
