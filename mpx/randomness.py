"""Random numbers that do not depend on the batch.

Every draw of a row comes from a generator keyed by (seed, moment, sample); a moment is e.g. an iteration. Rows of one seed
at one moment get the same numbers, drawn once: a photo that changes by a grey level keeps its draws, so that masks of two
photos, targets or networks differ by these and not by chance.
"""

import hashlib
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor


def key(*parts: object) -> int:
    """Return a 63-bit integer for any printable parts; the same on every machine."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


class RowRandom:
    """Random numbers of B rows at one moment, e.g. an iteration. Consecutive draws from one object differ.

    `rng.at(moment, sample)` returns a new object for another moment, and leaves `rng` as it is.
    """

    def __init__(self, seeds: list[int], device: torch.device | str = "cpu", moments: Sequence[tuple] | None = None):
        """seeds: one for each row. moments: (moment, sample) of each row; ("setup", 0) by default."""
        self.seeds = seeds
        self.device = torch.device(device)
        self._moments = [("setup", 0)] * len(seeds) if moments is None else moments
        self._generators: dict[torch.device, dict[tuple, torch.Generator]] = {}

    @property
    def batch_size(self) -> int:
        return len(self.seeds)

    def at(self, moment: Hashable | list, sample: int = 0) -> "RowRandom":
        """Return the random numbers of another moment: an iteration, a purpose, or a list with one moment for each row."""
        moments = moment if isinstance(moment, list) else [moment] * len(self.seeds)
        return RowRandom(self.seeds, self.device, [(row_moment, sample) for row_moment in moments])

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers (B,*shape)."""
        return self._draw(self.device, shape, Tensor.normal_)

    def uniform(self, *shape: int) -> Tensor:
        """Draw numbers uniform on [0,1), (B,*shape)."""
        return self._draw(self.device, shape, Tensor.uniform_)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Draw integers uniform on {low, ..., high}, (B,*shape) int64; always on the CPU, so that reading never waits."""
        return low + (self._draw(torch.device("cpu"), shape, Tensor.uniform_) * (high - low + 1)).long()

    def _draw(self, device: torch.device, shape: tuple[int, ...], fill: Callable) -> Tensor:
        keys = [(seed, *moment) for seed, moment in zip(self.seeds, self._moments)]
        generators = self._generators.setdefault(device, {})
        draws: dict[tuple, Tensor] = {}
        for row_key in dict.fromkeys(keys):
            if row_key not in generators:  # created at the first draw, because most steps draw little
                generators[row_key] = torch.Generator(device).manual_seed(key(*row_key))
            draws[row_key] = fill(torch.empty(shape, device=device, dtype=torch.float32), generator=generators[row_key])
        return torch.stack([draws[row_key] for row_key in keys])  # a copy for each row, in whatever batch it is
