"""Complexity: how concentrated a map is; the network is not used."""

import torch
from torch import Tensor

from mpx.metrics.base import Direction, MetricContext, metric
from mpx.option_values import Share

LOWER: tuple[str, ...] = ("entropy", "effective_area", "area", "mean")
DIRECTION: dict[str, Direction] = {"": "higher", **{suffix: "lower" for suffix in LOWER}}


@metric(direction=DIRECTION)
def complexity(
    saliency: Tensor, context: MetricContext, eps: Share = 1e-5, threshold: Share = 0.5
) -> dict[str, Tensor]:
    """Return the Gini index of the pixels (B,), in [0,1): 0 for a constant map, nearly 1 where one pixel has all. Beside it:

    entropy         nats, of the map as a distribution over pixels: 0 for one pixel, log HW for a constant map
    effective_area  exp(entropy) / HW: the share of pixels that a region with this entropy would fill
    sparsity        share of pixels of at most `eps`
    area            share of pixels of at least `threshold`
    mean            mean of the map
    binarity        1 - 4 mean s(1 - s): 1 for a map of zeros and ones, 0 for one of halves
    Gini: Chalasani et al. 2020, entropy: Bhatt et al. 2020; for these a map of zeros counts as a constant one.
    """
    s = saliency.flatten(1).cpu().double()
    n = s.shape[1]
    positive = torch.where(s.sum(1, keepdim=True) > 0, s, 1)
    share = positive / positive.sum(1, keepdim=True)
    rank = torch.arange(1, n + 1, device=s.device)
    entropy = -torch.xlogy(share, share).sum(1)
    return {
        "": (share.sort(1)[0] * (2 * rank - n - 1)).sum(1) / n,
        "entropy": entropy,
        "effective_area": entropy.exp() / n,
        "sparsity": (s <= eps).double().mean(1),
        "area": (s >= threshold).double().mean(1),
        "mean": s.mean(1),
        "binarity": 1 - 4 * (s * (1 - s)).mean(1),
    }
