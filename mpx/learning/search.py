"""The search for the masks of a batch of rows, as both solvers drive it, and the plain loop.

`minimise` is that loop; solver.module runs the same steps under Lightning. Both go on until the search is `paused`: at the
end or, where rows may stop by themselves (method.stop), when one is over. It can then leave and another take its place
(`Search.of`), for all that belongs to a row is its own, its iteration and its optimizer's memory too.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from mpx.learning.objective import Objective
from mpx.parts import names, offer

CHECK_INTERVAL = 5  # iterations of a row from one time that method.stop is asked about it to the next


@dataclass(eq=False)
class RowState:
    """A row on its way: row `row` of the batch that it was prepared in."""

    problem: Objective
    row: int
    parameter: Tensor  # (1,...)
    iterations: list[int]  # at which snapshots are taken, if it gets there
    snapshots: list[Tensor]  # (1,...); the last one is the result
    at: int = 0  # iterations done
    over: bool = False
    sound: bool = True  # what an explainer gave is finite
    history: dict[str, Tensor] = field(default_factory=dict)  # term -> (steps,)
    means: list[float] = field(default_factory=list)  # of the objective, from one question to the next
    rate: float = 1.0  # of the optimizer's step
    memory: dict = field(default_factory=dict)  # the optimizer's
    spent: dict[str, float] = field(default_factory=lambda: {"passes": 0.0, "forwards": 0.0, "seconds": 0.0})

    def spend(self, problem: Objective) -> None:
        for kind, number in problem.spent.items():
            self.spent[kind] += number


class Search:
    """Rows on their way together: their parameter, its optimizer, and their history, on the device: no step waits for it.

    Both solvers drive it the same way: loss -> backward -> `before_step` -> optimizer step -> `after_step`.
    """

    def __init__(self, problem: Objective, frames: int = 24, rows: int | None = None):
        """rows: so many are meant, the others fill the batch up."""
        if frames < 2:
            raise ValueError(f"frames={frames} must be at least 2, the first and the last")
        when, start = schedule(problem.method.steps, frames), problem.start().detach()
        self._sit(problem, [RowState(problem, i, p, when, [p.clone()]) for i, p in enumerate(start.split(1)[:rows])], start)
        for seat in self.seats:
            seat.spend(problem)  # what the start took
        problem.spent = dict.fromkeys(problem.spent, 0.0)

    @classmethod
    def of(cls, seats: list[RowState], size: int = 0) -> "Search":
        """These rows together, wherever they come from; the batch is filled up to `size`."""
        search, padded = cls.__new__(cls), [*seats, *seats[-1:] * (size - len(seats))]
        problem = Objective.of([(seat.problem, seat.row) for seat in padded])
        search._sit(problem, seats, torch.cat([seat.parameter for seat in padded]))
        return search

    def _sit(self, problem: Objective, seats: list[RowState], start: Tensor) -> None:
        method = problem.method
        self.problem, self.seats, self.steps, self.done, self.stop = problem, seats, method.steps, 0, method.stop
        self.paused = False
        self.parameter = torch.nn.Parameter(start)
        for seat, row in zip(seats, self.parameter.detach().split(1)):
            seat.parameter = row  # a view: the optimizer changes both
        terms, none = dict.fromkeys(sum((list(seat.history) for seat in seats), [])), start.new_full((self.steps,), math.nan)
        self.history = {term: torch.stack([seat.history.get(term, none) for seat in seats], 1) for term in terms}
        offers = {"objective": self.objective, "area": problem.areas, "project": problem.mask.project_, "game": method.game}
        self.apart = self.stop is not None and not names(method.optimizer) & offers.keys()  # does it step row by row?
        owners = [[seat.parameter] for seat in seats] if self.apart else [[self.parameter]]
        groups = [{"params": owner} for owner in owners] if method.scheduler else sum(owners, [])
        make = partial(_made, "optimizer", partial(offer, method.optimizer, **offers))
        self.optimizer = make(groups)
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise ValueError("optimizer LBFGS couples the rows of a batch: choose one that works element by element")
        for group in self.optimizer.param_groups:
            if method.scheduler and "lr" not in group:
                raise ValueError("this optimizer has no lr that a scheduler could change: scheduler=null")
            if not 0 < group.get("lr", 1) < math.inf:
                raise ValueError(f"lr={group['lr']} must be a number above 0")
        for seat in seats:
            if self.apart and seat.memory:
                self.optimizer.state[seat.parameter] = seat.memory
        self.plan = method.scheduler and scheduled(method.scheduler, make, self.steps)
        self.index = torch.tensor([seat.at for seat in seats]).to(start.device)  # (B,) where in its history a row is
        self.enough = 1 if start.device.type == "cpu" else max(1, len(seats) // 8)  # rows over; a pause costs a GPU a while
        self._set_rates()

    @property
    def movable(self) -> bool:
        """Whether rows may leave and others enter."""
        return self.apart and self.problem.movable

    @property
    def now(self) -> int | list[int]:
        """The iteration at hand, of all rows or of each."""
        at = [min(seat.at, self.steps - 1) for seat in self.seats]
        at += at[-1:] * (len(self.parameter) - len(at))
        return at[0] if len(set(at)) == 1 else at

    @property
    def left(self) -> int:
        """Iterations until it is paused, at most."""
        return min(self.steps - seat.at for seat in self.seats if not seat.over)

    @property
    def over(self) -> bool:
        return all(seat.over for seat in self.seats)

    def loss(self) -> Tensor:
        terms = self.problem.loss(self.parameter, self.now)
        self._record(terms)
        return terms["total"].sum()  # rows are independent: a mean would make lr depend on the batch size

    @torch.no_grad()
    def objective(self, parameter: Tensor) -> Tensor:
        """(B,) at this parameter, as it is evaluated, for optimizers that try before they step."""
        return self.problem.loss(parameter, self.now, exact=True)["total"]

    def before_step(self) -> None:
        gradient = self.parameter.grad
        self._record({"gradient": gradient.flatten(1).norm(dim=1)})
        for group, seat in zip(self.optimizer.param_groups if self.plan else (), self.seats):
            group |= self.plan[min(seat.at if self.apart else max(one.at for one in self.seats), self.steps - 1)]
        if self.apart:
            for seat, rows in zip(self.seats, gradient.split(1)):
                seat.parameter.grad = rows
        self.before = None if self.rates is None else self.parameter.detach().clone()

    @torch.no_grad()
    def after_step(self) -> None:
        if self.before is not None:  # a part of the step that the optimizer took
            torch.lerp(self.before, self.parameter, self.rates, out=self.parameter)
        self.problem.mask.project_(self.parameter)
        self.done += 1
        self.index += 1
        going = [(k, seat) for k, seat in enumerate(self.seats) if not seat.over]
        for _, seat in going:
            seat.at += 1
        due = [(k, seat) for k, seat in going if seat.at in seat.iterations]
        whole = self.parameter.detach().clone() if len(due) == len(self.seats) else None
        for k, seat in due:
            seat.snapshots.append(seat.parameter.clone() if whole is None else whole[k : k + 1])
        if asked := [(k, seat) for k, seat in going if self.stop and seat.at % CHECK_INTERVAL == 0]:
            self._ask(asked)
        for _, seat in going:
            if seat.at == self.steps or seat.rate == 0:
                self._end(seat)
        over = sum(seat.over for seat in self.seats)
        self.paused = over == len(self.seats) or self.movable and over >= self.enough

    def _ask(self, rows: list[tuple[int, RowState]]) -> None:
        means = torch.stack([self.history["total"][seat.at - CHECK_INTERVAL : seat.at, k].mean() for k, seat in rows])
        for (_, seat), mean in zip(rows, means.tolist()):  # waits for the device, once
            seat.means.append(mean)
            seat.rate = self.stop(seat.means)
            if not self.apart and seat.rate < 1:  # the optimizer steps for all rows at once
                seat.rate = 0
        self._set_rates()

    def _set_rates(self) -> None:
        """(B,1,...) of the rows' steps, None where all are whole."""
        rates = [seat.rate for seat in self.seats] + [1.0] * (len(self.parameter) - len(self.seats))
        shape = (-1, *[1] * (self.parameter.ndim - 1))
        self.rates = self.parameter.new_tensor(rates).view(shape) if self.apart and set(rates) != {1.0} else None

    def _end(self, seat: RowState) -> None:
        seat.over = True
        seat.spend(self.problem)
        if seat.at not in seat.iterations:
            seat.snapshots.append(seat.parameter.clone())

    def finish(self) -> "Search":
        """The rows' own again what is theirs; those are over that a callback stopped before the search was paused."""
        for k, seat in enumerate(self.seats):
            # of a row that leaves its own; else a part of the whole, which ranks may average yet
            seat.history = {
                term: values[:, k].clone() if self.stop else values[:, k] for term, values in self.history.items()
            }
            seat.memory = self.optimizer.state.get(seat.parameter, {}) if self.apart else {}
            if not seat.over and not self.paused:
                self._end(seat)
            elif not seat.over:
                seat.spend(self.problem)
        self.problem.spent, self.done = dict.fromkeys(self.problem.spent, 0.0), 0
        return self

    def _record(self, terms: dict[str, Tensor]) -> None:
        now, rows = self.now, len(self.seats)
        for name, value in terms.items():
            value = value.detach()[:rows]
            if name not in self.history:
                self.history[name] = torch.full((self.steps, rows), math.nan, device=value.device)
            if isinstance(now, int):
                self.history[name][now] = value
            else:
                self.history[name].scatter_(0, self.index.clamp(max=self.steps - 1)[None], value[None])


def failures(problem: Objective, seats: list[RowState]) -> dict[int, str]:
    """Rows whose network output or gradient was not finite: row -> one sentence."""
    found, unsound = {}, [row for row, seat in enumerate(seats) if not seat.sound]
    for row, seat in enumerate(seats if seats[0].history else ()):
        for what, term in (("output", "total"), ("gradient", "gradient")):  # the output comes first within an iteration
            wrong = (~seat.history[term][: seat.at].isfinite()).nonzero()
            if len(wrong) and (row not in found or int(wrong[0]) < found[row][0]):
                found[row] = (int(wrong[0]), what)
    return {
        row: f"{problem.names[row]}: the explainer gives NaN or infinite values: check the model's weights"
        for row in unsound
    } | {
        row: f"{problem.names[row]}: the model's {what} is NaN or infinite at iteration {first}: "
        f"check the model's weights and the precision ({problem.method.precision})"
        for row, (first, what) in found.items()
    }


def scheduled(scheduler: Callable, make: Callable, steps: int) -> list[dict]:
    """What a scheduler makes of an optimizer's settings at each iteration: read off, for each row may be at another one."""
    optimizer = make([torch.zeros(1, requires_grad=True)])
    plan, going = [], _made("scheduler", scheduler, optimizer)
    for _ in range(steps):
        plan.append({k: v for k, v in optimizer.param_groups[0].items() if k != "params"})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*lr_scheduler.step.*")  # no step was taken here, and none is missed
            _made("scheduler", going.step)
    return plan


def _made(what: str, make: Callable, *given, **named):
    try:
        return make(*given, **named)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what}: {str(error).splitlines()[0]}") from error


def schedule(steps: int, frames: int) -> list[int]:
    """At most `frames` iterations from 0 to `steps`, close together at first, when the mask changes most."""
    return sorted({round(steps ** (k / max(frames - 1, 1))) for k in range(1, frames)} | {0, steps})


def minimise(search: Search, on_step: Callable | None = None) -> Search:
    """The search without Lightning, until it is paused: the same arithmetic in the same order.

    `on_step(iteration)` is called after each; where rows are at different iterations, with the last.
    """
    while not search.paused:
        search.parameter.grad = None
        search.loss().backward()
        search.before_step()
        search.optimizer.step()
        search.after_step()
        if on_step:
            on_step(max(seat.at for seat in search.seats) - 1)
    return search.finish()
