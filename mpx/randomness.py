"""Random numbers that belong to a row.

Every draw of row b at an iteration comes from a generator keyed by (that row's seed, iteration, sample). It depends neither
on the batch size, nor on the row's position in the batch, nor on the order of the images.
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
        self._generators: dict[torch.device, list[torch.Generator]] = {}

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
        numbers = torch.empty(len(self.seeds), *shape, device=device, dtype=torch.float32)
        if device not in self._generators:  # created at the first draw, because most steps draw little
            self._generators[device] = [
                torch.Generator(device).manual_seed(key(seed, *moment)) for seed, moment in zip(self.seeds, self._moments)
            ]
        for row, generator in zip(numbers, self._generators[device]):
            fill(row, generator=generator)
        return numbers
