"""IoU: the overlap of the thresholded saliency and the annotated region."""

import torch
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.regions import region_masks
from mpx.option_values import Share


@metric(
    direction="higher",
    needs=("annotations",),
    notes={"pixels": "of the network's image", "threshold": "between the map's smallest and largest value"},
)
def iou(saliency: Tensor, context: MetricContext, threshold: Share = 0.5) -> Tensor:
    """Return the IoU (B,) of the region and the pixels at or above the threshold.

    threshold: share of the way from the map's smallest to its largest value. NaN where no pixel of the network's image has
    its centre in the region.
    """
    region = region_masks(context.annotations, saliency)
    low, high = saliency.amin((1, 2, 3), keepdim=True), saliency.amax((1, 2, 3), keepdim=True)
    salient = saliency >= low + threshold * (high - low)
    overlap = (salient & region).sum((1, 2, 3)) / (salient | region).sum((1, 2, 3))
    return overlap.where(region.any((1, 2, 3)), torch.nan)
