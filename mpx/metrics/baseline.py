"""Reference images, for metrics that remove pixels: each pixel is removed."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.metrics.base import MetricContext
from mpx.models.classifier import Classifier
from mpx.option_values import Allowed


def _is_baseline(kind: str | float) -> bool:
    return kind in ("mean", "photo", "blur") if isinstance(kind, str) else 0 <= kind <= 1


Baseline = Annotated[str | float, Allowed(_is_baseline, "mean, photo, blur or a number in [0,1]")]


def baseline(context: MetricContext, kind: Baseline, sigma: float = 5.0, kernel_size: int = 11) -> Tensor:
    """Return the context's images (B,C,H,W) with everything removed.

    kind: mean (the colour that normalisation turns into 0), photo (each image's mean colour), blur (a Gaussian of `sigma`
    and `kernel_size` px) or a number in [0,1].
    """
    images = context.images
    if kind == "mean":
        return mean_color(context).to(images).expand_as(images)
    if kind == "photo":
        return images.mean((2, 3), keepdim=True).expand_as(images)
    if kind == "blur":
        return _blurred(images, mean_color(context).to(images), sigma, kernel_size)
    assert isinstance(kind, (int, float))
    return torch.full_like(images, kind)


def mean_color(context: MetricContext) -> Tensor:
    """Return the colour (1,C,1,1) in [0,1] that the classifier's normalisation turns into 0."""
    classifier = context.classifier
    if not isinstance(classifier, Classifier):
        raise ValueError(
            "baseline=mean and baseline=blur use the colour that a Classifier normalises to 0, and "
            f"{type(classifier).__name__} has none: wrap it in mpx's Classifier, or set baseline=photo or a number in [0,1]"
        )
    return -classifier.shift / classifier.scale


def _blurred(images: Tensor, color: Tensor, sigma: float, kernel_size: int) -> Tensor:
    """Blur as RISE's code does: the Gaussian's tails are folded back into the kernel; beyond the edges lies `color`."""
    from scipy.ndimage import gaussian_filter1d  # slow to import

    dirac = torch.zeros(kernel_size, dtype=torch.float64)
    dirac[kernel_size // 2] = 1
    kernel = torch.from_numpy(gaussian_filter1d(dirac.numpy(), sigma)).to(images)
    x = (images - color).flatten(0, 1)[:, None]
    x = F.conv2d(F.conv2d(x, kernel.view(1, 1, 1, -1), padding="same"), kernel.view(1, 1, -1, 1), padding="same")
    return x.view_as(images) + color
