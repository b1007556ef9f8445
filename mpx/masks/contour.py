"""A mask of tens of numbers: the inside of a star-convex contour (Karimzadeh et al. 2025, arXiv 2511.01411).

    inside(u) = sigmoid((r(angle of u-c) - |u-c|) / softness),   log r(t) = rho + sum_k (a_k cos(kt) + b_k sin(kt)) / k^2

Of a logarithm, so that r is positive whatever the coefficients, and every ray from the centre c crosses the contour once.
Divided by k^2, so that an optimizer with equal steps for all numbers finds the coarse shape before the fine one.
Lengths are shares of the image's shorter side. Several contours are joined: 1 - prod (1 - inside).
"""

import math

import torch
from torch import Tensor

STEP = 0.1  # the centre is told in tenths, so that one learning rate does for all numbers
SMALLEST, LARGEST = 0.02, 1.0  # mean radius


class Contour:
    """A contour's parameter are (y, x, rho, a_1, ..., a_K, b_1, ..., b_K), its centre from the image's middle.

    The inside is the evidence, whatever the game. harmonics: K; radius: of the circle it starts from; softness: of its edge;
    contours: how many, several start on a ring. Regularizers see it at mask_size x mask_size points.
    """

    def __init__(
        self, image_size, mask_size: int = 28, harmonics: int = 10, radius: float = 0.3, softness: float = 0.02,
        contours: int = 1, game: str = "deletion", device="cpu",
    ):  # fmt: skip
        for name, value in (("harmonics", harmonics), ("contours", contours)):
            if value < 1:
                raise ValueError(f"mask.{name}={value} must be at least 1")
        if not SMALLEST <= radius <= LARGEST:
            raise ValueError(f"mask.radius={radius} must be from {SMALLEST} to {LARGEST} of the image's shorter side")
        if not softness > 0:
            raise ValueError(f"mask.softness={softness} must be above 0, a share of the image's shorter side")
        self.shape = (contours, 1, 3 + 2 * harmonics)
        self.radius, self.softness, self.keeps, self.device = radius, softness, game == "preservation", device
        self.reach = [side / min(image_size) / 2 for side in image_size]  # of the image from its middle, along y and x
        self.pixels, self.coarse = self._places(image_size), self._places([mask_size] * 2)

    def _places(self, size) -> list[Tensor]:
        """y (h,1) and x (1,w) of evenly spaced points."""
        y, x = (
            ((torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 - 1).mul(reach).float().to(self.device)
            for n, reach in zip(size, self.reach)
        )
        return [y[:, None], x[None]]

    def __call__(self, parameter: Tensor) -> Tensor:
        return self._mask(parameter, *self.pixels)

    def cells(self, parameter: Tensor) -> Tensor:
        return self._mask(parameter, *self.coarse)

    def _mask(self, parameter: Tensor, y: Tensor, x: Tensor) -> Tensor:
        outside = (self._edge(parameter.squeeze(2)[..., None, None], y, x) / -self.softness).sigmoid()  # (B,contours,h,w)
        outside = outside.prod(1, keepdim=True)
        return 1 - outside if self.keeps else outside

    def _edge(self, p: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """How far inside the contour a point is, along its ray. p: (B,contours,P,1,1)."""
        y, x = y - STEP * p[:, :, 0], x - STEP * p[:, :, 1]
        distance = (y**2 + x**2 + 1e-8).sqrt()  # no angle at the centre itself, and no infinite derivative
        cos, sin = x / distance, y / distance
        a, b = p[:, :, 3:].chunk(2, 2)
        log_radius, c, s = p[:, :, 2], cos, sin
        for k in range(a.shape[2]):
            log_radius = log_radius + (a[:, :, k] * c + b[:, :, k] * s) / (k + 1) ** 2
            c, s = c * cos - s * sin, s * cos + c * sin  # of k+2 times the angle
        return log_radius.exp() - distance

    def start(self, rng) -> Tensor:
        """(B,contours,1,P): circles."""
        parameter = torch.zeros_like(rng.uniform(*self.shape))
        parameter[..., 2] = math.log(self.radius)
        number = self.shape[0]
        if number > 1:
            angles = torch.arange(number, dtype=torch.float64) * (2 * math.pi / number)
            for axis, turn in enumerate((angles.sin(), angles.cos())):
                parameter[..., 0, axis] = (turn * self.reach[axis] / 2 / STEP).to(parameter)
        return parameter

    def project_(self, parameter: Tensor) -> None:
        """Centres stay in the image, and no contour vanishes."""
        for axis, reach in enumerate(self.reach):
            parameter[..., axis].clamp_(-reach / STEP, reach / STEP)
        parameter[..., 2].clamp_(math.log(SMALLEST), math.log(LARGEST))


def spectrum(s: Tensor, parameter: Tensor) -> Tensor:
    """sum_k a_k^2 + b_k^2 of mask=contour: how much log r bends, (1/pi) int (d^2 log r / dt^2)^2 dt. 0 of a circle."""
    if parameter.ndim != 4 or parameter.shape[2] != 1 or parameter.shape[3] < 5 or parameter.shape[3] % 2 == 0:
        raise ValueError("regularizer=spectrum weighs a contour's harmonics: choose mask=contour, or leave it out")
    return (parameter[..., 3:] ** 2).flatten(1).sum(1)
