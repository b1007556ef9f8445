"""The mask of extremal perturbations: the smooth maximum of bumps around cells (Fong, Patrick & Vedaldi 2019, section 3.2).

    m(u) = smax_i k(|u - c_i| / sigma) p_i,   smax_i v_i = sum_i v_i exp(v_i/T) / sum_i exp(v_i/T),   T = 1/20
    k(z) = exp(-2 max(z - 1/2, 0)^2): a plateau of radius sigma/2, then a Gaussian of standard deviation sigma/2

over the cells i around u, their centres c_i. m and p are evidence here, whatever the game, and none lies outside the image.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.masks.grid import Grid

COLDNESS = 20.0  # 1/T


class SmoothMax(Grid):
    """mask_size: cells per side. sigma: share of the image's shorter side, so that it means the same at every resolution.

    points: the maximum is taken at points x points places in each cell (no more than it has pixels), and interpolated
    linearly in between; null takes it at every pixel, where the cells divide the image into whole pixels.
    game: "preservation", where the evidence is what the mask keeps; else it is what it takes.
    """

    per_row = ()

    def __init__(self, image_size, mask_size=32, sigma: float = 0.09375, points: int | None = 3, init="ones",
                 game: str = "preservation", device="cpu"):  # fmt: skip
        super().__init__(image_size, mask_size, init=init, device=device)
        steps = [side / n for side, n in zip(self.image_size, self.shape[1:])]  # px
        whole = steps[0] == steps[1] == int(steps[0])
        if points is None and not whole:
            raise ValueError(f"mask.points=null needs cells of whole pixels, square: mask_size={mask_size} gives {steps} px")
        self.points = int(min(steps)) if points is None else min(points, int(min(steps)))
        if self.points < 1 or not 0 < sigma <= 1:
            raise ValueError(f"mask.sigma={sigma} must be above 0 and at most 1, mask.points={points} at least 1 or null")
        self.sigma, self.kept = sigma * min(self.image_size), game == "preservation"  # px
        self.reach = [1 + math.ceil(self.sigma / step) for step in steps]  # cells
        inner = (
            torch.arange(self.points, dtype=torch.float64) + 0.5
        ) / self.points - 0.5  # places in a cell, from its centre
        weights = []
        for y in range(-self.reach[0], self.reach[0] + 1):
            for x in range(-self.reach[1], self.reach[1] + 1):
                distance = torch.hypot((inner - y)[:, None] * steps[0], (inner - x)[None] * steps[1])
                weights.append(torch.exp(-2 * (distance / self.sigma - 0.5).clamp(min=0) ** 2))
        self.weights = torch.stack(weights).float().flatten(1).to(device)  # (neighbours, places in a cell)
        finer = [n * self.points for n in self.shape[1:]]
        self.inside = math.prod(finer)  # of the values of `framed`
        self.exact = finer == list(self.image_size)
        if not self.exact:
            fine = Grid(image_size, finer, device=device)
            self.rows, self.cols = fine.rows, fine.cols  # (H, h*points), (W, w*points)

    def __call__(self, parameter: Tensor) -> Tensor:
        return self.window(self.framed(parameter))

    def framed(self, parameter: Tensor) -> Tensor:
        """The mask at all places, and as far outside the image as bumps reach.

        There each bump counts whole, so that cells at the edge are not cheaper than others.
        """
        (ry, rx), evidence = self.reach, parameter if self.kept else 1 - parameter
        found = _SmoothMax.apply(F.pad(evidence, [rx, rx, ry, ry]), self.weights, self.reach)
        return found if self.kept else 1 - found

    def window(self, framed: Tensor) -> Tensor:
        """The mask in the image, (B,1,H,W)."""
        (ry, rx), (h, w) = (r * self.points for r in self.reach), framed.shape[2:]
        fine = framed[..., ry : h - ry, rx : w - rx]
        return fine if self.exact else self.rows @ fine @ self.cols.T


class _SmoothMax(torch.autograd.Function):
    """One neighbour at a time, forward and again backward: all together would be 81 masks."""

    @staticmethod
    def forward(ctx, parameter: Tensor, weights: Tensor, reach: list[int]) -> Tensor:
        B, _, h, w = parameter.shape
        total = parameter.new_zeros(B, weights.shape[1], h, w)  # of each place in a cell
        norm = torch.zeros_like(total)
        for weight, cells in _neighbours(parameter, weights * COLDNESS, reach):
            value = cells * weight
            power = value.exp()
            norm += power
            total.addcmul_(power, value)
        total /= norm
        ctx.save_for_backward(parameter, weights, total, norm)
        ctx.reach = reach
        return F.pixel_shuffle(total / COLDNESS, math.isqrt(weights.shape[1]))

    @staticmethod
    def backward(ctx, gradient: Tensor):
        parameter, weights, total, norm = ctx.saved_tensors
        (ry, rx), (h, w) = ctx.reach, parameter.shape[2:]
        scaled = F.pixel_unshuffle(gradient, math.isqrt(weights.shape[1])) / norm
        constant = scaled * (1 - total)
        padded = parameter.new_zeros(len(parameter), h + 2 * ry, w + 2 * rx)
        for k, (weight, cells) in enumerate(_neighbours(parameter, weights * COLDNESS, ctx.reach)):
            value = cells * weight
            slope = torch.addcmul(constant, scaled, value).mul_(value.exp_())  # of smax v: e^{cv} (1 + c (v - smax)) / norm
            y, x = divmod(k, 2 * rx + 1)
            padded[:, y : y + h, x : x + w] += (weights[k] @ slope.flatten(2)).view(-1, h, w)
        return padded[:, None, ry : ry + h, rx : rx + w], None, None


def _neighbours(parameter: Tensor, weights: Tensor, reach: list[int]):
    """Of each cell: the neighbour's weights (places,1,1) and the neighbour (B,1,h,w)."""
    (ry, rx), (h, w) = reach, parameter.shape[2:]
    padded = F.pad(parameter, [rx, rx, ry, ry])
    for k, weight in enumerate(weights):
        y, x = divmod(k, 2 * rx + 1)
        yield weight[:, None, None], padded[..., y : y + h, x : x + w].contiguous()
