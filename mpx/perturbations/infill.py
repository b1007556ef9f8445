"""Perturbations (contract: perturbations.py) that are drawn at random, or that look at what is kept."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.perturbations.blur import PixelPerturbation, blur_gaussian


def random_color(x: Tensor, rng, sigma: float = 0.2):
    """At each evaluation one colour with Gaussian noise of `sigma`, clipped to [0,1] (Chang et al. 2019, "random")."""

    def draw(rng) -> Tensor:
        return (rng.uniform(x.shape[1], 1, 1) + sigma * rng.normal(*x.shape[1:])).clamp(0, 1)

    return draw


def mix(x: Tensor, rng, sigma: float = 11.0, blurred: float = 0.5, spread: float = 0.33, noise: float = 0.055):
    """At each evaluation the blurred photo or a random colour with noise (Dabkowski & Gal 2017).

    sigma: px, of the blur; blurred: its probability; spread: colours are uniform within spread/2 of mid-grey; noise: its
    standard deviation, in units of [0,1].
    """
    if not 0 <= blurred <= 1:
        raise ValueError(f"perturbation.blurred={blurred} is a probability: it must be from 0 to 1")
    blur = blur_gaussian(x, sigma)

    def draw(rng) -> Tensor:
        which = rng.uniform(1, 1, 1) < blurred
        color = 0.5 + spread * (rng.uniform(x.shape[1], 1, 1) - 0.5) + noise * rng.normal(*x.shape[1:])
        return torch.where(which, blur, color.clamp(0, 1))

    return draw


class LocalMean(PixelPerturbation):
    """The mean of what is kept in a square of `window` pixels, or the photo's where nothing is (Chang et al. 2019, "local").

    A pixel counts as kept where the mask is above 1/2. No gradient flows through what is filled in.
    """

    per_row = PixelPerturbation.per_row

    def __init__(self, x: Tensor, window: int = 15):
        if window % 2 == 0 or not 1 < window <= min(x.shape[-2:]):
            raise ValueError(f"window={window} must be odd, above 1 and at most the image's side ({min(x.shape[-2:])} px)")
        super().__init__(x, x.mean((2, 3), keepdim=True).expand_as(x))
        self.window = window

    def show(self, levels: Tensor, mask: Tensor) -> tuple[Tensor, tuple]:
        photo, kept = levels[:, 1], (mask > 0.5).to(levels)
        share, colors = self._mean(kept), self._mean(photo * kept)
        fill = torch.where(share > 0, colors / share.clamp(min=1e-6), levels[:, 0])
        return torch.lerp(fill, photo, mask), ()

    def _mean(self, x: Tensor) -> Tensor:
        """Over the window, zeros beyond the edges; rows and columns one after the other."""
        half = self.window // 2
        return F.avg_pool2d(F.avg_pool2d(x, (self.window, 1), 1, (half, 0)), (1, self.window), 1, (0, half))
