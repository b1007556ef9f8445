"""ROAD (Rong et al. 2022): remove and debias, by filling in what is removed linearly from its neighbours, with noise.

An imputed pixel is the mean of its eight neighbours, 1/6 for those beside it, 1/12 for those at its corners, whether imputed
or not: a sparse linear system for all of them. Beyond the edges nothing counts. What the shape of the removed region could
tell the network is hidden that way.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

from mpx.metrics.batched import ask_stack
from mpx.metrics.curves import order

NEIGHBOURS = [(dy, dx, 1 / 12 if dy and dx else 1 / 6) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


def road(
    saliency: Tensor, classifier, images: Tensor, targets: Tensor, percentiles: tuple = (10, 20, 30, 40, 50, 60, 70, 80, 90),
    noise: float = 0.01, seed: int = 0, pictures: int = 64,
) -> dict[str, Tensor]:  # fmt: skip
    """(LeRF - MoRF) / 2: (B,) in [-1/2,1/2], high is good; ties in reading order.

    morf, lerf: mean probability of the class where the given percentages of pixels are imputed, the most relevant first or
    the least; noise: standard deviation, in units of [0,1]; the same draw for every row, so that a row is its own.
    """
    listed = isinstance(percentiles, Sequence) and len(percentiles)
    if not listed or not all(isinstance(p, (int, float)) and 0 < p < 100 for p in percentiles):
        raise ValueError(
            f"percentiles={percentiles} must be a list of numbers above 0 and below 100: something goes and something stays"
        )
    most = order(saliency)[:, 0].cpu().numpy()  # (B,H,W)
    size = most[0].size
    random = torch.Generator().manual_seed(seed)
    eta = noise * torch.randn(images.shape[1:], generator=random)
    means = []
    for rank in (most, order(-saliency)[:, 0].cpu().numpy()):
        shown = [
            torch.stack([impute(image, torch.from_numpy(r < round(size * p / 100)), eta) for p in percentiles])
            for image, r in zip(images.cpu(), rank)
        ]
        means.append(ask_stack(classifier, torch.stack(shown).to(images), targets, pictures).mean(1))
    morf, lerf = means
    return {"": (lerf - morf) / 2, "morf": morf, "lerf": lerf}


road.protocol = {
    **{"class": "the row's, softmax", "fill": "noisy linear imputation", "normalisation": "mean over the percentiles"},
    **{"ties": "in reading order", "better": {"": "higher", "morf": "lower", "lerf": "higher"}},
}


def impute(image: Tensor, removed: Tensor, eta: Tensor) -> Tensor:
    """image (3,H,W) with the pixels of `removed` (H,W) filled in, plus eta (3,H,W) there."""
    height, width = removed.shape
    gone = removed.numpy()
    number = np.where(gone, np.cumsum(gone).reshape(gone.shape) - 1, -1)  # each unknown's row of the system
    y, x = np.nonzero(gone)
    unknowns, known = np.arange(len(y)), image.double().numpy()
    total, right = np.zeros(len(y)), np.zeros((len(y), len(image)))
    entries = []
    for dy, dx, weight in NEIGHBOURS:
        there = (0 <= y + dy) & (y + dy < height) & (0 <= x + dx) & (x + dx < width)
        at = (y + dy)[there], (x + dx)[there]
        total[there] += weight
        stays, goes = unknowns[there][~gone[at]], unknowns[there][gone[at]]
        right[stays] += weight * known[:, at[0][~gone[at]], at[1][~gone[at]]].T
        entries.append((np.full(len(goes), -weight), goes, number[at][gone[at]]))
    values, rows, cols = (np.concatenate(part) for part in zip(*entries, (total, unknowns, unknowns)))
    system = coo_matrix((values, (rows, cols)), (len(y), len(y))).tocsc()
    solved = splu(system, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}).solve(right)
    out = image.clone()
    out[:, removed] = torch.from_numpy(solved.T).to(out) + eta[:, removed].to(out)
    return out
