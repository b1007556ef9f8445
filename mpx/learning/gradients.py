"""Gradients beyond plain autograd: integrated along a path, scaled inside a network in 16 bits, and computed in parts.

An integration path is a function that returns the points in (0,1] by which the mask is multiplied, from nearly everything
perturbed (0) to the mask itself (1). A view of the complement starts from the image instead: its mask is 1 - point * mask
(Khorram et al. 2021). The score is the mean over the points, so its gradient is the integrated one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SCALE = 1024.0  # of gradients inside a network in float16, whose smallest number is 6e-8


def integrated(ig_steps: int = 20) -> list[float]:
    """Return k/ig_steps for k = 1, ..., ig_steps: the straight path (Qi, Khorram & Li 2020, equation 6)."""
    if ig_steps < 1:
        raise ValueError(f"gradient.ig_steps={ig_steps} must be at least 1")
    return [k / ig_steps for k in range(1, ig_steps + 1)]


class ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by `scale`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None


class PartialSum(torch.autograd.Function):
    """One part of a sum, whose gradient is taken at once: the network's activations of one part are held, not of all."""

    @staticmethod
    def forward(ctx: Any, function: Callable, parameter: Tensor) -> tuple[Tensor, Tensor]:
        if not ctx.needs_input_grad[1]:
            return function(parameter)
        with torch.enable_grad():
            inner = parameter.detach().requires_grad_()
            score, value = function(inner)
            (ctx.gradient,) = torch.autograd.grad(score.sum(), inner)
        ctx.mark_non_differentiable(value)
        return score.detach(), value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        score, _ = gradients
        return None, ctx.gradient * score.view(-1, *[1] * (ctx.gradient.ndim - 1))  # rows are independent
