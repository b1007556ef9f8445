"""A random mask: each pixel is kept with a learnt probability (Chang et al. 2019, FIDO).

    p = up(sigmoid(theta)),   z = sigmoid((log p/(1-p) + log u/(1-u)) / T),   u uniform on (0,1)

The optimization samples z, a concrete relaxation of Bernoulli(p) through which a gradient flows (Maddison, Mnih & Teh 2017).
The mask that is evaluated, shown and regularized is p, the mean of z.
"""

from torch import Tensor

from mpx.masks.base import MaskContext
from mpx.masks.grid import Grid
from mpx.randomness import RowRandom

MARGIN = 1e-6  # distance of a probability from 0 and 1 before its logarithm


class Bernoulli(Grid):
    """The parameter holds the log-odds theta of keeping, one per cell, unconstrained.

    temperature: T. grain: "pixel" samples each pixel, with the upsampled probabilities, as the authors' code; "cell" samples
    each cell and upsamples the result. init: probability of keeping, above 0 and below 1.
    """

    is_random = True

    def __init__(
        self,
        context: MaskContext,
        mask_size: int | list[int] | None = 56,
        temperature: float = 0.1,
        grain: str = "pixel",
        init: float = 0.5,
    ):
        super().__init__(context, mask_size)
        if not temperature > 0:
            raise ValueError(f"mask.temperature={temperature} must be above 0")
        if grain not in ("pixel", "cell"):
            raise ValueError(f"mask.grain={grain!r} must be 'pixel' or 'cell'")
        if not isinstance(init, (int, float)) or not 0 < init < 1:
            raise ValueError(f"mask.init={init!r} must be a probability, above 0 and below 1")
        self.temperature = temperature
        self.grain = grain
        self.init = init

    def forward(self, parameter: Tensor) -> Tensor:
        return super().forward(parameter.sigmoid())

    def cells(self, parameter: Tensor) -> Tensor:
        return parameter.sigmoid()

    def sample(self, parameter: Tensor, rng: RowRandom) -> list[Tensor]:
        if self.grain == "pixel":
            return [self._relaxed_sample(self(parameter).logit(MARGIN), rng)]
        return [super().forward(self._relaxed_sample(parameter, rng))]

    def _relaxed_sample(self, log_odds: Tensor, rng: RowRandom) -> Tensor:
        return ((log_odds + rng.uniform(*log_odds.shape[1:]).logit(MARGIN)) / self.temperature).sigmoid()

    def initial(self, rng: RowRandom) -> Tensor:
        return super().initial(rng).logit()

    def project_(self, parameter: Tensor) -> None:
        """Leave the parameter as it is."""
