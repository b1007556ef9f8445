"""Continuous batching: rows that stop by themselves (`stop=`) leave a running batch, and waiting rows enter it.

This is a second class beside the fixed batch because each row has what a fixed batch shares: an iteration, an
optimizer state, a scale of its steps. A row goes through the same steps, to the bit, whichever rows are beside it. Rows that
entered together, a cohort, are at the same iteration, and the optimizer steps them as one tensor. Where rows cannot be moved
(an optimizer that steps for all rows at once; perturbed images whose rows cannot be gathered), finished rows stay until the
last row of the batch has finished.
"""

import warnings
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map, tree_map_only

from mpx.devices import is_accelerator
from mpx.learning.batch import RowBatch
from mpx.learning.objective import Iterations, Objective
from mpx.learning.optimizers import MaskOptimizer, make_optimizer, make_scheduler
from mpx.learning.rows import RowState
from mpx.operators import unwrap

CHECK_INTERVAL = 5  # iterations of a row between two checks of the stopping rule


class ContinuousBatch(RowBatch):
    """Rows at iterations of their own, each with its optimizer state.

    keep_together: pause only when all rows have finished, for one batch that no other row enters.
    """

    def __init__(
        self, objective: Objective, snapshots: int = 24, row_count: int | None = None, keep_together: bool = False
    ):
        self.keep_together = keep_together
        super().__init__(objective, snapshots, row_count)

    @classmethod
    def gather(cls, rows: Sequence[RowState], size: int = 0) -> "ContinuousBatch":
        """Return a batch of these rows, from whichever batches they come, padded to `size` by repeating the last."""
        padded = [*rows, *[rows[-1]] * (size - len(rows))]
        batch = cls.__new__(cls)  # without __init__, which begins rows at their first iteration
        batch.keep_together = False
        objective = Objective.gather([(row.objective, row.index) for row in padded])
        batch._join(objective, list(rows), torch.cat([row.parameter for row in padded]))
        return batch

    def _join(self, objective: Objective, rows: list[RowState], parameter: Tensor) -> None:
        super()._join(objective, rows, parameter)
        optimizer = unwrap(objective.method.optimizer)
        # whether the optimizer steps each row by itself
        self.steps_each_row = not (isinstance(optimizer, type) and issubclass(optimizer, MaskOptimizer))
        self.has_movable_rows = self.steps_each_row and objective.has_movable_rows
        self.cohorts = _cohorts(rows, self.parameter.detach())
        self.optimizer: Optimizer | None = None
        self._settings: list[dict[str, Any]] | None = None  # of the optimizer at each iteration, where it is scheduled
        self._history_index = torch.tensor([row.iteration for row in rows]).to(parameter.device)  # (R,)
        # a pause costs a GPU a while, so it waits there for an eighth of the rows
        self._finished_for_pause = max(1, len(rows) // 8) if is_accelerator(parameter.device) else 1
        self._parameter_before: Tensor | None = None  # the parameter before a step that is scaled
        self._set_step_scales()

    @property
    def iteration(self) -> Iterations:
        """The iteration that comes next, of all rows where it is the same, else of each row of the padded batch."""
        iterations = [min(row.iteration, self.steps - 1) for row in self.rows]
        iterations += iterations[-1:] * (len(self.parameter) - len(iterations))
        return iterations[0] if len(set(iterations)) == 1 else iterations

    def make_optimizer(self) -> tuple[Optimizer, None]:
        """Return the method's optimizer with the state of each row; a schedule is applied by cohort in `before_step`."""
        method = self.objective.method
        tensors = [cohort.parameter for cohort in self.cohorts] if self.steps_each_row else [self.parameter]
        groups: list[Any] = [{"params": [tensor]} for tensor in tensors] if method.scheduler else tensors
        self.optimizer = make_optimizer(method, groups, self._optimizer_context())
        for cohort in self.cohorts if self.steps_each_row else ():
            if cohort.rows[0].optimizer_state:
                self.optimizer.state[cohort.parameter] = _joined([row.optimizer_state for row in cohort.rows])
        if method.scheduler:
            self._settings = self._scheduled_settings()
        return self.optimizer, None

    def _scheduled_settings(self) -> list[dict[str, Any]]:
        """Return the scheduled settings of the optimizer at each iteration: rows may be at different iterations."""
        method, settings = self.objective.method, []
        optimizer = make_optimizer(method, [torch.zeros(1, requires_grad=True)], self._optimizer_context())
        scheduler = make_scheduler(method, optimizer)
        assert scheduler is not None
        for _ in range(self.steps):
            settings.append({k: v for k, v in optimizer.param_groups[0].items() if k != "params"})
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*lr_scheduler.step.*")  # no step was taken here, and none is missed
                scheduler.step()
        return settings

    def before_step(self, optimizer: Optimizer) -> None:
        """Record the gradient's norm, give each cohort its gradient and its scheduled settings."""
        super().before_step(optimizer)
        for group, cohort in zip(optimizer.param_groups if self._settings else (), self.cohorts):
            assert self._settings is not None
            stepped_rows = cohort.rows if self.steps_each_row else self.rows
            group |= self._settings[min(max(row.iteration for row in stepped_rows), self.steps - 1)]
        if self.steps_each_row:
            assert self.parameter.grad is not None
            for cohort in self.cohorts:
                cohort.parameter.grad = self.parameter.grad[cohort.place]
        self._parameter_before = None if self._step_scales is None else self.parameter.detach().clone()

    @torch.no_grad()
    def after_step(self) -> None:
        """Scale each row's step, complete the iteration, and check the stopping rule of the rows that are due."""
        if self._parameter_before is not None and self._step_scales is not None:
            torch.lerp(self._parameter_before, self.parameter, self._step_scales, out=self.parameter)
        active = [(k, row) for k, row in enumerate(self.rows) if not row.finished]
        self._history_index += 1
        super().after_step()
        due_rows = [(k, row) for k, row in active if row.iteration % CHECK_INTERVAL == 0]
        if due_rows:
            self._check_stopping(due_rows)
        for _, row in active:
            if row.step_scale == 0 and not row.finished:
                self._finish_row(row)
        can_exchange_rows = self.has_movable_rows and not self.keep_together
        finished = sum(row.finished for row in self.rows)
        self.paused = self.finished or (can_exchange_rows and finished >= self._finished_for_pause)

    def _check_stopping(self, due_rows: list[tuple[int, RowState]]) -> None:
        stop = self.objective.method.stop
        assert stop is not None
        recent = [self.history["total"][row.iteration - CHECK_INTERVAL : row.iteration, k].mean() for k, row in due_rows]
        for (_, row), mean in zip(due_rows, torch.stack(recent).tolist()):  # waits for the device, once
            row.objective_means.append(mean)
            row.step_scale = stop(row.objective_means)
            if not self.steps_each_row and row.step_scale < 1:  # the optimizer's step is that of all rows
                row.step_scale = 0.0
        self._set_step_scales()

    def _set_step_scales(self) -> None:
        """Set the scale (B,1,...) of each row's step; None where no step is scaled."""
        scales = [row.step_scale for row in self.rows] + [1.0] * (len(self.parameter) - len(self.rows))
        shape = (-1, *[1] * (self.parameter.ndim - 1))
        is_scaled = self.steps_each_row and set(scales) != {1.0}
        self._step_scales = self.parameter.new_tensor(scales).view(shape) if is_scaled else None

    def _record(self, terms: dict[str, Tensor]) -> None:
        if isinstance(self.iteration, int):
            return super()._record(terms)
        index = self._history_index.clamp(max=self.steps - 1)[None]
        for name, value in terms.items():
            self._history_of(name, value).scatter_(0, index, value.detach()[: len(self.rows)][None])

    def finish(self) -> None:
        """Copy history and optimizer state back to each row; finish rows that a callback stopped before a pause."""
        super().finish()
        for row in self.rows:
            row.history = {name: values.clone() for name, values in row.history.items()}  # the row may leave its batch
        if self.steps_each_row and self.optimizer is not None:
            for cohort in self.cohorts:
                state = self.optimizer.state.get(cohort.parameter, {})
                for k, row in enumerate(cohort.rows):
                    row.optimizer_state = _of_row(state, k, len(cohort.rows))


class Cohort(NamedTuple):
    """Consecutive rows of a batch that are at the same iteration."""

    rows: list[RowState]
    place: slice  # in the batch
    parameter: Tensor  # a view of the batch's


def _cohorts(rows: Sequence[RowState], parameter: Tensor) -> list[Cohort]:
    """Return the cohorts of rows in the order of the batch, whose parameter is (B,...)."""
    cohorts, start = [], 0
    for _, group in groupby(rows, key=lambda row: row.iteration):
        members = list(group)
        place = slice(start, start + len(members))
        cohorts.append(Cohort(members, place, parameter[place]))
        start += len(members)
    return cohorts


def _of_row(state: dict[str, Any], k: int, rows: int) -> dict[str, Any]:
    """Return the k-th row's part of an optimizer state: its entry of each tensor (rows,...), and all else as it is."""
    return tree_map_only(Tensor, lambda x: x[k : k + 1] if x.ndim and len(x) == rows else x, state)


def _joined(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the optimizer state of a cohort from those of its rows."""

    def join(first: Any, *others: Any) -> Any:
        if not isinstance(first, Tensor):
            return first
        return torch.cat([first, *others]) if first.ndim else first.clone()

    return tree_map(join, *states)
