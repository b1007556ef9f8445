"""Keypoints: the mean saliency around each annotated point."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.option_values import OddSize


@metric(direction="higher", needs=("annotations",), notes={"pixels": "of the network's image"})
def keypoints(saliency: Tensor, context: MetricContext, window: OddSize = 5) -> dict[str, Tensor]:
    """Return the mean saliency (B,) in squares of `window` px around keypoints: by keypoint name, and the mean over them.

    Fong & Vedaldi 2017, section 5.4. Keypoints outside of the network's image do not count; at the image's edges the square
    is cut.
    """
    means = F.avg_pool2d(saliency, window, 1, window // 2, count_include_pad=False)[:, 0]
    points = [{} if annotation is None else annotation.points() for annotation in context.annotations]
    names = sorted({name for row in points for name in row})
    values = {name: torch.full((len(points),), torch.nan) for name in names}
    for row, named in enumerate(points):
        for name, (x, y) in named.items():
            values[name][row] = means[row, int(y), int(x)]
    return {"": torch.stack([torch.full((len(points),), torch.nan), *values.values()]).nanmean(0), **values}
