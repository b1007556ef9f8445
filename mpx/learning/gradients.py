"""Gradients that autograd alone would not give so: scaled inside a network in 16 bits, and taken part by part."""

from collections.abc import Callable

import torch
from torch import Tensor

SCALE = 1024.0  # of gradients inside a network in float16, whose smallest number is 6e-8


class Scaled(torch.autograd.Function):
    """The same forward; the gradient times `scale`."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient * ctx.scale, None


class Part(torch.autograd.Function):
    """Part of a sum, whose gradient is taken at once: the network's activations are those of one part, not of all."""

    @staticmethod
    def forward(ctx, function: Callable, parameter: Tensor):
        if not ctx.needs_input_grad[1]:
            return function(parameter)
        with torch.enable_grad():
            inner = parameter.detach().requires_grad_()
            score, p = function(inner)
            (ctx.gradient,) = torch.autograd.grad(score.sum(), inner)
        ctx.mark_non_differentiable(p)
        return score.detach(), p

    @staticmethod
    def backward(ctx, score, _):  # rows are independent: each scales its own gradient
        return None, ctx.gradient * score.view(-1, *[1] * (ctx.gradient.ndim - 1))
