"""A mask of one parameter per element of what is masked (C,h,w): features, channels, tokens, or single pixels."""

import math

import torch
from torch import Tensor

from mpx.masks.grid import Grid


class Elements:
    """The parameter itself, held in [0,1] after each step, or its sigmoid; then smoothed by a Gaussian of `sigma` elements.

    init: the parameter's first value. Schulz et al. 2020: sigmoid, 5, sigma 1.
    """

    def __init__(self, shape, sigmoid: bool = False, sigma: float = 0.0, init: float = 1.0, device="cpu"):
        if not sigmoid and not 0 <= init <= 1:
            raise ValueError(f"mask.init={init} must be from 0 to 1, or with mask.sigmoid=true any number")
        self.shape, self.sigmoid, self.init = tuple(shape), sigmoid, init
        if math.ceil(3 * sigma) >= min(self.shape[1:]) and sigma:
            raise ValueError(f"mask.sigma={sigma} is too wide for a map of {'x'.join(map(str, self.shape[1:]))} elements")
        self.smooth = Grid(self.shape[1:], None, sigma, device=device) if sigma else None

    def __call__(self, parameter: Tensor) -> Tensor:
        cells = self.cells(parameter)
        return self.smooth(cells) if self.smooth else cells

    def cells(self, parameter: Tensor) -> Tensor:
        return parameter.sigmoid() if self.sigmoid else parameter

    def start(self, rng) -> Tensor:
        return torch.full_like(rng.uniform(*self.shape), self.init)

    def project_(self, parameter: Tensor) -> None:
        if not self.sigmoid:
            parameter.clamp_(0, 1)
