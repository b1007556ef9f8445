"""The mean of the kept pixels in the neighbourhood (Chang et al. 2019, "local")."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.perturbations.base import FixedPixelPerturbation, PerturbationContext


def local_mean(images: Tensor, context: PerturbationContext, window: int = 15) -> "LocalMean":
    """The mean of the kept pixels in a square of `window` pixels, or the image's mean where none is kept."""
    side = min(images.shape[-2:])
    if window % 2 == 0 or not 1 < window <= side:
        raise ValueError(f"window={window} must be odd, above 1 and at most the image's side ({side} px)")
    return LocalMean(images, window)


class LocalMean(FixedPixelPerturbation):
    """A pixel counts as kept where the mask is above 1/2. No gradient flows through the mean."""

    def __init__(self, images: Tensor, window: int):
        super().__init__(images, images.mean((2, 3), keepdim=True).expand_as(images))
        self.window = window

    def apply(self, sample: Tensor | None, mask: Tensor) -> Tensor:
        assert sample is not None
        images, is_kept = sample[:, 1], (mask > 0.5).to(sample)
        share, colors = self._window_mean(is_kept), self._window_mean(images * is_kept)
        reference = torch.where(share > 0, colors / share.clamp(min=1e-6), sample[:, 0])
        return torch.lerp(reference, images, mask)

    def _window_mean(self, x: Tensor) -> Tensor:
        """Return the mean over the window, zeros beyond the edges; rows and columns one after the other."""
        half = self.window // 2
        return F.avg_pool2d(F.avg_pool2d(x, (self.window, 1), 1, (half, 0)), (1, self.window), 1, (0, half))
