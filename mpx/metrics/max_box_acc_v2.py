"""MaxBoxAccV2 (Choe et al. 2020): the boxes of the components of the thresholded saliency."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.boxes import annotated_boxes, component_boxes, scaled_to_unit
from mpx.metrics.summary import RowValues, SummaryContext
from mpx.option_values import Count

OVERLAPS = (0.3, 0.5, 0.7)


def best_box_accuracy(columns: Mapping[str, np.ndarray], context: SummaryContext, levels: int = 100) -> dict[str, RowValues]:
    """Summarise as the share of rows whose box is right, at the best threshold on these rows; the main value is the mean."""
    iou = np.stack(list(columns.values()))  # (levels, N)
    has_box = np.isfinite(iou[0])
    accuracies = {}
    for overlap in OVERLAPS:
        hit = np.where(has_box, iou >= overlap, np.nan)
        best = int(hit[:, has_box].mean(1).argmax()) if has_box.any() else 0
        accuracies[f"{overlap * 100:.0f}"] = RowValues(hit[best], notes={"threshold": float(list(columns)[best][1:])})
    return {"": RowValues(np.stack([row.values for row in accuracies.values()]).mean(0)), **accuracies}


@metric(
    direction="higher",
    needs=("annotations",),
    notes={
        "pixels": "of the network's image",
        "box": "around each component",
        "threshold": "the best on the scored rows, as published",
    },
    summary=best_box_accuracy,
)
def max_box_acc_v2(saliency: Tensor, context: MetricContext, levels: Count = 100) -> dict[str, Tensor]:
    """Return the IoU (B,) of the best pair of a component's box and a box of the class, at thresholds 0, 1/levels, ...

    Choe et al. 2020: thresholds in the map's range, pixels above the threshold, 8-connected, all components. Summarised as
    the share of rows with an IoU of at least 0.3, 0.5 and 0.7, each at its best threshold. Unlike in that paper's code, a
    component's holes give no boxes.
    """
    maps = scaled_to_unit(saliency)[:, 0].cpu().numpy()
    best = torch.full((len(maps), levels), torch.nan)
    for row, (pixels, annotation) in enumerate(zip(maps, context.annotations)):
        boxes = annotated_boxes(annotation)
        if len(boxes):
            best[row] = torch.stack([box_iou(component_boxes(pixels > t / levels), boxes).amax() for t in range(levels)])
    return {f"@{t / levels:g}": values for t, values in enumerate(best.T)}
