"""Perturbations of features inside the network; the image stays as it is.

    bottleneck  z = m*R + (1-m)*eps, eps ~ N(mu_R, sigma_R^2), one mask value per feature (Schulz et al. 2020, section 3)
    channels    z = m*R, one mask value per channel (Fong, Patrick & Vedaldi 2019, section 5)

R is the output of a layer as a map (B,C,h,w): mpx.models.layers.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.models.layers import Layer, cached
from mpx.perturbations.base import PerturbationContext, PreparedPerturbation
from mpx.randomness import RowRandom

MIN_STD = 0.01  # of a feature; any other value of a constant feature would carry infinite information


def bottleneck(
    images: Tensor,
    context: PerturbationContext,
    reference_images: Callable,
    layer: str | int | None = None,
    min_map_fraction: float = 0.125,
) -> "Bottleneck":
    """Features become noise with each feature's mean and standard deviation over other images.

    reference_images: function (preprocess or None, (C,H,W)) -> iterator of batches (n,C,H,W) of the other images.
    layer: dotted name of the module in the network; None chooses the last on every path to the logits whose map has at
    least `min_map_fraction` of the image's sides (mpx.models.layers.default_layer).
    """
    chosen = Layer(context.classifier, layer, min_map_fraction, images)
    key = ("statistics", chosen.name, str(reference_images), chosen.size)
    mean, std = cached(context.classifier, key, lambda: _statistics(chosen, reference_images, images))
    return Bottleneck(images, chosen, mean, std)


def channels(
    images: Tensor, context: PerturbationContext, layer: str | int | None = None, min_map_fraction: float = 0.0625
) -> "Channels":
    """Channels become 0. layer, min_map_fraction: as in `bottleneck`."""
    return Channels(images, Layer(context.classifier, layer, min_map_fraction, images), context.targets)


class Bottleneck(PreparedPerturbation):
    """Features R of a layer, their mean and standard deviation (C,h,w) over other images."""

    def __init__(self, images: Tensor, layer: Layer, mean: Tensor, std: Tensor):
        self.images = images
        self.layer = layer
        self.mean = mean
        self.std = std
        self.features = layer.features(images)  # (B,C,h,w)
        self.mask_shape = tuple(self.features.shape[1:])

    def sample(self, rng: RowRandom) -> Tensor:
        return self.mean + self.std * rng.normal(*self.mask_shape)

    def apply(self, sample: Tensor | None, mask: Tensor) -> Tensor:
        return self.images

    def network_inputs(self, sample: Tensor | None, mask: Tensor) -> tuple[Tensor, ...]:
        assert sample is not None
        return mask, sample

    def patched_network(self, *inputs: Tensor) -> AbstractContextManager:
        mask, noise = inputs
        return self.layer.patched(lambda features: mask * features + (1 - mask) * noise)

    def information(self, mask: Tensor) -> Tensor:
        """Return the nats (B,C,h,w) that pass: KL[N(m r, (1-m)^2) || N(0, 1)] with r = (R - mu_R) / sigma_R."""
        r = (self.features - self.mean) / self.std
        noise_scale = (1 - mask).clamp(min=torch.finfo(mask.dtype).eps)  # above 0, where infinitely many nats would pass
        return 0.5 * (noise_scale**2 + (mask * r) ** 2 - 1) - noise_scale.log()

    def to_image(self, evidence: Tensor) -> Tensor:
        """Return the information at each position, summed over channels and upsampled, as a share of its maximum."""
        return _upsampled(self.information(evidence).sum(1, keepdim=True).clamp(min=0), self.images)


class Channels(PreparedPerturbation):
    """Channels of a layer, and their contributions to the targets' logits."""

    def __init__(self, images: Tensor, layer: Layer, targets: Tensor):
        self.images = images
        self.layer = layer
        self.contributions = layer.activation_times_gradient(images, targets)  # (B,C,h,w)
        self.mask_shape = (self.contributions.shape[1], 1, 1)

    def apply(self, sample: Tensor | None, mask: Tensor) -> Tensor:
        return self.images

    def network_inputs(self, sample: Tensor | None, mask: Tensor) -> tuple[Tensor, ...]:
        return (mask,)

    def patched_network(self, *inputs: Tensor) -> AbstractContextManager:
        (mask,) = inputs
        return self.layer.patched(lambda features: mask * features)

    def to_image(self, evidence: Tensor) -> Tensor:
        """Return the contribution of the evidence's channels to the target's logit, sum_k e_k R_k dy/dR_k, where positive.

        Upsampled, as a share of its maximum. For all channels it is HiResCAM (Draelos & Carin 2020).
        """
        return _upsampled((evidence * self.contributions).sum(1, keepdim=True).clamp(min=0), self.images)


def _upsampled(cells: Tensor, images: Tensor) -> Tensor:
    """Map cells (B,1,h,w), 0 or larger, to (B,1,H,W) in [0,1], as a share of each row's maximum."""
    full = F.interpolate(cells, size=images.shape[2:], mode="bilinear", align_corners=False)
    return full / full.amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(full.dtype).tiny)


@torch.no_grad()
def _statistics(layer: Layer, reference_images: Callable, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (C,h,w) of the layer's features over other images of the same size."""
    count = 0
    mean = square = torch.zeros((), dtype=torch.float64)
    for batch in reference_images(layer.classifier.preprocess, tuple(images.shape[1:])):
        features = layer.features(batch.to(images)).double()
        count += len(features)
        new_mean = mean + (features - mean).sum(0) / count  # Welford's update, by batches
        square = square + ((features - mean) * (features - new_mean)).sum(0)
        mean = new_mean
    if count < 2:
        raise ValueError(f"perturbation.reference_images gives {count} image, but statistics need hundreds")
    return mean.to(images), (square / (count - 1)).sqrt().clamp(min=MIN_STD).to(images)
