"""A mask as the ratio of two numbers (Dabkowski & Gal 2017, the authors' code).

evidence = |a| / (|a| + |b| + 0.001), upsampled bilinearly;   mask = 1 - evidence
"""

from torch import Tensor

from mpx.masks.base import MaskContext
from mpx.masks.grid import Grid

OFFSET = 1e-3  # keeps the ratio finite where both numbers are 0


class Ratio(Grid):
    """The parameter holds a and b of each cell, unconstrained and first `init`. Regularizers see the mask at full size."""

    def __init__(self, context: MaskContext, mask_size: int | list[int] | None = 32, init: float = 0.5):
        super().__init__(context, mask_size)
        if isinstance(init, bool) or not isinstance(init, (int, float)) or not 0 < init:
            raise ValueError(f"mask.init={init!r} must be a number above 0")
        self.init = init
        self.shape = (2, *self.shape[1:])

    def forward(self, parameter: Tensor) -> Tensor:
        a, b = parameter.abs().split(1, dim=1)
        return 1 - super().forward(a / (a + b + OFFSET))

    def cells(self, parameter: Tensor) -> Tensor:
        return self(parameter)

    def project_(self, parameter: Tensor) -> None:
        """Leave the parameter as it is."""
