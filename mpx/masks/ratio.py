"""A mask as the ratio of two numbers (Dabkowski & Gal 2017, the authors' code).

evidence = |a| / (|a| + |b| + 0.001), upsampled bilinearly;   mask = 1 - evidence
"""

from torch import Tensor

from mpx.masks.grid import Grid

OFFSET = 1e-3  # keeps the ratio finite where both are 0


class Ratio(Grid):
    """The parameter are a and b of each cell, unconstrained; `init` is both. Regularizers see the mask at full size."""

    per_row = ()

    def __init__(self, image_size, mask_size=32, init: float = 0.5, device="cpu"):
        super().__init__(image_size, mask_size, device=device)
        if isinstance(init, bool) or not isinstance(init, (int, float)) or not 0 < init:
            raise ValueError(f"mask.init={init!r} must be a number above 0")
        self.init, self.shape = init, (2, *self.shape[1:])

    def __call__(self, parameter: Tensor) -> Tensor:
        a, b = parameter.abs().split(1, dim=1)
        return 1 - super().__call__(a / (a + b + OFFSET))

    def cells(self, parameter: Tensor) -> Tensor:
        return self(parameter)

    def project_(self, parameter: Tensor) -> None:
        pass
