"""Class activation maps: a layer's channels A (B,C,h,w), weighted by the mean gradient w (B,C,1,1) of the target's logit.

    gradcam    relu(sum_c w_c A_c)                                                                 (Selvaraju et al. 2017)
    group_cam  sum over groups of channels of their map times the probability that it keeps        (Zhang, Rao & Yang 2021)

The default layer is the last on every path to the logits, before any pooling; in a transformer, the middle block.
"""

from typing import Annotated

import torch
from torch import Tensor

from mpx.explainers.base import ExplainerContext, split_rows
from mpx.explainers.layer_maps import choose_layer, upsample
from mpx.models.classifier import Classifier
from mpx.models.layers import Layer
from mpx.option_values import Allowed, Count, OddSize, Positive
from mpx.perturbations.blur import gaussian_blur
from mpx.tasks.base import repeat_rows

LESS_THAN_ALL = Allowed(lambda share: 0 <= share < 1, "at least 0 and below 1")


def gradcam(
    images: Tensor,
    classifier: Classifier,
    targets: Tensor,
    context: ExplainerContext,
    layer: str | int | None = None,
    max_batch: Count = 64,
) -> Tensor:
    """Return relu(sum_c w_c A_c), equations 1 and 2 of Selvaraju et al. 2017. layer: see `choose_layer`."""
    target_layer = choose_layer(images, classifier, layer)
    maps = [weighted_channels(target_layer, x, y).sum(1, keepdim=True) for x, y in split_rows(max_batch, images, targets)]
    return upsample(torch.cat(maps).relu(), images)


@torch.no_grad()
def group_cam(
    images: Tensor,
    classifier: Classifier,
    targets: Tensor,
    context: ExplainerContext,
    layer: str | int | None = None,
    groups: Count = 32,
    share: Annotated[float, LESS_THAN_ALL] = 0.7,
    sigma: Positive = 50.0,
    kernel_size: OddSize | None = 51,
    max_batch: Count = 64,
) -> Tensor:
    """Return the sum of the groups' maps, weighted by the probability that each keeps in a blurred image.

    groups: of neighbouring channels. share: of each map's cells, its lowest, that become 0. sigma, kernel_size: of the blur,
    in px; a group's map, scaled to [0,1], keeps its part of the image sharp. All as the authors' code.
    """
    target_layer = choose_layer(images, classifier, layer)
    blurred = gaussian_blur(images, sigma, kernel_size)
    maps = []
    for x, x_blurred, y in split_rows(max_batch, images, blurred, targets):
        group_maps = _group_maps(weighted_channels(target_layer, x, y), groups, share, x)
        maps.append(_weighted_by_gain(target_layer.classifier, group_maps, x, x_blurred, y, max_batch))
    return torch.cat(maps)


def _group_maps(channels: Tensor, groups: int, share: float, images: Tensor) -> Tensor:
    """Map weighted channels (B,C,h,w) to maps (groups,B,1,H,W) in [0,1]; a constant map becomes 0."""
    maps = torch.stack([part.sum(1, keepdim=True).relu() for part in channels.chunk(groups, 1)])  # (groups,B,1,h,w)
    cut = maps.flatten(2).quantile(share, 2)[..., None, None, None]
    maps = upsample(torch.where(maps > cut, maps, 0.0).flatten(0, 1), images).unflatten(0, maps.shape[:2])
    low, high = maps.amin((2, 3, 4), keepdim=True), maps.amax((2, 3, 4), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 0.0)


def _weighted_by_gain(
    classifier: Classifier, maps: Tensor, images: Tensor, blurred: Tensor, targets: Tensor, max_batch: int
) -> Tensor:
    """Sum maps (groups,B,1,H,W), weighted by the support that each adds to the blurred image: (B,1,H,W)."""

    def support(x: Tensor) -> Tensor:
        return classifier.task.support(classifier(x), repeat_rows(targets, len(x) // len(images))).view(-1, len(images))

    base, total = support(blurred), torch.zeros_like(maps[0])
    for part in maps.split(max(1, max_batch // len(images))):
        gain = support(torch.lerp(blurred, images, part).flatten(0, 1)) - base  # (groups of the part, B)
        total = total + (gain[..., None, None, None] * part).sum(0)
    return total.relu()


@torch.enable_grad()
def weighted_channels(layer: Layer, images: Tensor, targets: Tensor) -> Tensor:
    """Return the layer's channels times the mean gradient of the target's logit to each: w_c A_c (B,C,h,w)."""
    outputs: list[Tensor] = []

    def replace_output(features: Tensor) -> Tensor:
        outputs.append(features.detach().clone().requires_grad_())
        return outputs[0].clone()  # later layers may work in place

    with layer.patched(replace_output):
        logits = layer.classifier.task.logit(layer.classifier(images), targets)
    gradient = torch.autograd.grad(logits.sum(), outputs[0], materialize_grads=True)[0]
    return gradient.mean((2, 3), keepdim=True) * outputs[0].detach()
