"""The search for the masks of a batch of rows, as both solvers drive it, and the plain loop.

`minimise` is that loop; solver.module runs the same steps under Lightning.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mpx.operators import offer
from mpx.solver.objective import Problem


class Search:
    """One search in progress: the parameter's optimizer, its history on the device, and snapshots of the mask.

    Both solvers drive it the same way: loss -> backward -> `before_step` -> optimizer step -> `after_step`.
    """

    def __init__(self, problem: Problem, frames: int = 24):
        self.problem, self.steps = problem, problem.recipe.steps
        self.parameter = torch.nn.Parameter(problem.start())
        self.now = 0  # the iteration at hand
        offers = {"objective": self.objective, "area": problem.areas, "project": problem.mask.project_}
        offers["game"] = problem.recipe.game
        self.optimizer = _made("optimizer", offer, problem.recipe.optimizer, [self.parameter], **offers)
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise ValueError("optimizer LBFGS couples the rows of a batch: choose one that works element by element")
        for group in self.optimizer.param_groups:
            if problem.recipe.scheduler and "lr" not in group:
                raise ValueError("this optimizer has no lr that a scheduler could change: scheduler=null")
            if not 0 < group.get("lr", 1) < math.inf:
                raise ValueError(f"lr={group['lr']} must be a number above 0")
        if frames < 2:
            raise ValueError(f"frames={frames} must be at least 2, the first and the last")
        scheduler = problem.recipe.scheduler
        self.scheduler = scheduler and _made("scheduler", scheduler, self.optimizer)
        self.history: dict[str, Tensor] = {}  # term -> (steps,B), on the device: the loop never waits for it
        self.iterations = schedule(self.steps, frames)
        self.snapshots = [self.parameter.detach().clone()]
        self.done = 0  # iterations; fewer than steps where a callback stopped the search

    def loss(self, iteration: int) -> Tensor:
        self.now = iteration
        terms = self.problem.loss(self.parameter, iteration)
        self._record(iteration, terms)
        return terms["total"].sum()  # rows are independent: a mean would make lr depend on the batch size

    @torch.no_grad()
    def objective(self, parameter: Tensor) -> Tensor:
        """(B,) at this parameter, as it is evaluated, for optimizers that try before they step."""
        return self.problem.loss(parameter, self.now, exact=True)["total"]

    def before_step(self, iteration: int) -> None:
        self._record(iteration, {"gradient": self.parameter.grad.flatten(1).norm(dim=1)})

    @torch.no_grad()
    def after_step(self, iteration: int) -> None:
        self.problem.mask.project_(self.parameter)
        self.done = iteration + 1
        if self.done in self.iterations:
            self.snapshots.append(self.parameter.detach().clone())

    def finish(self) -> "Search":
        """Cuts the history to what was done and makes the result the last snapshot."""
        self.history = {name: values[: self.done] for name, values in self.history.items()}
        if self.done not in self.iterations:
            self.snapshots.append(self.parameter.detach().clone())
        self.iterations = [i for i in self.iterations if i < self.done] + [self.done]
        return self

    def _record(self, iteration: int, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            if name not in self.history:
                self.history[name] = torch.full((self.steps, len(value)), float("nan"), device=value.device)
            self.history[name][iteration] = value.detach()

    def failures(self) -> dict[int, str]:
        """Rows whose network output or gradient was not finite: row -> one sentence."""
        found = {}
        for what, term in (("gradient", "gradient"), ("output", "total")):  # the output comes first within an iteration
            finite = self.history[term].isfinite()
            for row in (~finite.all(0)).nonzero().flatten().tolist():
                first = int((~finite[:, row]).nonzero()[0])
                if row not in found or first <= found[row][0]:
                    found[row] = (first, what)
        return {
            row: f"{self.problem.names[row]}: the model's {what} is NaN or infinite at iteration {first}: "
            f"check the model's weights and the precision ({self.problem.recipe.precision})"
            for row, (first, what) in found.items()
        }


def _made(what: str, make: Callable, *given, **named):
    try:
        return make(*given, **named)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what}: {str(error).splitlines()[0]}") from error


def schedule(steps: int, frames: int) -> list[int]:
    """At most `frames` iterations from 0 to `steps`, close together at first, when the mask changes most."""
    return sorted({round(steps ** (k / max(frames - 1, 1))) for k in range(1, frames)} | {0, steps})


def minimise(search: Search, on_step: Callable | None = None) -> Search:
    """The search without Lightning: the same arithmetic in the same order. `on_step(iteration)` is called after each."""
    for iteration in range(search.steps):
        search.optimizer.zero_grad()
        search.loss(iteration).backward()
        search.before_step(iteration)
        search.optimizer.step()
        search.after_step(iteration)
        if search.scheduler:
            search.scheduler.step()
        if on_step:
            on_step(iteration)
    return search.finish()
