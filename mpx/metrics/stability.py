"""Stability: whether other seeds give the same map. Rows are explained again, so this costs as much as several runs."""

from typing import Annotated

import torch
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.similarity import iou_of_pixels, spearman
from mpx.option_values import Allowed, Share

PAIRS = Allowed(lambda n: n >= 2, "at least 2, because pairs of maps are compared")


@metric(direction="higher", needs=("explain",))
def stability(
    saliency: Tensor, context: MetricContext, seeds: Annotated[int, PAIRS] = 3, threshold: Share = 0.5, seed: int = 1
) -> dict[str, Tensor]:
    """Return the mean IoU (B,) of the pixels of at least `threshold`, over all pairs of maps of several seeds.

    seeds: their number, from `seed` on. rank: mean rank correlation of the pairs. agreement: share of the pixels salient in
    any map that are salient in all.
    """
    maps = torch.stack([
        context.explain(context.classifier, context.images, context.targets, seed + i) for i in range(seeds)
    ])  # (seeds,B,1,H,W)
    pairs = [(a, b) for i, a in enumerate(maps) for b in maps[i + 1 :]]
    salient = maps >= threshold
    in_any, in_all = salient.any(0).sum((1, 2, 3)), salient.all(0).sum((1, 2, 3))
    return {
        "": torch.stack([iou_of_pixels(a >= threshold, b >= threshold) for a, b in pairs]).mean(0),
        "rank": torch.stack([spearman(a, b) for a, b in pairs]).mean(0),
        "agreement": torch.where(in_any > 0, in_all / in_any.clamp(min=1), 1.0),
    }
