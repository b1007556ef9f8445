"""Weak localisation (Fong & Vedaldi 2017, section 5.6 and table 1): the box around the thresholded saliency.

A row's columns are the IoU with the best of the class's boxes at each threshold of a grid; the summary chooses a threshold.
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.boxes import THRESHOLD_GRIDS, best_iou, thresholds, tight_boxes
from mpx.metrics.summary import RowValues, SummaryContext


def localisation_error(
    columns: Mapping[str, np.ndarray],
    context: SummaryContext,
    rule: str = "energy",
    tuning_share: float = 0.5,
    min_iou: float = 0.5,
) -> dict[str, RowValues]:
    """Summarise as the share of rows with an IoU below `min_iou`, at the threshold that is best on other rows."""
    errors = {name: _error_of_rule(columns, context, name, tuning_share, min_iou) for name in THRESHOLD_GRIDS}
    return {"": errors[rule], **errors}


def _error_of_rule(
    columns: Mapping[str, np.ndarray], context: SummaryContext, rule: str, tuning_share: float, min_iou: float
) -> RowValues:
    grid = {suffix: values for suffix, values in columns.items() if suffix.startswith(f"{rule}@")}
    iou = np.stack(list(grid.values()))  # (thresholds, N)
    error = np.where(np.isfinite(iou), iou < min_iou, np.nan)
    rows = np.flatnonzero(np.isfinite(error[0]))  # rows with a box
    numbers = np.unique(context.image_indices[rows], return_inverse=True)[1]
    tunes = numbers * tuning_share % 1 < tuning_share
    tuning_rows, scored_rows = rows[tunes], rows[~tunes]
    values = np.full(error.shape[1], np.nan)
    if not len(scored_rows):  # a single row cannot both tune and count
        return RowValues(values)
    best = int(error[:, tuning_rows].mean(1).argmin())
    values[scored_rows] = error[best, scored_rows]
    return RowValues(values, notes={"threshold": float(list(grid)[best].split("@")[1]), "tuning_rows": len(tuning_rows)})


@metric(
    direction="lower",
    needs=("annotations",),
    notes={
        "pixels": "of the network's image",
        "box": "around all pixels at or above the threshold",
        "threshold": "tuned on rows that do not count in the error; fixed in the interval",
    },
    summary=localisation_error,
)
def localisation(
    saliency: Tensor, context: MetricContext, rule: str = "energy", tuning_share: float = 0.5, min_iou: float = 0.5
) -> dict[str, Tensor]:
    """Return the IoU (B,) with the class's best box at each threshold of three rules: columns `rule@threshold`.

    The box lies around all pixels at or above the threshold, not the largest component of them; it is the whole image where
    no pixel is. Summarised as the error at the threshold that is best for the rows of a share `tuning_share` of the images,
    by default every other one. rule: value, energy or mean, of the main value. min_iou: smallest IoU of a correct box.
    """
    if rule not in THRESHOLD_GRIDS:
        raise ValueError(f"rule={rule!r} must be one of {', '.join(THRESHOLD_GRIDS)}")
    if not 0 < tuning_share < 1:
        raise ValueError(
            f"tuning_share={tuning_share} must be above 0 and below 1: it is the share of images that tune the threshold"
        )
    names = [f"{rule}@{alpha:g}" for rule, grid in THRESHOLD_GRIDS.items() for alpha in grid]
    return dict(zip(names, best_iou(tight_boxes(saliency, thresholds(saliency)), context.annotations).T))
