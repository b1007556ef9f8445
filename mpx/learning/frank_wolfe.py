"""Frank-Wolfe: an optimizer whose evidence never exceeds the requested area, so that the area needs no weight."""

from typing import Any

import torch
from torch import Tensor

from mpx.learning.optimizers import MaskOptimizer, OptimizerContext, per_row
from mpx.operators import needs_area


@needs_area
class FrankWolfe(MaskOptimizer):
    """Frank & Wolfe 1956 on the evidence 0 <= e <= 1, sum e <= k, with k the area in cells (Macdonald et al. 2022).

    A step goes part of the way to the corner with the largest predicted decrease: 1 at the k cells where the gradient is
    most negative (if negative), 0 elsewhere. So e never leaves the polytope, and no weight is needed. The
    evidence is m in a preservation and 1 - m in the other games. A start with too much evidence becomes one with none.

    monotone: the part is 2^-N / sqrt(t+1), and each row's N grows until its objective does not (without augmentations; at
    most `max_backtracks` times in a step, each a forward), as in the authors' code; else the part is 2 / (t+2).
    """

    def __init__(self, params: Any, context: OptimizerContext, monotone: bool = True, max_backtracks: int = 10):
        if max_backtracks < 1:
            raise ValueError(f"max_backtracks={max_backtracks} must be at least 1")
        super().__init__(params, context, {})
        assert context.areas is not None
        self.is_preservation = context.game == "preservation"
        self.monotone = monotone
        self.max_backtracks = max_backtracks
        for parameter in (p for group in self.param_groups for p in group["params"]):
            self._check_range(parameter)
            cells = parameter[0].numel()
            self.max_cells = (context.areas.to(parameter) * cells).round().clamp(1, cells)  # (B,) k
            with torch.no_grad():
                evidence = parameter if self.is_preservation else 1 - parameter
                exceeds = evidence.flatten(1).sum(1) > self.max_cells * (1 + 1e-5)
                parameter[exceeds] = 0.0 if self.is_preservation else 1.0

    def _check_range(self, parameter: Tensor) -> None:
        """Refuse masks whose parameter is not projected to [0,1]."""
        edges = torch.stack([torch.full_like(parameter, -1.0), torch.full_like(parameter, 2.0)]).detach()
        for edge in edges:
            self.context.project(edge)
        if edges.min() < 0 or edges.max() > 1:
            raise ValueError("optimizer=frank_wolfe needs a mask whose parameter is limited to [0,1], such as mask=grid")

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        t = state["t"] = state.get("t", -1) + 1
        direction = self._corner(parameter) - parameter
        if self.monotone:
            self._descend(parameter, direction, state.setdefault("halvings", torch.zeros_like(self.max_cells)), t)
        else:
            parameter.add_(direction, alpha=2 / (t + 2))

    def _corner(self, parameter: Tensor) -> Tensor:
        """Return the corner of the polytope with the largest decrease that the gradient predicts."""
        assert parameter.grad is not None
        slope = (parameter.grad if self.is_preservation else -parameter.grad).flatten(1)  # (B,n), of the evidence
        rank = torch.arange(slope.shape[1], device=parameter.device).expand_as(slope)
        lowest = (rank < self.max_cells[:, None]).to(slope)
        selected = torch.zeros_like(slope).scatter(1, slope.argsort(dim=1, stable=True), lowest)
        corner = (selected * (slope < 0)).view_as(parameter)
        return corner if self.is_preservation else 1 - corner

    def _descend(self, parameter: Tensor, direction: Tensor, halvings: Tensor, t: int) -> None:
        start, before = parameter.clone(), self.context.objective(parameter.detach())
        for _ in range(self.max_backtracks):
            step_size = torch.exp2(-halvings) / (t + 1) ** 0.5
            parameter.copy_(start + per_row(step_size, parameter) * direction)
            worse = self.context.objective(parameter.detach()) > before
            if not worse.any():
                break
            halvings += worse
