"""A mask of coin tosses: each pixel is kept or perturbed by chance, and the chances are learnt (Chang et al. 2019, FIDO).

    p = up(sigmoid(theta)),   z = sigmoid((log p/(1-p) + log u/(1-u)) / T),   u uniform on (0,1)

The search draws z, a concrete relaxation of Bernoulli(p) through which a gradient flows (Maddison, Mnih & Teh 2017); what is
evaluated, shown and regularized is p, what z is on average.
"""

from torch import Tensor

from mpx.masks.grid import Grid

NEAR = 1e-6  # how near to 0 and 1 a chance may come before its logarithm


class Bernoulli(Grid):
    """The parameter are the log-odds theta of keeping, one per cell, unconstrained.

    grain: what tosses its own coin, "pixel" (by the chances upsampled, as the authors' code) or "cell" (upsampled then).
    init: chance of keeping, in (0,1).
    """

    per_row = ()

    def __init__(
        self, image_size, mask_size=56, temperature: float = 0.1, grain: str = "pixel", init: float = 0.5, device="cpu"
    ):
        super().__init__(image_size, mask_size, device=device)
        if not temperature > 0:
            raise ValueError(f"mask.temperature={temperature} must be above 0")
        if grain not in ("pixel", "cell"):
            raise ValueError(f"mask.grain={grain!r} must be 'pixel' or 'cell'")
        if not isinstance(init, (int, float)) or not 0 < init < 1:
            raise ValueError(f"mask.init={init!r} must be a chance, above 0 and below 1")
        self.temperature, self.grain, self.init = temperature, grain, init

    def __call__(self, parameter: Tensor) -> Tensor:
        return super().__call__(parameter.sigmoid())

    def cells(self, parameter: Tensor) -> Tensor:
        return parameter.sigmoid()

    def draw(self, parameter: Tensor, rng) -> list[Tensor]:
        if self.grain == "pixel":
            return [self._toss(self(parameter).logit(NEAR), rng)]
        return [super().__call__(self._toss(parameter, rng))]

    def _toss(self, odds: Tensor, rng) -> Tensor:
        return ((odds + rng.uniform(*odds.shape[1:]).logit(NEAR)) / self.temperature).sigmoid()

    def start(self, rng) -> Tensor:
        return super().start(rng).logit()  # of init everywhere

    def project_(self, parameter: Tensor) -> None:
        pass
