"""Weak localisation (Fong & Vedaldi 2017, section 5.6 and table 1): the box around the thresholded saliency.

A row's columns are the IoU with the best of the class's boxes at each threshold of a grid; the summary tunes the threshold.
"""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.boxes import THRESHOLD_GRIDS, best_iou, thresholds, tight_boxes
from mpx.metrics.summary import RowValues, SummaryContext
from mpx.option_values import Allowed, Share, one_of

FOLDS = Allowed(lambda n: n >= 2, "at least 2: a threshold is tuned on images that it is not scored on")


def localisation_error(
    columns: Mapping[str, np.ndarray],
    context: SummaryContext,
    rule: str = "energy",
    folds: int = 2,
    min_iou: float = 0.5,
) -> dict[str, RowValues]:
    """Summarise as the share of rows with an IoU below `min_iou`, each at the threshold that is best on other images."""
    errors = {name: _error_of_rule(columns, context, name, folds, min_iou) for name in THRESHOLD_GRIDS}
    return {"": errors[rule], **errors}


def _error_of_rule(
    columns: Mapping[str, np.ndarray], context: SummaryContext, rule: str, folds: int, min_iou: float
) -> RowValues:
    grid = {suffix: values for suffix, values in columns.items() if suffix.startswith(f"{rule}@")}
    iou = np.stack(list(grid.values()))  # (thresholds, N)
    error = np.where(np.isfinite(iou), iou < min_iou, np.nan)
    with_box = np.isfinite(error[0])
    fold = np.full(error.shape[1], -1)
    fold[with_box] = np.unique(context.image_indices[with_box], return_inverse=True)[1] % folds
    values, tuned = np.full(error.shape[1], np.nan), []
    for k in range(folds):
        scored, tuning = fold == k, with_box & (fold != k)
        if scored.any() and tuning.any():
            best = int(error[:, tuning].mean(1).argmin())
            values[scored] = error[best, scored]
            tuned.append(float(list(grid)[best].split("@")[1]))
    return RowValues(values, notes={"thresholds": tuned})


@metric(
    direction="lower",
    needs=("annotations",),
    notes={
        "pixels": "of the network's image",
        "box": "around all pixels at or above the threshold",
        "threshold": "of each fold of the images, the best on the other folds; fixed in the interval",
    },
    summary=localisation_error,
)
def localisation(
    saliency: Tensor, context: MetricContext, rule: Annotated[str, one_of(*THRESHOLD_GRIDS)] = "energy",
    folds: Annotated[int, FOLDS] = 2, min_iou: Share = 0.5,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the IoU (B,) with the class's best box at each threshold of three rules: columns `rule@threshold`.

    The box lies around all pixels at or above the threshold, not the largest component of them; it is the whole image where
    no pixel is. Summarised as an error at a threshold tuned on other images: these are dealt out to `folds` folds, and each
    fold is scored at the threshold with the smallest error on all others. One image alone has no error. rule: value, energy
    or mean, of the main value. min_iou: smallest IoU of a correct box.
    """
    names = [f"{rule}@{alpha:g}" for rule, grid in THRESHOLD_GRIDS.items() for alpha in grid]
    return dict(zip(names, best_iou(tight_boxes(saliency, thresholds(saliency)), context.annotations).T))
