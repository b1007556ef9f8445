"""Rows that are optimized together: their parameter, iterations and history.

The plain loop (mpx.learning.loop) and the LightningModule (mpx.learning.learner) drive a batch in the same way:
terms -> sum of "total" -> backward -> before_step -> optimizer step -> after_step. The history stays on the device: no
iteration waits for it.
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mpx.learning.objective import Iterations, Objective
from mpx.learning.optimizers import OptimizerContext, make_optimizer, make_scheduler
from mpx.learning.rows import RowState
from mpx.operators import dotted_name
from mpx.tasks.normalised import MIN_DROP

MOST_SNAPSHOTS = 10_000


class RowBatch:
    """A fixed batch: all rows start together and end together, after the method's steps.

    objective: of B rows, of which the last may be padding; row_count: of the real rows. snapshots: most snapshots of each
    row's parameter, from the first to the last iteration.
    """

    def __init__(self, objective: Objective, snapshots: int = 24, row_count: int | None = None):
        if not isinstance(snapshots, int) or not 2 <= snapshots <= MOST_SNAPSHOTS:
            raise ValueError(
                f"frames={snapshots!r} must be a whole number, at least 2: the first and the last; at most {MOST_SNAPSHOTS}"
            )
        iterations, started = snapshot_iterations(objective.method.steps, snapshots), time.time()
        initial = objective.initial().detach()
        rows = [
            RowState(objective, i, parameter, iterations, [parameter.clone()], torch.zeros_like(parameter), started=started)
            for i, parameter in enumerate(initial.split(1)[:row_count])
        ]
        cost = objective.take_cost()  # of the initial parameter
        for row in rows:
            row.add_cost(*cost)
        self._join(objective, rows, initial)

    def _join(self, objective: Objective, rows: list[RowState], parameter: Tensor) -> None:
        self.objective = objective
        self.rows = rows
        self.steps = objective.method.steps
        self.parameter = torch.nn.Parameter(parameter)  # (B,*mask.shape)
        self.paused = False  # whether the loop must end: all rows have finished, or waiting rows may enter
        missing = parameter.new_full((self.steps,), math.nan)
        names = dict.fromkeys(name for row in rows for name in row.history)
        self.history = {name: torch.stack([row.history.get(name, missing) for row in rows], 1) for name in names}
        self.parameter_sum = torch.cat([row.parameter_sum for row in rows])  # (R,...) of the real rows
        for row, view, sum_view in zip(rows, self.parameter.detach().split(1), self.parameter_sum.split(1)):
            row.parameter, row.parameter_sum = view, sum_view  # of the batch's, so that a step changes both

    @property
    def finished(self) -> bool:
        """Whether all rows have finished."""
        return all(row.finished for row in self.rows)

    @property
    def remaining(self) -> int:
        """Iterations until the batch pauses, at most."""
        return min(self.steps - row.iteration for row in self.rows if not row.finished)

    @property
    def iteration(self) -> Iterations:
        """The iteration that comes next."""
        return min(self.rows[0].iteration, self.steps - 1)

    def make_optimizer(self) -> tuple[Optimizer, LRScheduler | None]:
        """Return the method's optimizer of the parameter, and its learning rate schedule."""
        optimizer = make_optimizer(self.objective.method, [self.parameter], self._optimizer_context())
        return optimizer, make_scheduler(self.objective.method, optimizer)

    def _optimizer_context(self) -> OptimizerContext:
        return OptimizerContext(
            objective=self._exact_objective,
            project=self.objective.mask.project_,
            areas=self.objective.areas,
            game=self.objective.method.game,
        )

    @torch.no_grad()
    def _exact_objective(self, parameter: Tensor) -> Tensor:
        """Return the objective (B,) of a parameter as masks are evaluated, for optimizers that evaluate before they step."""
        return self.objective.terms(parameter, self.iteration, exact=True)["total"]

    def terms(self) -> dict[str, Tensor]:
        """Return the terms (B,) of the objective at the current parameter and iteration, and record them."""
        terms = self.objective.terms(self.parameter, self.iteration)
        self._record(terms)
        return terms

    def before_step(self, optimizer: Optimizer) -> None:
        """Record the gradient's norm."""
        assert self.parameter.grad is not None
        self._record({"gradient": self.parameter.grad.flatten(1).norm(dim=1)})

    @torch.no_grad()
    def after_step(self) -> None:
        """Project the parameter, count the iteration, take the snapshots that are due, and mark rows that have finished."""
        self.objective.mask.project_(self.parameter)
        self.parameter_sum += self.parameter[: len(self.rows)]
        active = [row for row in self.rows if not row.finished]
        for row in active:
            row.iteration += 1
        self._take_snapshots(active)
        for row in active:
            if row.iteration == self.steps:
                self._finish_row(row)
        self.paused = self.finished

    def _take_snapshots(self, active: list[RowState]) -> None:
        due_rows = [row for row in active if row.iteration in row.snapshot_iterations]
        if len(due_rows) == len(self.rows):  # one copy for all
            for row, parameter in zip(due_rows, self.parameter.detach().clone().split(1)):
                row.snapshots.append(parameter)
        else:
            for row in due_rows:
                row.snapshots.append(row.parameter.clone())

    def _finish_row(self, row: RowState) -> None:
        row.finished = True
        row.parameter_sum = row.parameter_sum.clone()  # the batch may go on
        row.add_cost(self.objective.passes, self.objective.forwards)
        if row.iteration not in row.snapshot_iterations:
            row.snapshots.append(row.parameter.clone())

    def _record(self, terms: dict[str, Tensor]) -> None:
        iteration = self.iteration
        assert isinstance(iteration, int)
        for name, value in terms.items():
            self._history_of(name, value)[iteration] = value.detach()[: len(self.rows)]

    def _history_of(self, name: str, value: Tensor) -> Tensor:
        if name not in self.history:
            self.history[name] = torch.full((self.steps, len(self.rows)), math.nan, device=value.device)
        return self.history[name]

    def finish(self) -> None:
        """Copy the history back to each row, and finish the rows that a callback stopped before the batch was paused."""
        for k, row in enumerate(self.rows):
            row.history = {name: values[:, k] for name, values in self.history.items()}
            if row.finished:
                continue
            if not self.paused:  # a callback stopped the fit
                self._finish_row(row)
            else:  # the row goes on in a later batch
                row.add_cost(self.objective.passes, self.objective.forwards)
        self.objective.take_cost()

    # ---- a checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs besides the parameter: the rows' iteration, history and snapshots."""
        return {
            "iteration": self.rows[0].iteration,
            "history": self.history,
            "snapshots": [row.snapshots for row in self.rows],
            "parameter_sum": self.parameter_sum,
            "cost": [self.objective.passes, self.objective.forwards],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        device = self.parameter.device
        self.parameter_sum.copy_(state["parameter_sum"])
        self.history = {name: values.to(device) for name, values in state["history"].items()}
        for images, with_gradient in zip(state["cost"], (True, False)):
            self.objective.count_images(images * len(self.objective.targets), with_gradient)
        for row, snapshots in zip(self.rows, state["snapshots"]):
            row.iteration = state["iteration"]
            row.snapshots = [snapshot.to(device) for snapshot in snapshots]


def failures(rows: Sequence[RowState]) -> dict[int, str]:
    """Return the rows with an output, score, regularizer, gradient or relevance that was not finite: index -> sentence."""
    sentences = {}
    for i, row in enumerate(rows):
        name = row.objective.image_names[row.index]
        if failure := _first_failure(row):
            sentences[i] = f"{name}: {failure}"
        elif not row.is_finite:
            sentences[i] = f"{name}: the explainer gives NaN or infinite values: check it and the model's weights"
    return sentences


def _first_failure(row: RowState) -> str:
    """Return the sentence about the first quantity that was not finite; an empty string where all were."""
    failed_at = {}
    for term in ("total", "gradient"):  # in the order of an iteration, which min() keeps
        if term in row.history and len(found := (~row.history[term][: row.iteration].isfinite()).nonzero()):
            failed_at[term] = int(found[0])
    if not failed_at:
        return ""
    first = min(failed_at, key=lambda term: failed_at[term])
    method = row.objective.method
    if not row.objective.perturbed_is_finite[row.index]:
        return f"perturbation {dotted_name(method.perturbation)} returned NaN or infinite values: check its function"
    model = f"the model's weights and the precision ({method.precision})"
    quantity, remedy = "the gradient", f"the derivatives of the score and the regularizers, also at 0 and 1, {model}"
    if first == "total":
        output = f"the output of model {row.objective.classifier.name}"
        parts = {"value": output, "score": f"the score {dotted_name(method.score)}"}
        parts |= {name: f"regularizer {name} ({dotted_name(term)})" for name, (_, term) in method.regularizers.items()}
        infinite = [words for name, words in parts.items() if not row.history[name][failed_at[first]].isfinite()]
        quantity = infinite[0] if infinite else "the objective"
        remedy = f"the perturbation, {model}" if quantity == output else "its function"
    return f"{quantity} is NaN or infinite at iteration {failed_at[first]}: check {remedy}"


def without_gradient(rows: Sequence[RowState]) -> str:
    """Return the sentence about rows whose gradient was 0 at every iteration; an empty string where there are none.

    Rows that full perturbation changes next to nothing do not count.
    """
    still = [row for row in rows if "gradient" in row.history and not row.history["gradient"][: row.iteration].any()]
    still = [row for row in still if row.support_drop >= MIN_DROP]
    if not still:
        return ""
    method = still[0].objective.method
    return (
        f"the gradient is 0 at every iteration ({still[0].image_name}), so the mask stays as it began: look for a mask "
        f"({dotted_name(method.mask)}) whose gradient vanishes at its initial parameter, or a score "
        f"({dotted_name(method.score)}) that is flat there, as the probability is where the network is sure"
    )


def snapshot_iterations(steps: int, count: int) -> list[int]:
    """Return at most `count` iterations from 0 to `steps`, close together at first, where the mask changes most."""
    return sorted({round(steps ** (k / max(count - 1, 1))) for k in range(1, count)} | {0, steps})
