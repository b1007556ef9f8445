"""Solving any number of rows, a batch at a time or continuously, within the available memory.

The library (mpx.api) and a run's workers (mpx.runs) both solve their rows here, each with its own way to optimize a batch.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from mpx.devices import free_memory
from mpx.errors import is_out_of_memory
from mpx.explanation import Explanation
from mpx.learning.attribution import Attribution
from mpx.learning.batch import RowBatch, without_gradient
from mpx.learning.continuous import ContinuousBatch
from mpx.learning.method import Method
from mpx.learning.objective import Objective
from mpx.learning.outcome import to_explanation
from mpx.learning.rows import Row, RowState, shared_time, stacked_places
from mpx.models.classifier import Classifier

Batch = RowBatch | Attribution
Optimize = Callable[[RowBatch], None]  # optimizes a batch until it pauses: loop.optimize, or a fit by Lightning


def prepare_batch(
    method: Method,
    classifier: Classifier,
    rows: Sequence[Row],
    snapshots: int = 24,
    padded_size: int = 0,
    keep_together: bool = False,
) -> Batch:
    """Return rows prepared as a batch on the classifier's device; an explainer's batch is finished.

    padded_size: the batch is filled up to this size by repeating its last row. keep_together: rows that stop by themselves
    stay until all have finished, for no other row will enter.
    """
    start, device = time.perf_counter(), classifier.device
    padded = [*rows, *[rows[-1]] * (padded_size - len(rows))]
    images = torch.stack([row.image for row in padded]).to(device)
    targets = torch.tensor([row.target for row in padded], device=device)
    requested_areas = [row.area for row in padded if row.area is not None]
    areas = torch.tensor(requested_areas, device=device) if requested_areas else None
    names, places = [row.image_name for row in padded], stacked_places(padded)
    objective = Objective(method, classifier, images, targets, names, areas, places)
    batch: Batch
    if method.explainer:
        batch = Attribution(objective, len(rows))
    elif method.stop:
        batch = ContinuousBatch(objective, snapshots, len(rows), keep_together)
    else:
        batch = RowBatch(objective, snapshots, len(rows))
    for state in batch.rows:
        state.seconds += (time.perf_counter() - start) / len(rows)
    return batch


def optimize_timed(batch: RowBatch, optimize: Optimize) -> None:
    """Optimize a batch until it pauses, and share the time out among its rows."""
    with shared_time([row for row in batch.rows if not row.finished]):
        optimize(batch)


def solve(
    method: Method,
    classifier: Classifier,
    rows: Sequence[Row],
    optimize: Optimize,
    snapshots: int = 24,
    padded_size: int = 0,
) -> tuple[Explanation, dict[int, str]]:
    """Explain one batch of rows. Return the rows that did not fail, and the failures: index -> sentence."""
    first = batch = prepare_batch(method, classifier, rows, snapshots, padded_size)
    while isinstance(batch, RowBatch) and not batch.finished:
        optimize_timed(batch, optimize)
        unfinished = [row for row in batch.rows if not row.finished]
        if unfinished:
            batch = ContinuousBatch.gather(unfinished, padded_size)  # the states of the first batch go on
    return to_explanation(first.objective, first.rows, rows)


@dataclass
class Solution:
    """The rows of one batch, their explanation without the rows that failed, and the failures: index -> sentence."""

    rows: list[Row]
    explanation: Explanation
    failures: dict[int, str]


@dataclass
class PreparedBatch:
    """The rows of a batch and the batch as it was prepared; None while it is being prepared."""

    rows: list[Row]
    batch: Batch | None = None


class RowSolver:
    """Solves the rows that `next_rows(n)` returns, at most n at a time, until it returns none.

    prepare: (rows, padded_size=) -> batch, e.g. a partial of `prepare_batch`. optimize: optimizes a batch until it pauses.
    Where rows stop by themselves, the next row enters for a finished one (continuous batching). A batch's solution
    is yielded when its last row has finished, perhaps after that of a later batch.

    pad: fill every batch up to batch_size, so that its shape, and with it the rounding, is always the same.
    position_matters: (batch_size) -> bool, e.g. a partial of `batch_position_matters`. It implies `pad`; where it returns
    True, rows are solved one at a time. can_halve: restart with half as many rows where memory runs out, else raise.
    warn: is called with a sentence of either.
    """

    def __init__(
        self,
        prepare: Callable[..., Batch],
        optimize: Optimize,
        next_rows: Callable[[int], list[Row]],
        batch_size: int,
        warn: Callable[[str], None],
        position_matters: Callable[[int], bool] | None = None,
        pad: bool = False,
        can_halve: bool = True,
    ):
        self.prepare = prepare
        self.optimize = optimize
        self.next_rows = next_rows
        self.batch_size = batch_size
        self.warn = warn
        self.position_matters = position_matters
        self.pad = pad or position_matters is not None
        self.can_halve = can_halve
        self._told_of_gradients = False
        self._checked_size: int | None = None  # batch size for which position_matters was called
        # a row goes from `next_rows` to waiting, and prepared to entering, to active, and with its batch to a Solution
        self._waiting: list[Row] = []  # not prepared yet
        self._entering: list[RowState] = []  # prepared, without a free slot yet
        self._active: list[RowState] = []  # being optimized
        self._unsolved: list[PreparedBatch] = []  # batches of entering, active and finished rows

    def __iter__(self) -> Iterator[Solution]:
        while True:
            if not self._waiting and self._free_slots > 0:
                self._waiting = self.next_rows(self.batch_size)
            if not (self._active or self._entering or self._waiting):
                return
            try:
                solutions: list[Solution] | None = self._advance()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                solutions = None
            if solutions is None:  # begin again outside the except block, whose traceback holds what did not fit
                self._restart_smaller()
            else:
                yield from solutions

    @property
    def _free_slots(self) -> int:
        return self.batch_size - len(self._active) - len(self._entering)

    @property
    def _padded_size(self) -> int:
        return self.batch_size if self.pad else 0

    def _advance(self) -> list[Solution]:
        """Prepare waiting rows, optimize until the batch pauses, and return the solutions of batches that have ended."""
        if self.position_matters and self._checked_size != self.batch_size:
            self._checked_size = self.batch_size
            if self.position_matters(self.batch_size):
                self.batch_size = 1
                self.warn("deterministic=true: the network rounds by position in the batch, so rows are solved one by one")
                return []
        if self._waiting and self._free_slots > 0:
            self._prepare_waiting()
        batch = self._next_batch()
        if isinstance(batch, RowBatch) and not batch.finished:
            optimize_timed(batch, self.optimize)
        self._active = [row for row in batch.rows if not row.finished]
        return self._solutions()

    def _prepare_waiting(self) -> None:
        rows, self._waiting = self._waiting[: self.batch_size], self._waiting[self.batch_size :]
        prepared = PreparedBatch(rows)
        self._unsolved.append(prepared)  # before memory can run out
        prepared.batch = self.prepare(rows, padded_size=self._padded_size)
        self._entering += prepared.batch.rows

    def _next_batch(self) -> Batch:
        """Return the batch to optimize next: as it was prepared, or gathered from active rows and those that enter."""
        slots = self.batch_size - len(self._active)
        entering, self._entering = self._entering[:slots], self._entering[slots:]
        latest = self._unsolved[-1].batch
        assert latest is not None
        if not self._active and entering == latest.rows:
            return latest
        return ContinuousBatch.gather(self._active + entering, self._padded_size)

    def _solutions(self) -> list[Solution]:
        """Return the solutions of the batches whose last row has finished, and forget these batches."""
        solutions, unsolved = [], []
        for prepared in self._unsolved:
            batch = prepared.batch
            assert batch is not None
            if all(row.finished for row in batch.rows):
                if not self._told_of_gradients and (sentence := without_gradient(batch.rows)):
                    self._told_of_gradients = True
                    self.warn(sentence)
                solutions.append(Solution(prepared.rows, *to_explanation(batch.objective, batch.rows, prepared.rows)))
            else:
                unsolved.append(prepared)
        self._unsolved = unsolved
        return solutions

    def _restart_smaller(self) -> None:
        """Begin the unsolved batches again with half as many rows at a time."""
        self._waiting = [row for prepared in self._unsolved for row in prepared.rows] + self._waiting
        size = self.batch_size if self.pad else min(self.batch_size, len(self._waiting))
        if size == 1 or not self.can_halve:
            raise ValueError(
                f"out of memory with {size} rows at once: batch_size={max(1, size // 2)}, precision=bf16, fewer samples "
                "or a smaller model need less"
            )
        self.batch_size = size // 2
        self._unsolved, self._active, self._entering = [], [], []
        gc.collect()
        free_memory()
        changed = "; their bits differ from those of the larger batch" if self.position_matters else ""
        self.warn(
            f"out of memory with {size} rows at once: continuing with {self.batch_size} (set batch_size={self.batch_size} "
            f"to start there){changed}"
        )
