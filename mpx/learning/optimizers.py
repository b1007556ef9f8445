"""Steps that torch.optim lacks. Each works on every row by itself; what it asks for by name, mpx.operators lists.

A step is given the rows' parameter (B,...) with its gradient, as any torch.optim.Optimizer.
"""

import torch
from torch import Tensor

from mpx.operators import needs_area


class LineSearch(torch.optim.Optimizer):
    """Gradient descent whose step each row finds by itself, backtracking along the projection arc (Bertsekas 1976).

    Of the steps lr, lr*decay, lr*decay^2, ... a row takes the first that lowers its objective by at least `armijo` times
    what the gradient promised for the way gone; where none of the `tries` does, it takes the smallest, which hardly moves
    it. The objective is asked for all rows at once until each has found its step. It is that of the mask as it is
    evaluated, without noise, while the gradient may be integrated and noisy (Qi, Khorram & Li 2020).
    """

    def __init__(
        self, params, objective, project, lr: float = 1000.0, decay: float = 0.2, armijo: float = 1e-4, tries: int = 13
    ):  # fmt: skip
        for name, value in (("decay", decay), ("armijo", armijo)):
            if not 0 < value < 1:
                raise ValueError(f"{name}={value} must be above 0 and below 1")
        if tries < 1:
            raise ValueError(f"tries={tries} must be at least 1")
        super().__init__(params, {"lr": lr})
        self.objective, self.project, self.decay, self.armijo, self.tries = objective, project, decay, armijo, tries

    @torch.no_grad()
    def step(self, closure=None):
        loss = _asked(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self._search(p, group["lr"])
        return loss

    def _search(self, p: Tensor, lr: float) -> None:
        start, before = p.clone(), self.objective(p.detach())
        found = torch.zeros_like(before, dtype=torch.bool)
        for k in range(self.tries):
            tried = start - lr * self.decay**k * p.grad
            self.project(tried)
            p.copy_(torch.where(found.view(-1, *[1] * (p.ndim - 1)), p, tried))
            promised = (p.grad * (start - p)).flatten(1).sum(1)
            found |= self.objective(p.detach()) <= before - self.armijo * promised
            if found.all():
                break


class RowAdam(torch.optim.Optimizer):
    """Adam (Kingma & Ba 2015) whose second moment is in part its row's, a mean over cells; NovoGrad's is a layer's (2019).

    Adam gives every cell a step of about lr, also those that hardly matter: evidence grows far beyond the object and takes
    hundreds of steps to shrink. With a row's second moment alone, what hardly matters hardly shrinks. Here a cell's step is
    divided by rms^own of its own gradient and rms^(1 - own) of the row's: own=1 is Adam.
    """

    def __init__(
        self, params, lr: float = 0.3, beta1: float = 0.7, beta2: float = 0.95, own: float = 0.5, eps: float = 1e-12
    ):
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value} must be at least 0 and below 1")
        if not 0 <= own <= 1:
            raise ValueError(f"own={own} must be from 0, the row's second moment, to 1, each cell's")
        super().__init__(params, {"lr": lr, "beta1": beta1, "beta2": beta2, "own": own, "eps": eps})

    @torch.no_grad()
    def step(self, closure=None):
        loss = _asked(closure)
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                state, betas = self.state[p], (group["beta1"], group["beta2"])
                if not state:
                    state.update(t=0, moments=(torch.zeros_like(p), torch.zeros_like(p)))
                state["t"] += 1
                for moment, new, beta in zip(state["moments"], (p.grad, p.grad.square()), betas):
                    moment.lerp_(new, 1 - beta)
                mean, square = (moment / (1 - beta ** state["t"]) for moment, beta in zip(state["moments"], betas))
                row = square.flatten(1).mean(1).view(-1, *[1] * (p.ndim - 1))
                rms = square.pow(group["own"] / 2) * row.pow((1 - group["own"]) / 2)
                p.sub_(group["lr"] * mean / (rms + group["eps"]))
        return loss


class Nesterov(torch.optim.Optimizer):
    """Nesterov 1983's accelerated gradient: step by lr, project, then go on by t/(t+3) of the way since the last projection.

    The momentum of Jiang, Khorram & Li 2023 (NAG-iGOS++).
    """

    def __init__(self, params, project, lr: float = 0.1):
        super().__init__(params, {"lr": lr})
        self.project = project

    @torch.no_grad()
    def step(self, closure=None):
        loss = _asked(closure)
        for group in self.param_groups:
            for p in group["params"]:
                t, last = self.state[p].get("t", 0), self.state[p].get("last")
                stepped = p - group["lr"] * p.grad
                self.project(stepped)
                p.copy_(stepped if last is None else stepped + t / (t + 3) * (stepped - last))
                self.state[p].update(t=t + 1, last=stepped)
        return loss


@needs_area
class FrankWolfe(torch.optim.Optimizer):
    """Frank & Wolfe 1956 on the evidences 0 <= e <= 1, sum e <= k, k = `area` of the cells (Macdonald et al. 2022).

    A step goes part of the way to the corner that the gradient promises most from: 1 at the k cells where it is most
    negative, as far as it is, 0 elsewhere. So e never leaves the polytope, and nothing is to be weighed. The
    evidence is m in a preservation and 1 - m in the other games; a start with too much of it becomes one with none.

    monotone: the part is 2^-N / sqrt(t+1), where each row's N grows until its objective does not (without augments; at most
    `tries` times in a step, each a forward), as the authors' code; else 2 / (t+2).
    """

    def __init__(self, params, area, objective, project, game: str = "preservation", monotone: bool = True, tries: int = 10):
        if tries < 1:
            raise ValueError(f"tries={tries} must be at least 1")
        super().__init__(params, {})
        self.objective, self.keeps, self.monotone, self.tries = objective, game == "preservation", monotone, tries
        for p in (p for group in self.param_groups for p in group["params"]):
            edge = torch.stack([torch.full_like(p, -1.0), torch.full_like(p, 2.0)]).detach()
            for side in edge:
                project(side)
            if edge.min() < 0 or edge.max() > 1:
                raise ValueError("frank_wolfe wants a mask whose parameter is held in [0,1], such as mask=grid")
            cells = p[0].numel()
            self.most = (area.to(p) * cells).round().clamp(1, cells)  # (B,) k
            with torch.no_grad():
                over = (p if self.keeps else 1 - p).flatten(1).sum(1) > self.most * (1 + 1e-5)
                p[over] = 0.0 if self.keeps else 1.0

    @torch.no_grad()
    def step(self, closure=None):
        loss = _asked(closure)
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                t = state["t"] = state.get("t", -1) + 1
                if self.monotone:
                    self._down(p, self._way(p), state.setdefault("halvings", torch.zeros_like(self.most)), t)
                else:
                    p.add_(self._way(p), alpha=2 / (t + 2))
        return loss

    def _way(self, p: Tensor) -> Tensor:
        """From the parameter to the corner."""
        slope = (p.grad if self.keeps else -p.grad).flatten(1)  # (B,n), of the evidence
        rank = torch.arange(slope.shape[1], device=p.device).expand_as(slope)
        among = torch.zeros_like(slope).scatter(1, slope.argsort(dim=1, stable=True), (rank < self.most[:, None]).to(slope))
        corner = (among * (slope < 0)).view_as(p)
        return (corner if self.keeps else 1 - corner) - p

    def _down(self, p: Tensor, way: Tensor, halvings: Tensor, t: int) -> None:
        start, before = p.clone(), self.objective(p.detach())
        for _ in range(self.tries):
            part = torch.exp2(-halvings) / (t + 1) ** 0.5
            p.copy_(start + part.view(-1, *[1] * (p.ndim - 1)) * way)
            worse = self.objective(p.detach()) > before
            if not worse.any():
                break
            halvings += worse


def _asked(closure):
    """Lightning's step comes with a closure that takes the gradient."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
