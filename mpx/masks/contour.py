"""A mask of tens of numbers: the inside of a star-convex contour (Karimzadeh et al. 2025, arXiv 2511.01411).

    inside(u) = sigmoid((r(angle of u-c) - |u-c|) / softness),   log r(t) = rho + sum_k (a_k cos(kt) + b_k sin(kt)) / k^2

The series is of log r, so that r is positive for all coefficients and every ray from the centre c crosses the contour once.
Division by k^2 lets an optimizer with equal steps for all numbers find the coarse shape before the fine one.
Lengths are shares of the image's shorter side. Several contours are joined: 1 - prod (1 - inside).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mpx.masks.base import Mask, MaskContext
from mpx.randomness import RowRandom

CENTRE_UNIT = 0.1  # the centre's unit, a share of the side, so that one learning rate fits all numbers
MIN_RADIUS = 0.02  # smallest mean radius
MAX_RADIUS = 1.0  # largest mean radius


class Contour(Mask):
    """The parameter of a contour is (y, x, rho, a_1, ..., a_K, b_1, ..., b_K), the centre relative to the image's middle.

    The inside is the evidence in every game. harmonics: K. radius: of the circle at the start. softness: width of the edge.
    contours: number; several start on a ring. Regularizers see the mask at mask_size x mask_size points.
    """

    pixel_y: Tensor  # (H,1) coordinates of the pixels
    pixel_x: Tensor  # (1,W)
    cell_y: Tensor  # (h,1) coordinates of the points for regularizers
    cell_x: Tensor  # (1,w)

    def __init__(
        self,
        context: MaskContext,
        mask_size: int = 28,
        harmonics: int = 10,
        radius: float = 0.3,
        softness: float = 0.02,
        contours: int = 1,
    ):
        super().__init__()
        for name, value in (("harmonics", harmonics), ("contours", contours)):
            if value < 1:
                raise ValueError(f"mask.{name}={value} must be at least 1")
        if not MIN_RADIUS <= radius <= MAX_RADIUS:
            raise ValueError(f"mask.radius={radius} must be from {MIN_RADIUS} to {MAX_RADIUS} of the image's shorter side")
        if not softness > 0:
            raise ValueError(f"mask.softness={softness} must be above 0, a share of the image's shorter side")
        self.shape = (contours, 1, 3 + 2 * harmonics)
        self.radius = radius
        self.softness = softness
        self.evidence_is_kept = context.game == "preservation"
        self.half_sides = [side / min(context.size) / 2 for side in context.size]  # along y and x
        for name, size in ("pixel", context.size), ("cell", [mask_size] * 2):
            y, x = self._coordinates(size, context.device)
            self.register_buffer(f"{name}_y", y[:, None], persistent=False)
            self.register_buffer(f"{name}_x", x[None], persistent=False)

    def _coordinates(self, size: Sequence[int], device: torch.device) -> list[Tensor]:
        """Return y (h,) and x (w,) of evenly spaced points, from the image's middle."""
        return [
            ((torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 - 1).mul(half_side).float().to(device)
            for n, half_side in zip(size, self.half_sides)
        ]

    def forward(self, parameter: Tensor) -> Tensor:
        return self._mask(parameter, self.pixel_y, self.pixel_x)

    def cells(self, parameter: Tensor) -> Tensor:
        return self._mask(parameter, self.cell_y, self.cell_x)

    def _mask(self, parameter: Tensor, y: Tensor, x: Tensor) -> Tensor:
        depth = self._depth(parameter.squeeze(2)[..., None, None], y, x)  # (B,contours,h,w)
        outside = (depth / -self.softness).sigmoid().prod(1, keepdim=True)
        return 1 - outside if self.evidence_is_kept else outside

    def _depth(self, p: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Return how far inside the contour each point is, along its ray. p: (B,contours,P,1,1)."""
        y, x = y - CENTRE_UNIT * p[:, :, 0], x - CENTRE_UNIT * p[:, :, 1]
        distance = (y**2 + x**2 + 1e-8).sqrt()  # above 0, because the derivative at the centre is infinite
        cos, sin = x / distance, y / distance
        a, b = p[:, :, 3:].chunk(2, 2)
        log_radius = p[:, :, 2]
        cos_k, sin_k = cos, sin
        for k in range(a.shape[2]):
            log_radius = log_radius + (a[:, :, k] * cos_k + b[:, :, k] * sin_k) / (k + 1) ** 2
            cos_k, sin_k = cos_k * cos - sin_k * sin, sin_k * cos + cos_k * sin  # of k+2 times the angle
        return log_radius.exp() - distance

    def initial(self, rng: RowRandom) -> Tensor:
        """Return circles (B,contours,1,P)."""
        parameter = torch.zeros(rng.batch_size, *self.shape, dtype=torch.float32, device=rng.device)
        parameter[..., 2] = math.log(self.radius)
        contours = self.shape[0]
        if contours > 1:
            angles = torch.arange(contours, dtype=torch.float64) * (2 * math.pi / contours)
            for axis, offset in enumerate((angles.sin(), angles.cos())):
                parameter[..., 0, axis] = (offset * self.half_sides[axis] / 2 / CENTRE_UNIT).to(parameter)
        return parameter

    @torch.no_grad()
    def project_(self, parameter: Tensor) -> None:
        """Keep centres in the image and radii from MIN_RADIUS to MAX_RADIUS, in place."""
        for axis, half_side in enumerate(self.half_sides):
            parameter[..., axis].clamp_(-half_side / CENTRE_UNIT, half_side / CENTRE_UNIT)
        parameter[..., 2].clamp_(math.log(MIN_RADIUS), math.log(MAX_RADIUS))
