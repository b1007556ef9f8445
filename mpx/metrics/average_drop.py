"""Average drop, increase in confidence and average gain, where each pixel keeps as much of its colour as it is salient."""

import torch
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.baseline import Baseline
from mpx.metrics.baseline import baseline as baseline_images
from mpx.metrics.batched import stack_probabilities
from mpx.option_values import Count


@metric(
    direction={"": "lower", "increase": "higher", "gain": "higher"},
)
def average_drop(
    saliency: Tensor, context: MetricContext, baseline: Baseline = "mean", max_batch: Count = 64
) -> dict[str, Tensor]:
    """Return max(0, y - y_m) / y (B,), with y of the image and y_m of the image times its saliency.

    increase: whether y_m > y; gain: max(0, y_m - y) / (1 - y). Chattopadhay et al. 2018; Zhang et al. 2024 for the gain.
    NaN where y is not above 0, and for the gain where y_m is above 1: tasks other than probabilities may have such numbers.
    """
    reference = baseline_images(context, baseline)
    images = torch.stack([context.images, torch.lerp(reference, context.images, saliency)], 1)
    y, y_m = stack_probabilities(context, images, max_batch).T
    tiny = torch.finfo(y.dtype).tiny
    return {
        "": ((y - y_m).clamp(min=0) / y.clamp(min=tiny)).where(y > 0, torch.nan),
        "increase": (y_m > y).to(y),
        "gain": ((y_m - y).clamp(min=0) / (1 - y).clamp(min=tiny)).where(y_m <= 1, torch.nan),
    }
