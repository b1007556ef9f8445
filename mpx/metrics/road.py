"""ROAD (Rong et al. 2022): remove and debias. Removed pixels are imputed linearly from their neighbours, with noise.

An imputed pixel is the mean of its eight neighbours, imputed or not, with weights 1/6 beside it and 1/12 at its corners: a
sparse linear system for all of them. Beyond the image's edges nothing counts. The imputation hides from the network what the
shape of the removed region could tell.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.batched import stack_probabilities
from mpx.metrics.deletion_insertion import saliency_ranks
from mpx.option_values import Allowed, Count, NotNegative

NEIGHBOURS = [(dy, dx, 1 / 12 if dy and dx else 1 / 6) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]



def _are_percentiles(values: Any) -> bool:
    is_list = isinstance(values, Sequence) and len(values) > 0
    return is_list and all(isinstance(value, (int, float)) and 0 < value < 100 for value in values)


Percentiles = Annotated[Sequence[float], Allowed(_are_percentiles, "a list of numbers above 0 and below 100")]


@metric(
    direction={"": "higher", "morf": "lower", "lerf": "higher"},
    notes={
        "imputation": "noisy, linear",
        "normalisation": "mean over the percentiles",
        "ties": "in reading order, so that each percentage is met; pytorch-grad-cam removes tied pixels together",
    },
)
def road(
    saliency: Tensor, context: MetricContext, percentiles: Percentiles = (10, 20, 30, 40, 50, 60, 70, 80, 90),
    noise: NotNegative = 0.01, seed: int = 0, max_batch: Count = 64,
) -> dict[str, Tensor]:  # fmt: skip
    """Return (LeRF - MoRF) / 2 (B,), in [-1/2,1/2].

    morf, lerf: mean probability of the class where the given percentages of pixels are imputed, the most or the least
    relevant first. noise: standard deviation, for images in [0,1]; every row has the same draw, so that rows are
    independent of each other.

    Equal pixels are imputed in reading order until the percentage is met. pytorch-grad-cam 1.5.7 imputes all pixels at least
    as relevant as a percentile of the map: of a map that is 0 in half of the image, it imputes that whole half at each lower
    percentage. Both agree where no percentage cuts through equal pixels.
    """
    random = torch.Generator().manual_seed(seed)
    offsets = noise * torch.randn(context.images.shape[1:], generator=random)
    means = []
    for relevance in (saliency, -saliency):
        ranks = saliency_ranks(relevance)[:, 0].cpu()  # (B,H,W)
        counts = [round(ranks[0].numel() * p / 100) for p in percentiles]
        imputed = [
            torch.stack([impute(image, rank < count, offsets) for count in counts])
            for image, rank in zip(context.images.cpu(), ranks)
        ]
        means.append(stack_probabilities(context, torch.stack(imputed).to(context.images), max_batch).mean(1))
    morf, lerf = means
    return {"": (lerf - morf) / 2, "morf": morf, "lerf": lerf}


def impute(image: Tensor, removed: Tensor, offsets: Tensor) -> Tensor:
    """Return the image (C,H,W) with the pixels of `removed` (H,W) imputed, plus the offsets (C,H,W) there."""
    from scipy.sparse.linalg import splu  # slow to import

    system, right = _linear_system(image.double().numpy(), removed.numpy())
    solution = splu(system, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}).solve(right)
    out = image.clone()
    out[:, removed] = torch.from_numpy(solution.T).to(out) + offsets[:, removed].to(out)
    return out


def _linear_system(image: np.ndarray, removed: np.ndarray) -> tuple[Any, np.ndarray]:
    """Return the sparse matrix (n,n) and the right side (n,C) of the n removed pixels of an image (C,H,W)."""
    from scipy.sparse import coo_matrix  # slow to import

    height, width = removed.shape
    number = np.where(removed, np.cumsum(removed).reshape(removed.shape) - 1, -1)  # each unknown's row of the system
    y, x = np.nonzero(removed)
    unknowns = np.arange(len(y))
    total, right = np.zeros(len(y)), np.zeros((len(y), len(image)))
    entries = []
    for dy, dx, weight in NEIGHBOURS:
        exists = (0 <= y + dy) & (y + dy < height) & (0 <= x + dx) & (x + dx < width)
        neighbour = (y + dy)[exists], (x + dx)[exists]
        is_unknown = removed[neighbour]
        total[exists] += weight
        with_known, with_unknown = unknowns[exists][~is_unknown], unknowns[exists][is_unknown]
        right[with_known] += weight * image[:, neighbour[0][~is_unknown], neighbour[1][~is_unknown]].T
        entries.append((np.full(len(with_unknown), -weight), with_unknown, number[neighbour][is_unknown]))
    values, rows, columns = (np.concatenate(part) for part in zip(*entries, (total, unknowns, unknowns)))
    return coo_matrix((values, (rows, columns)), (len(y), len(y))).tocsc(), right
