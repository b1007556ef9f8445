"""Two masks, one that deletes and one that preserves, whose product is the result and does both (Khorram et al. 2021)."""

from torch import Tensor

from mpx.masks.grid import Grid


class Pair(Grid):
    """The parameter (B,2,h,w) are both masks' cells, each as a Grid's. Regularizers see their product. For game=product."""

    per_row = ()

    def __init__(self, image_size, mask_size=28, sigma: float = 0.0, upsample: str = "linear", init="ones", device="cpu"):
        super().__init__(image_size, mask_size, sigma, upsample, init, device=device)
        self.shape = (2, *self.shape[1:])

    def __call__(self, parameter: Tensor) -> Tensor:
        return self.draw(parameter)[0]

    def cells(self, parameter: Tensor) -> Tensor:
        return parameter[:, :1] * parameter[:, 1:]

    def draw(self, parameter: Tensor, rng=None) -> list[Tensor]:
        """The product, the mask that deletes, and the one that preserves."""
        delete, preserve = super().__call__(parameter).split(1, dim=1)
        return [delete * preserve, delete, preserve]
