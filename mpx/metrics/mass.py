"""Mass: the share of the saliency inside the annotated region."""

import torch
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.regions import region_masks


@metric(direction="higher", needs=("annotations",), notes={"pixels": "of the network's image"})
def mass(saliency: Tensor, context: MetricContext) -> Tensor:
    """Return the share (B,), in [0,1], of the saliency that lies in the region. A map of zeros counts as a constant one.

    Wang et al. 2020 (energy-based pointing game); Arras et al. 2022 (relevance mass accuracy). NaN where no pixel of the
    network's image has its centre in the region.
    """
    region = region_masks(context.annotations, saliency)
    is_empty = saliency.sum((1, 2, 3), keepdim=True) <= 0
    weights = torch.where(is_empty, torch.ones_like(saliency), saliency)
    share = (weights * region).sum((1, 2, 3)) / weights.sum((1, 2, 3))
    return share.where(region.any((1, 2, 3)), torch.nan)
