"""The mask of extremal perturbations: the smooth maximum of bumps around cells (Fong, Patrick & Vedaldi 2019, section 3.2).

    m(u) = smax_i k(|u - c_i| / sigma) p_i,   smax_i v_i = sum_i v_i exp(v_i/T) / sum_i exp(v_i/T),   T = 1/20
    k(z) = exp(-2 max(z - 1/2, 0)^2): a plateau of radius sigma/2, then a Gaussian of standard deviation sigma/2

over the cells i around u, their centres c_i. m and p are evidence here, in every game; outside the image there is none.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.masks.base import MaskContext
from mpx.masks.grid import Grid, resampling

INVERSE_TEMPERATURE = 20.0  # 1/T


class SmoothMax(Grid):
    """The parameter is the mask's value at the cells.

    mask_size: cells per side. sigma: share of the image's shorter side, so that it means the same at every resolution.
    points: the maximum is computed at points x points positions in each cell (at most one per pixel) and interpolated
    linearly in between; None computes it at every pixel, where the cells divide the image into whole pixels.
    """

    bumps: Tensor  # (neighbours, positions in a cell) k of each neighbour at each position

    def __init__(
        self,
        context: MaskContext,
        mask_size: int | list[int] | None = 32,
        sigma: float = 0.09375,
        points: int | None = 3,
        init: str | float = "ones",
    ):
        super().__init__(context, mask_size, init=init)
        steps = [side / n for side, n in zip(self.image_size, self.shape[1:])]  # px per cell
        is_exact = steps[0] == steps[1] == int(steps[0])
        if points is None and not is_exact:
            raise ValueError(f"mask.points=null needs cells of whole pixels, square: mask_size={mask_size} gives {steps} px")
        self.points = int(min(steps)) if points is None else min(points, int(min(steps)))
        if self.points < 1 or not 0 < sigma <= 1:
            raise ValueError(f"mask.sigma={sigma} must be above 0 and at most 1, mask.points={points} at least 1 or null")
        self.sigma = sigma * min(self.image_size)  # px
        self.evidence_is_kept = context.game == "preservation"
        self.reach = [1 + math.ceil(self.sigma / step) for step in steps]  # cells, along y and x
        self.register_buffer("bumps", self._bumps(steps).to(context.device), persistent=False)
        fine_size = [n * self.points for n in self.shape[1:]]
        self.values_inside = math.prod(fine_size)
        self.needs_upsampling = fine_size != list(self.image_size)
        if self.needs_upsampling:
            self.row_matrix, self.column_matrix = resampling(fine_size, context)  # (H, h*points), (W, w*points)

    def _bumps(self, steps: list[float]) -> Tensor:
        offsets = (torch.arange(self.points, dtype=torch.float64) + 0.5) / self.points - 0.5  # from the cell's centre
        bumps = []
        for y in range(-self.reach[0], self.reach[0] + 1):
            for x in range(-self.reach[1], self.reach[1] + 1):
                distance = torch.hypot((offsets - y)[:, None] * steps[0], (offsets - x)[None] * steps[1])
                bumps.append(torch.exp(-2 * (distance / self.sigma - 0.5).clamp(min=0) ** 2))
        return torch.stack(bumps).float().flatten(1)

    def forward(self, parameter: Tensor) -> Tensor:
        return self.crop(self.padded(parameter))

    def padded(self, parameter: Tensor) -> Tensor:
        """Return the mask at all positions, and as far outside the image as bumps reach.

        There each bump counts completely, so that cells at the edge are not cheaper than others.
        """
        ry, rx = self.reach
        evidence = parameter if self.evidence_is_kept else 1 - parameter
        maximum = _SmoothMax.apply(F.pad(evidence, [rx, rx, ry, ry]), self.bumps, self.reach)
        return maximum if self.evidence_is_kept else 1 - maximum

    def crop(self, padded: Tensor) -> Tensor:
        ry, rx = (r * self.points for r in self.reach)
        h, w = padded.shape[2:]
        fine = padded[..., ry : h - ry, rx : w - rx]
        return self.row_matrix @ fine @ self.column_matrix.T if self.needs_upsampling else fine

    def inside(self, padded: Tensor) -> int:
        return self.values_inside


class _SmoothMax(torch.autograd.Function):
    """The smooth maximum (B,1,h*points,w*points) of cells (B,1,h,w).

    One neighbour at a time, forward and again backward, because all together would take the memory of 81 masks.
    """

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, bumps: Tensor, reach: list[int]) -> Tensor:
        B, _, h, w = parameter.shape
        total = parameter.new_zeros(B, bumps.shape[1], h, w)  # of each position in a cell
        norm = torch.zeros_like(total)
        for bump, cells in _neighbours(parameter, bumps * INVERSE_TEMPERATURE, reach):
            value = cells * bump
            power = value.exp()
            norm += power
            total.addcmul_(power, value)
        total /= norm
        ctx.save_for_backward(parameter, bumps, total, norm)
        ctx.reach = reach
        return F.pixel_shuffle(total / INVERSE_TEMPERATURE, math.isqrt(bumps.shape[1]))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        parameter, bumps, total, norm = ctx.saved_tensors
        (ry, rx), (h, w) = ctx.reach, parameter.shape[2:]
        scaled = F.pixel_unshuffle(gradient, math.isqrt(bumps.shape[1])) / norm
        constant = scaled * (1 - total)
        padded = parameter.new_zeros(len(parameter), h + 2 * ry, w + 2 * rx)
        for k, (bump, cells) in enumerate(_neighbours(parameter, bumps * INVERSE_TEMPERATURE, ctx.reach)):
            value = cells * bump
            # the derivative of smax by v, with c = 1/T: e^{cv} (1 + c (v - smax)) / norm
            slope = torch.addcmul(constant, scaled, value).mul_(value.exp_())
            y, x = divmod(k, 2 * rx + 1)
            padded[:, y : y + h, x : x + w] += (bumps[k] @ slope.flatten(2)).view(-1, h, w)
        return padded[:, None, ry : ry + h, rx : rx + w], None, None


def _neighbours(parameter: Tensor, bumps: Tensor, reach: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for each neighbour of a cell, its bump (positions,1,1) and its value at all cells (B,1,h,w)."""
    (ry, rx), (h, w) = reach, parameter.shape[2:]
    padded = F.pad(parameter, [rx, rx, ry, ry])
    for k, bump in enumerate(bumps):
        y, x = divmod(k, 2 * rx + 1)
        yield bump[:, None, None], padded[..., y : y + h, x : x + w].contiguous()
