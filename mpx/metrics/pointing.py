"""Pointing game (Zhang et al. 2016): whether the most salient pixel hits the annotated class."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.summary import RowValues, SummaryContext
from mpx.option_values import Positive


def mean_over_classes(columns: Mapping[str, np.ndarray], context: SummaryContext, tolerance: float) -> dict[str, RowValues]:
    """Summarise hits as the mean over classes of each class's mean."""
    return {suffix: RowValues(values, groups=context.targets) for suffix, values in columns.items()}


@metric(
    direction="higher",
    needs=("annotations",),
    notes={"pixels": "of the original image", "mean": "over classes of each class's mean"},
    summary=mean_over_classes,
)
def pointing(saliency: Tensor, context: MetricContext, tolerance: Positive = 15.0) -> dict[str, Tensor]:
    """Return 1 (B,) where the most salient pixel lies less than `tolerance` original pixels from the class's region, else 0.

    As TorchRay computes it; of equal pixels the first in reading order counts. NaN where the network's image shows nothing
    of the region. `difficult`: the same, of regions that are small and beside other classes.
    """
    width = saliency.shape[-1]
    hits = torch.full((len(saliency),), torch.nan)
    for row, (annotation, peak) in enumerate(zip(context.annotations, saliency.flatten(1).argmax(1).tolist())):
        if annotation is None:
            continue
        x, y = annotation.to_original(peak % width + 0.5, peak // width + 0.5)
        rows, columns = annotation.original_mask().nonzero().double().T + 0.5
        if annotation.shows(columns, rows).any():
            hits[row] = ((columns - x) ** 2 + (rows - y) ** 2).min() < tolerance**2
    difficult = torch.tensor([a is not None and a.region.difficult for a in context.annotations])
    return {"": hits, "difficult": hits.where(difficult, torch.nan)}
