"""compile=true: one iteration's terms as one graph, from the mask to the losses.

A graph holds no generators, so its random numbers are inputs. The first iteration of a batch runs uncompiled and records
which numbers are drawn; from then on they are drawn beforehand, with the keys of their iteration.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mpx.devices import to_device
from mpx.randomness import RowRandom

if TYPE_CHECKING:
    from mpx.learning.objective import Objective

RandomNumbers = Callable[[str, int], RowRandom]  # (purpose, number of the draw) -> its random numbers


class Recording(NamedTuple):
    """What one iteration draws, and how many passes it takes."""

    streams: list["RecordedRandom"]  # in their order
    passes: float


class RecordedRandom(RowRandom):
    """Random numbers that remember which were drawn."""

    def __init__(self, rng: RowRandom, purpose: str, number: int):
        super().__init__(rng.seeds, rng.device)
        self.rng = rng
        self.key = (purpose, number)
        self.calls: list[tuple[Callable, tuple[int, ...]]] = []

    def normal(self, *shape: int) -> Tensor:
        return self._recorded(RowRandom.normal, shape)

    def uniform(self, *shape: int) -> Tensor:
        return self._recorded(RowRandom.uniform, shape)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return self._recorded(RowRandom.integers, (low, high, *shape))

    def _recorded(self, kind: Callable, arguments: tuple[int, ...]) -> Tensor:
        self.calls.append((kind, arguments))
        return kind(self.rng, *arguments)

    def redraw(self, rng: RowRandom) -> list[Tensor]:
        """Draw the same kinds of numbers from another object, onto the device."""
        drawn = [kind(rng, *arguments) for kind, arguments in self.calls]
        return [x if x.device == self.device else to_device(x, self.device) for x in drawn]


class DrawnRandom(RowRandom):
    """Random numbers that were drawn before."""

    def __init__(self, seeds: list[int], drawn: list[Tensor]):
        self.seeds = seeds
        self.drawn = iter(drawn)

    def normal(self, *shape: int) -> Tensor:
        return next(self.drawn)

    def uniform(self, *shape: int) -> Tensor:
        return next(self.drawn)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Return them on the device, unlike RowRandom."""
        return next(self.drawn)


def compiled_terms(objective: "Objective", parameter: Tensor, counts: Tensor, numbers: RandomNumbers) -> dict[str, Tensor]:
    """Return the terms (B,) of an objective. counts: (B,) iterations done, of each row."""
    if objective.recorded is None:
        streams: list[RecordedRandom] = []

        def recorded(purpose: str, number: int) -> RowRandom:
            streams.append(RecordedRandom(numbers(purpose, number), purpose, number))
            return streams[-1]

        passes = objective.passes
        terms = objective.terms_of_numbers(parameter, counts, recorded)
        objective.recorded = Recording(streams, objective.passes - passes)
        return terms
    objective.passes += objective.recorded.passes
    drawn = [stream.redraw(numbers(*stream.key)) for stream in objective.recorded.streams]
    torch.compiler.cudagraph_mark_step_begin()
    return objective.classifier.compiled(terms_of_drawn)(objective, parameter, counts, drawn)


def terms_of_drawn(
    objective: "Objective", parameter: Tensor, counts: Tensor, drawn: list[list[Tensor]]
) -> dict[str, Tensor]:
    """Return the terms at numbers that were drawn before, in the order of the recorded streams."""
    streams: Iterator[list[Tensor]] = iter(drawn)

    def numbers(purpose: str, number: int) -> RowRandom:
        return DrawnRandom(objective.rng.seeds, next(streams))

    return objective.terms_of_numbers(parameter, counts, numbers)
