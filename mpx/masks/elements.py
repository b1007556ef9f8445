"""A mask of one parameter per masked element (C,h,w): features, channels, tokens, or single pixels."""

import math

import torch
from torch import Tensor

from mpx.masks.base import Mask, MaskContext
from mpx.masks.grid import resampling
from mpx.randomness import RowRandom


class Elements(Mask):
    """The parameter itself, or its sigmoid, smoothed by a Gaussian of `sigma` elements.

    Without the sigmoid the parameter is projected to [0,1] after each step. init: the parameter's first value.
    Schulz et al. 2020: sigmoid, init 5, sigma 1.
    """

    row_matrix: Tensor | None  # (h,h) smoothing along a column, where sigma is above 0
    column_matrix: Tensor | None  # (w,w) smoothing along a row

    def __init__(self, context: MaskContext, sigmoid: bool = False, sigma: float = 0.0, init: float = 1.0):
        super().__init__()
        if not sigmoid and not 0 <= init <= 1:
            raise ValueError(f"mask.init={init} must be from 0 to 1, or with mask.sigmoid=true any number")
        if sigma and math.ceil(3 * sigma) >= min(context.size):
            raise ValueError(f"mask.sigma={sigma} is too wide for a map of {'x'.join(map(str, context.size))} elements")
        self.shape = tuple(context.mask_shape)
        self.sigmoid = sigmoid
        self.init = init
        rows, columns = resampling(context.size, context, sigma) if sigma else (None, None)
        self.register_buffer("row_matrix", rows, persistent=False)
        self.register_buffer("column_matrix", columns, persistent=False)

    def forward(self, parameter: Tensor) -> Tensor:
        cells = self.cells(parameter)
        if self.row_matrix is None or self.column_matrix is None:
            return cells
        return self.row_matrix @ cells @ self.column_matrix.T

    def cells(self, parameter: Tensor) -> Tensor:
        return parameter.sigmoid() if self.sigmoid else parameter

    def initial(self, rng: RowRandom) -> Tensor:
        return torch.full((rng.batch_size, *self.shape), self.init, dtype=torch.float32, device=rng.device)

    @torch.no_grad()
    def project_(self, parameter: Tensor) -> None:
        """Clamp the parameter to [0,1], in place; with the sigmoid leave it as it is."""
        if not self.sigmoid:
            parameter.clamp_(0, 1)
