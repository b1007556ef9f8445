"""Two masks, one that deletes and one that preserves, whose product is the result and does both (Khorram et al. 2021)."""

from torch import Tensor

from mpx.masks.base import MaskContext
from mpx.masks.grid import Grid
from mpx.randomness import RowRandom


class Pair(Grid):
    """The parameter (B,2,h,w) holds the cells of both masks, each a Grid. Regularizers see the product. For game=product."""

    count = 3

    def __init__(
        self,
        context: MaskContext,
        mask_size: int | list[int] | None = 28,
        sigma: float = 0.0,
        upsample: str = "linear",
        init: str | float = "ones",
    ):
        super().__init__(context, mask_size, sigma, upsample, init)
        self.shape = (2, *self.shape[1:])

    def forward(self, parameter: Tensor) -> Tensor:
        return self._masks(parameter)[0]

    def cells(self, parameter: Tensor) -> Tensor:
        return parameter[:, :1] * parameter[:, 1:]

    def sample(self, parameter: Tensor, rng: RowRandom) -> list[Tensor]:
        """Return the product, the mask that deletes, and the one that preserves."""
        return self._masks(parameter)

    def _masks(self, parameter: Tensor) -> list[Tensor]:
        delete, preserve = super().forward(parameter).split(1, dim=1)
        return [delete * preserve, delete, preserve]
