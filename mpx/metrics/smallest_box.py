"""The smallest box: one whose perturbation takes the class away (minimality), or a crop that keeps it (saliency metric)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.batched import class_probabilities
from mpx.metrics.boxes import area_share, pixels_inside, scaled_to_unit, tight_boxes
from mpx.option_values import Blur, Count, NotNegative, Share, one_of
from mpx.perturbations.blur import gaussian_blur
from mpx.tasks.normalised import MIN_DROP, normalise

LEVELS = (80, 90, 95, 99)  # per cent of the normalised probability that the box must take


@metric(
    direction="lower",
    notes={
        "normalisation": "(p_before - p) / (p_before - p_reference)",
        "perturbation": "Gaussian blur",
        "unit": "share of the image's area",
    },
)
def minimality(
    saliency: Tensor, context: MetricContext, sigma: Blur = 10.0, thresholds: Count = 11,
    level: Annotated[int, one_of(*LEVELS)] = 90, min_drop: NotNegative = MIN_DROP, max_batch: Count = 64,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the area (B,) of the smallest box whose blurring takes 80, 90, 95 and 99 % of the normalised probability.

    Fong & Vedaldi 2017, section 5.3: the map is scaled to [0,1], the boxes lie around the pixels at or above `thresholds`
    evenly spaced values from 0 (the whole image, which takes all) to 1; p_reference is of the image blurred everywhere by
    `sigma` px. level: of the main value. NaN where p_before - p_reference is below `min_drop`.
    """
    images, size = context.images, context.images.shape[-2:]
    grid = torch.linspace(0, 1, thresholds, dtype=torch.float64).expand(len(images), -1)
    boxes = tight_boxes(scaled_to_unit(saliency), grid)  # (B,A,4); the box of threshold 0 is the whole image
    blurred = gaussian_blur(images, sigma)
    empty_box = boxes.new_zeros(len(boxes), 1, 4)
    all_boxes = torch.cat([empty_box, boxes], 1)

    def make_images(row: Tensor, number: Tensor) -> Tensor:
        return torch.where(pixels_inside(all_boxes[row, number], size), blurred[row], images[row])

    p = class_probabilities(context, make_images, all_boxes.shape[1], max_batch)
    normalised = normalise(p[:, 1:], p[:, :1], p[:, 1:2], min_drop)
    area, has_value = area_share(boxes, size), normalised[:, 0].isfinite()
    areas_of_levels = {
        str(percent): area.where(normalised <= 1 - percent / 100 + 1e-6, torch.inf).amin(1).where(has_value, torch.nan)
        for percent in LEVELS
    }
    return {"": areas_of_levels[str(level)], **areas_of_levels}


@metric(direction="lower", needs=("probability",), notes={"resize": "bilinear, antialiased"})
def saliency_metric(
    saliency: Tensor, context: MetricContext, threshold: Share = 0.5, max_batch: Count = 64
) -> dict[str, Tensor]:
    """Return log max(area, 0.05) - log p (B,), p of the class in the tightest crop, resized to the image's size.

    Dabkowski & Gal 2017. The crop lies around all pixels at or above `threshold` of the map scaled to [0,1]; `area` is its
    share of the image.
    """
    size = context.images.shape[-2:]
    thresholds = torch.full((len(saliency), 1), threshold, dtype=torch.float64)
    boxes = tight_boxes(scaled_to_unit(saliency), thresholds)[:, 0]
    area = area_share(boxes, size)

    def make_images(row: Tensor, number: Tensor) -> Tensor:
        crops = []
        for r in row.tolist():
            x0, y0, x1, y1 = boxes[r].int().tolist()
            crop = context.images[r : r + 1, :, y0:y1, x0:x1]
            crops.append(F.interpolate(crop, tuple(size), mode="bilinear", antialias=True, align_corners=False))
        return torch.cat(crops)

    p = class_probabilities(context, make_images, 1, max_batch)[:, 0]
    return {"": area.clamp(min=0.05).log() - p.clamp(min=torch.finfo(p.dtype).tiny).log(), "area": area}
