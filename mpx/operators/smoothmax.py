"""The mask of extremal perturbations: the smooth maximum of bumps around the cells (Fong, Patrick & Vedaldi 2019, section 3.2).

    m(u) = smax_i k(|u - c_i| / sigma) p_i,   smax_i v_i = sum_i v_i exp(v_i/T) / sum_i exp(v_i/T),   T = 1/20
    k(z) = exp(-2 max(z - 1/2, 0)^2): a plateau of radius sigma/2, then a Gaussian of standard deviation sigma/2

over the cells i around u, their centres c_i; cells outside the image are 0 and take part, so that a bump may end at the
image's edge without ending inside it.
"""

import math

import torch
from torch import Tensor

from mpx.operators.masks import Grid

COLDNESS = 20.0  # 1/T


class SmoothMax(Grid):
    """mask_size: cells per side. sigma: share of the image's shorter side, so that it means the same at every resolution.

    points: the maximum is taken at points x points places in each cell (no more than it has pixels), and interpolated linearly
    in between; null takes it at every pixel, where the cells divide the image into whole pixels.
    """

    def __init__(self, image_size, mask_size=32, sigma: float = 0.09375, points: int | None = 3, init="ones", device="cpu"):
        super().__init__(image_size, mask_size, init=init, device=device)
        steps = [side / n for side, n in zip(self.image_size, self.shape[1:])]  # px
        whole = steps[0] == steps[1] == int(steps[0])
        if points is None and not whole:
            raise ValueError(f"mask.points=null needs cells of whole pixels, square: mask_size={mask_size} gives {steps} px")
        self.points = int(min(steps)) if points is None else min(points, int(min(steps)))
        if self.points < 1 or not 0 < sigma <= 1:
            raise ValueError(f"mask.sigma={sigma} must be above 0 and at most 1, mask.points={points} at least 1 or null")
        self.sigma = sigma = sigma * min(self.image_size)  # px
        reach = [1 + math.ceil(sigma / step) for step in steps]
        self.reach = reach
        inner = (torch.arange(self.points, dtype=torch.float64) + 0.5) / self.points - 0.5  # places in a cell, from its centre
        weights = []
        for y in range(-reach[0], reach[0] + 1):
            for x in range(-reach[1], reach[1] + 1):
                distance = torch.hypot((inner - y)[:, None] * steps[0], (inner - x)[None] * steps[1])
                weights.append(torch.exp(-2 * (distance / sigma - 0.5).clamp(min=0) ** 2))
        self.weights = torch.stack(weights).float().to(device)  # (neighbours, points, points)
        finer = [n * self.points for n in self.shape[1:]]
        self.exact = points is None or finer == list(self.image_size)
        if not self.exact:
            fine = Grid(image_size, finer, device=device)
            self.rows, self.cols = fine.rows, fine.cols  # (H, h*points), (W, w*points)

    def __call__(self, parameter: Tensor) -> Tensor:
        fine = _SmoothMax.apply(parameter, self.weights, self.reach)
        return fine if self.exact else self.rows @ fine @ self.cols.T


class _SmoothMax(torch.autograd.Function):
    """One neighbour at a time, forward and again backward: all together would be 81 masks."""

    @staticmethod
    def forward(ctx, parameter: Tensor, weights: Tensor, reach: list[int]) -> Tensor:
        B, _, h, w = parameter.shape
        points = weights.shape[-1]
        total = parameter.new_zeros(B, h, points, w, points)
        norm, value = torch.zeros_like(total), torch.empty_like(total)
        for weight, cells in _neighbours(parameter, weights, reach):
            torch.mul(cells, weight, out=value)
            power = torch.exp(value * COLDNESS)
            norm += power
            total.addcmul_(power, value)
        total /= norm
        ctx.save_for_backward(parameter, weights, total, norm)
        ctx.reach = reach
        return total.view(B, 1, h * points, w * points)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        parameter, weights, total, norm = ctx.saved_tensors
        (ry, rx), (h, w) = ctx.reach, parameter.shape[2:]
        # d smax/d v = e^{cv} (1 + c (v - smax)) / norm
        scaled = gradient.view_as(total) / norm
        constant, linear = scaled * (1 - COLDNESS * total), scaled * COLDNESS
        padded = parameter.new_zeros(len(parameter), h + 2 * ry, w + 2 * rx)
        places = [(y, x) for y in range(2 * ry + 1) for x in range(2 * rx + 1)]
        for (y, x), (weight, cells) in zip(places, _neighbours(parameter, weights, ctx.reach)):
            value = cells * weight
            slope = torch.addcmul(constant, linear, value).mul_(value.mul_(COLDNESS).exp_()).mul_(weight)
            padded[:, y : y + h, x : x + w] += slope.sum((2, 4))
        return padded[:, None, ry : ry + h, rx : rx + w], None, None


def _neighbours(parameter: Tensor, weights: Tensor, reach: list[int]):
    """Of each place: the neighbour's weights (1,1,points,1,points) and its cells (B,h,1,w,1)."""
    (ry, rx), (h, w) = reach, parameter.shape[2:]
    padded = torch.nn.functional.pad(parameter[:, 0], [rx, rx, ry, ry])
    for k, weight in enumerate(weights):
        y, x = divmod(k, 2 * rx + 1)
        yield weight[None, None, :, None, :], padded[:, y : y + h, None, x : x + w, None]
