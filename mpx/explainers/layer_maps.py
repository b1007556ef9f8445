"""The layer that an explainer looks at, and its map at the size of the images."""

import torch.nn.functional as F
from torch import Tensor

from mpx.models.classifier import Classifier
from mpx.models.layers import Layer, cached, map_shapes


def choose_layer(
    images: Tensor, classifier: Classifier, layer: str | int | None, min_map_fraction: float | None = None
) -> Layer:
    """Return the named layer, or the last on every path to the logits whose map is large enough.

    min_map_fraction: smallest side of the map as a share of the image's; None takes that of the last layer with weights, so
    that the layer comes before any pooling. See mpx.models.layers.
    """
    if layer is None and min_map_fraction is None:
        key = ("last map", tuple(images.shape[2:]))
        min_map_fraction = cached(classifier, key, lambda: _last_map_fraction(images, classifier))
    return Layer(classifier, layer, 1.0 if min_map_fraction is None else min_map_fraction, images, "explainer")


def _last_map_fraction(images: Tensor, classifier: Classifier) -> float:
    """Return the smallest side of the map of the last layer with weights, as a share of the image's."""
    with_weights = {
        name for name, module in classifier.named_modules() if next(module.parameters(recurse=False), None) is not None
    }
    runs = map_shapes(classifier, images)
    shapes = [shape[1] for name, run in runs.items() if name in with_weights and (shape := run[-1])]
    return min(n / m for n, m in zip(shapes[-1], images.shape[2:])) if shapes else 1.0


def upsample(maps: Tensor, images: Tensor) -> Tensor:
    """Interpolate maps (B,C,h,w) bilinearly to the size of the images (B,C,H,W)."""
    return F.interpolate(maps, size=images.shape[2:], mode="bilinear", align_corners=False)
