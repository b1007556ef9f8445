"""Pruning: connected parts of the evidence that make no difference are removed from a finished mask.

A search ends with specks, small parts of evidence without which the mask does the same. They are removed from the
smallest part on, in groups: a group that makes a difference is halved, and one that makes none is followed by a larger one.
So a row of n parts of which few matter takes some log n evaluations.
"""

import torch
from torch import Tensor

from mpx.learning.prepared_rows import PreparedRows

MIN_EVIDENCE = 0.1  # of a cell that belongs to a part
MAX_ROUNDS = 12  # evaluations of a row; what is left then stays


@torch.no_grad()
def pruned(rows: PreparedRows, parameter: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Return the parameters (B,1,h,w) without the parts that make no difference, and the forwards (B,) that this took.

    tolerance: by how much the support under the mask may rise, and that under its complement may fall, as a share of what
    full perturbation takes from the image. The parameters stay as they are where they are not a grid of cells, as that of
    superpixels, and in a game of several masks.
    """
    views = rows.method.views
    if any(view.mask_index for view in views) or rows.mask.cells(parameter) is not parameter:
        return parameter, torch.zeros(len(parameter))
    signs = {view.complement: 1 if view.weight > 0 else -1 for view in views}
    allowed = tolerance * (rows.support_before - rows.support_reference).abs()
    limits = {complement: sign * _support(rows, parameter, complement) + allowed for complement, sign in signs.items()}
    without_evidence = rows.evidence(torch.zeros_like(parameter))
    searches = [_PartSearch(evidence[0].cpu()) for evidence in rows.evidence(parameter)]
    rounds = torch.zeros(len(parameter))
    for _ in range(MAX_ROUNDS):
        groups = torch.stack([search.group() for search in searches])
        is_searched = groups.flatten(1).any(1)
        if not is_searched.any():
            break
        trial = torch.where(groups[:, None].to(parameter.device), without_evidence, parameter)
        same = torch.stack([sign * _support(rows, trial, side) <= limits[side] for side, sign in signs.items()]).all(0)
        parameter = torch.where(same.view(-1, 1, 1, 1), trial, parameter)
        rounds += is_searched
        for search, accepted in zip(searches, same.tolist()):
            search.proceed(accepted)
    return parameter, (rounds + 1) * len(signs)


def _support(rows: PreparedRows, parameter: Tensor, complement: bool) -> Tensor:
    """Return the support (B,) of the target under the mask or its complement."""
    mask = rows.mask(parameter)
    _, output = rows.evaluate(1 - mask if complement else mask)
    return rows.task.support(output, rows.prepared_targets)


class _PartSearch:
    """Which parts of one row's evidence (h,w) to try to remove next."""

    def __init__(self, evidence: Tensor):
        from scipy import ndimage  # slow to import

        labels, count = ndimage.label(evidence > MIN_EVIDENCE, torch.ones(3, 3))  # neighbours across corners too
        sizes = ndimage.sum_labels(evidence, labels, range(1, count + 1))
        self.labels = torch.from_numpy(labels)
        self.parts = torch.as_tensor(sizes).argsort() + 1  # the smallest first
        self.first = 0
        self.size = max(1, count // 2)  # of the group

    def group(self) -> Tensor:
        """Return the cells (h,w) of the parts to be tried next; none after the last part."""
        return torch.isin(self.labels, self.parts[self.first : self.first + self.size])

    def proceed(self, accepted: bool) -> None:
        """Go on after a group that was removed, or that makes a difference."""
        size = len(self.parts[self.first : self.first + self.size])
        if accepted or size <= 1:
            self.first += max(1, size)
        self.size = max(1, 2 * size if accepted else size // 2)
