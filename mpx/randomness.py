"""Random numbers that belong to a row.

Every draw of row b at an iteration comes from a generator keyed by (that row's seed, iteration, sample), so it depends
neither on the batch size, nor on the row's place in the batch, nor on the order of the images.
"""

import hashlib

import torch
from torch import Tensor


def key(*parts) -> int:
    """A 63-bit integer from any printable parts; the same on every machine."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


class RowRandom:
    """The random numbers of B rows; `rng.at(iteration, sample)` turns to those of one evaluation of the objective."""

    def __init__(self, seeds: list[int], device="cpu"):
        self.seeds, self.device = seeds, torch.device(device)
        self.at("setup")

    def at(self, now, sample: int = 0) -> "RowRandom":
        """now: an iteration or what else is drawn for; a list has each row's."""
        now = now if isinstance(now, list) else [now] * len(self.seeds)
        self._now, self._generators = [(one, sample) for one in now], {}
        return self

    def _draw(self, device, shape, fill) -> Tensor:
        out = torch.empty(len(self.seeds), *shape, device=device, dtype=torch.float32)
        if device not in self._generators:  # made at the first draw: most steps draw from few
            self._generators[device] = [
                torch.Generator(device).manual_seed(key(seed, *now)) for seed, now in zip(self.seeds, self._now)
            ]
        for row, generator in zip(out, self._generators[device]):
            fill(row, generator=generator)
        return out

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, (B,*shape)."""
        return self._draw(self.device, shape, Tensor.normal_)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0,1), (B,*shape)."""
        return self._draw(self.device, shape, Tensor.uniform_)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Uniform on {low, ..., high}, (B,*shape) int64; on the CPU always, so that reading them never waits."""
        return low + (self._draw(torch.device("cpu"), shape, Tensor.uniform_) * (high - low + 1)).long()
