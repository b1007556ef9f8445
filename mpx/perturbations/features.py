"""Masks of features inside the network, where the picture stays as it is: perturbations that return a site of their own.

    bottleneck  z = m*R + (1-m)*eps, eps ~ N(mu_R, sigma_R^2), one mask value per feature (Schulz et al. 2020, section 3)
    channels    z = m*R, one mask value per channel (Fong, Patrick & Vedaldi 2019, section 5)

R is what a layer gives, as a map (B,C,h,w): mpx.models.layers.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.models.layers import Layer, cached
from mpx.regularizers import _reduce

LEAST = 0.01  # standard deviation of a feature; one that no image moves would make any other value infinitely telling


def bottleneck(x: Tensor, classifier, views: Callable, layer: str | int | None = None, min_map_fraction: float = 0.125):
    """Features become noise with the mean and standard deviation that each has over other pictures, per channel and place.

    views: (preprocess or None, (H,W)) -> batches (n,3,H,W) of these. layer, min_map_fraction: see `default_layer`.
    """
    at = Layer(classifier, layer, min_map_fraction, x)
    key = ("statistics", at.name, str(views), at.size)
    return Noise(x, at, *cached(classifier, key, lambda: _statistics(at, views, x)))


def channels(x: Tensor, classifier, targets: Tensor, layer: str | int | None = None, min_map_fraction: float = 0.0625):
    """Channels become 0. layer, min_map_fraction: see `default_layer`."""
    return Channels(x, Layer(classifier, layer, min_map_fraction, x), targets)


class Noise:
    """The site of `bottleneck`."""

    def __init__(self, photos: Tensor, layer: Layer, mean: Tensor, std: Tensor):
        self.photos, self.layer, self.mean, self.std = photos, layer, mean, std  # (C,h,w) each
        self.features = layer.features(photos)  # (B,C,h,w)
        self.shape = tuple(self.features.shape[1:])

    def draw(self, rng) -> Tensor:
        return self.mean + self.std * rng.normal(*self.shape)

    def show(self, noise: Tensor, mask: Tensor) -> tuple[Tensor, tuple]:
        return self.photos, (mask, noise)

    def inside(self, mask: Tensor, noise: Tensor):
        return self.layer.patched(lambda features: mask * features + (1 - mask) * noise)

    def information(self, mask: Tensor) -> Tensor:
        """(B,C,h,w) nats that pass: KL[N(m r, (1-m)^2) || N(0, 1)] with r = (R - mu_R) / sigma_R."""
        r = (self.features - self.mean) / self.std
        left = (1 - mask).clamp(min=torch.finfo(mask.dtype).eps)  # a mask of 1 would pass infinitely many
        return 0.5 * (left**2 + (mask * r) ** 2 - 1) - left.log()

    def to_pixels(self, evidence: Tensor) -> Tensor:
        """The information of each place, summed over channels, upsampled, as a share of its largest."""
        return _shown(self.information(evidence).sum(1, keepdim=True).clamp(min=0), self.photos)


def information(s: Tensor, full: Tensor, site, reduction: str = "mean") -> Tensor:
    """A regularizer: the nats that pass a bottleneck, summed or averaged over its features."""
    if not hasattr(site, "information"):
        raise ValueError("regularizer=information counts what passes a bottleneck: perturbation=bottleneck")
    return _reduce(site.information(full), reduction)


class Channels:
    """The site of `channels`."""

    def __init__(self, photos: Tensor, layer: Layer, targets: Tensor):
        self.photos, self.layer = photos, layer
        self.parts = layer.activation_times_gradient(photos, targets)  # (B,C,h,w)
        self.shape = (self.parts.shape[1], 1, 1)

    def draw(self, rng) -> None:
        return None

    def show(self, drawn: None, mask: Tensor) -> tuple[Tensor, tuple]:
        return self.photos, (mask,)

    def inside(self, mask: Tensor):
        return self.layer.patched(lambda features: mask * features)

    def to_pixels(self, evidence: Tensor) -> Tensor:
        """What the evidence's channels add to the class's logit at each place, sum_k e_k R_k dy/dR_k, where it is positive.

        Upsampled, as a share of its largest; of all channels it is HiResCAM (Draelos & Carin 2020).
        """
        return _shown((evidence * self.parts).sum(1, keepdim=True).clamp(min=0), self.photos)


def _shown(cells: Tensor, photos: Tensor) -> Tensor:
    """(B,1,h,w), 0 or larger -> (B,1,H,W) in [0,1]."""
    full = F.interpolate(cells, size=photos.shape[2:], mode="bilinear", align_corners=False)
    return full / full.amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(full.dtype).tiny)


@torch.no_grad()
def _statistics(layer: Layer, views: Callable, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,h,w) of the layer's features over other pictures of the size of x."""
    count, mean, square = 0, 0.0, 0.0
    for pictures in views(layer.classifier.preprocess, tuple(x.shape[2:])):
        features = layer.features(pictures.to(x)).double()
        count += len(features)
        total = mean + (features - mean).sum(0) / count  # Welford's update, by batches
        square = square + ((features - mean) * (features - total)).sum(0)
        mean = total
    if count < 2:
        raise ValueError(f"perturbation.views gives {count} picture: statistics want hundreds")
    return mean.to(x), (square / (count - 1)).sqrt().clamp(min=LEAST).to(x)
