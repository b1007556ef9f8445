"""Mean curves over the rows of a run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class CurveMeans:
    """The mean of each curve over rows, of the finite values; rows are added in any order."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}  # term -> (2,steps): sum and number of values

    def add(self, curves: Mapping[str, Tensor]) -> None:
        """Add curves (steps,B)."""
        for term, values in curves.items():
            numbers = values.double().numpy(force=True)  # for the few numbers of a row much faster than torch
            finite = np.isfinite(numbers)
            total = np.where(finite, numbers, 0).sum(1)
            self.add_sums({term: torch.from_numpy(np.stack([total, finite.sum(1, dtype=np.float64)]))})

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Add the curves of a row, as `store.load_row` returns it."""
        self.add(dict(zip(row["terms"].tolist(), torch.from_numpy(row["curves"])[..., None])))

    def add_sums(self, sums: Mapping[str, Tensor]) -> None:
        """Add the `sums` of another CurveMeans. A shorter curve keeps its last value: a row that stopped stays as it was."""
        for term, new in sums.items():
            old = self.sums.get(term, torch.zeros_like(new))
            if old.shape == new.shape:
                self.sums[term] = old + new
                continue
            steps = max(old.shape[1], new.shape[1])
            self.sums[term] = sum((F.pad(x, (0, steps - x.shape[1]), "replicate") for x in (old, new)), torch.zeros(()))

    def means(self) -> dict[str, Tensor]:
        """Return term -> (steps,)."""
        return {term: total / count for term, (total, count) in self.sums.items()}
