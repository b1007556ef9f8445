"""Optimizers that torch.optim lacks, and the making of a method's optimizer and learning rate schedule.

An optimizer is a torch.optim.Optimizer class. Each of these works on every row by itself: a row's step depends on that row's
parameter and gradient alone. A class that needs more than those (the objective, the projection, the area) derives from
`MaskOptimizer` and receives an `OptimizerContext`; its rows step together, so they cannot move between batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mpx.errors import first_line
from mpx.learning.method import Method
from mpx.operators import unwrap

MOST_LR = 1e6  # a mask goes from 0 to 1, and a larger step may leave the range of numbers


@dataclass(frozen=True)
class OptimizerContext:
    """What a `MaskOptimizer` may use besides the parameter and its gradient."""

    objective: Callable[[Tensor], Tensor]  # parameter -> (B,), without gradient, as masks are evaluated
    project: Callable[[Tensor], None]  # moves a parameter back to where it is allowed, in place
    areas: Tensor | None  # (B,) requested share of the image, or None
    game: str


class MaskOptimizer(Optimizer):
    """An optimizer that evaluates or projects before it steps. `_step(parameter, group)` is one step of one parameter."""

    def __init__(self, params: Any, context: OptimizerContext, defaults: dict[str, Any]):
        super().__init__(params, defaults)
        self.context = context

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        """Take one step of every parameter."""
        loss = evaluate(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self._step(parameter, group)
        return loss

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        raise NotImplementedError


class LineSearch(MaskOptimizer):
    """Gradient descent whose step each row finds by itself, backtracking along the projection arc (Bertsekas 1976).

    Of the steps lr, lr*decay, lr*decay^2, ... a row takes the first that lowers its objective by at least `armijo` times the
    decrease that the gradient predicts. Where none of the `max_backtracks` steps does, it takes the smallest, which hardly
    changes it. All rows are evaluated at once until each has found its step. The objective is that of the mask as it is
    evaluated, without noise, while the gradient may be integrated and noisy (Qi, Khorram & Li 2020).
    """

    def __init__(
        self,
        params: Any,
        context: OptimizerContext,
        lr: float = 1000.0,
        decay: float = 0.2,
        armijo: float = 1e-4,
        max_backtracks: int = 13,
    ):
        for name, value in (("decay", decay), ("armijo", armijo)):
            if not 0 < value < 1:
                raise ValueError(f"{name}={value} must be above 0 and below 1")
        if max_backtracks < 1:
            raise ValueError(f"max_backtracks={max_backtracks} must be at least 1")
        super().__init__(params, context, {"lr": lr})
        self.decay = decay
        self.armijo = armijo
        self.max_backtracks = max_backtracks

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        start, before = parameter.clone(), self.context.objective(parameter.detach())
        accepted = torch.zeros_like(before, dtype=torch.bool)
        for k in range(self.max_backtracks):
            candidate = start - group["lr"] * self.decay**k * parameter.grad
            self.context.project(candidate)
            parameter.copy_(torch.where(per_row(accepted, parameter), parameter, candidate))
            predicted = (parameter.grad * (start - parameter)).flatten(1).sum(1)
            accepted |= self.context.objective(parameter.detach()) <= before - self.armijo * predicted
            if accepted.all():
                break


class Nesterov(MaskOptimizer):
    """Nesterov 1983's accelerated gradient: step by lr, project, then extrapolate by t/(t+3) of the last difference.

    The momentum of Jiang, Khorram & Li 2023 (NAG-iGOS++).
    """

    def __init__(self, params: Any, context: OptimizerContext, lr: float = 0.1):
        super().__init__(params, context, {"lr": lr})

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        t, last = state.get("t", 0), state.get("last")
        projected = parameter - group["lr"] * parameter.grad
        self.context.project(projected)
        parameter.copy_(projected if last is None else projected + t / (t + 3) * (projected - last))
        state.update(t=t + 1, last=projected)


class RowAdam(Optimizer):
    """Adam (Kingma & Ba 2015) whose second moment belongs partly to the row, as a mean over its cells.

    Adam gives every cell a step of about lr, also cells that hardly matter: evidence grows far beyond the object and takes
    hundreds of steps to shrink. With the row's second moment alone (as NovoGrad has a layer's), cells that hardly matter
    hardly shrink. Here a cell's step is divided by rms^elementwise_share of its own gradient and by
    rms^(1 - elementwise_share) of the row's: 1 is Adam.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.3,
        beta1: float = 0.7,
        beta2: float = 0.95,
        elementwise_share: float = 0.5,
        eps: float = 1e-12,
    ):
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value} must be at least 0 and below 1")
        if not 0 <= elementwise_share <= 1:
            raise ValueError(
                f"elementwise_share={elementwise_share} must be from 0, the row's second moment, to 1, each cell's"
            )
        super().__init__(
            params, {"lr": lr, "beta1": beta1, "beta2": beta2, "elementwise_share": elementwise_share, "eps": eps}
        )

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        """Take one step of every parameter (B,...) that has a gradient."""
        loss = evaluate(closure)
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                state, betas = self.state[parameter], (group["beta1"], group["beta2"])
                if not state:
                    state.update(t=0, moments=(torch.zeros_like(parameter), torch.zeros_like(parameter)))
                state["t"] += 1
                for moment, value, beta in zip(state["moments"], (parameter.grad, parameter.grad.square()), betas):
                    moment.lerp_(value, 1 - beta)
                mean, square = (moment / (1 - beta ** state["t"]) for moment, beta in zip(state["moments"], betas))
                row_square = per_row(square.flatten(1).mean(1), parameter)
                share = group["elementwise_share"]
                rms = square.pow(share / 2) * row_square.pow((1 - share) / 2)
                parameter.sub_(group["lr"] * mean / (rms + group["eps"]))
        return loss


def make_optimizer(method: Method, params: Sequence[Any], context: OptimizerContext) -> Optimizer:
    """Return the method's optimizer of tensors or parameter groups."""
    kind = unwrap(method.optimizer)
    try:
        if isinstance(kind, type) and issubclass(kind, MaskOptimizer):
            optimizer = method.optimizer(params, context)
        else:
            optimizer = method.optimizer(params)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"optimizer: {first_line(error)}") from error
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("optimizer LBFGS couples the rows of a batch: choose one that works element by element")
    for group in optimizer.param_groups:
        if method.scheduler and "lr" not in group:
            raise ValueError("this optimizer has no lr that scheduler= could change: add scheduler=null")
        if not 0 < group.get("lr", 1) <= MOST_LR:
            raise ValueError(f"lr={group['lr']} must be a number above 0, at most {MOST_LR:g}")
    return optimizer


def make_scheduler(method: Method, optimizer: Optimizer) -> LRScheduler | None:
    """Return the method's learning rate schedule, if it has one."""
    if method.scheduler is None:
        return None
    try:
        return method.scheduler(optimizer)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"scheduler: {first_line(error)}") from error


def evaluate(closure: Callable | None) -> Any:
    """Run the closure that Lightning's step brings, which takes the gradient."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def per_row(values: Tensor, parameter: Tensor) -> Tensor:
    """Reshape (B,) to (B,1,...), to be combined with a parameter (B,...)."""
    return values.view(-1, *[1] * (parameter.ndim - 1))
