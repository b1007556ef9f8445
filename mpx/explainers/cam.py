"""Maps of a layer's channels A (B,C,h,w), weighted by the mean gradient w (B,C,1,1) of the target's logit to them.

    gradcam    relu(sum_c w_c A_c)                                                   (Selvaraju et al. 2017, eq. 1 and 2)
    group_cam  sum over groups of channels of their map times what it keeps of p     (Zhang, Rao & Yang 2021)

The layer: the last that everything passes through and whose map is as fine as that of the last layer with weights, so
that it comes before any pooling; in a transformer, the middle block. mpx.models.layers says more.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.explainers import at_least
from mpx.models.layers import Layer, cached, map_shapes
from mpx.perturbations.blur import blur_gaussian


def gradcam(photos: Tensor, classifier, targets: Tensor, layer: str | int | None = None, pictures: int = 64) -> Tensor:
    at_least(1, pictures=pictures)
    where = find(photos, classifier, layer)
    maps = [weighted(where, x, of).sum(1, keepdim=True) for x, of in zip(photos.split(pictures), targets.split(pictures))]
    return upsample(torch.cat(maps).relu(), photos)


@torch.no_grad()
def group_cam(
    photos: Tensor,
    classifier,
    targets: Tensor,
    layer: str | int | None = None,
    groups: int = 32,
    share: float = 0.7,
    sigma: float = 50.0,
    kernel_size: int | None = 51,
    pictures: int = 64,
) -> Tensor:
    """groups: of neighbouring channels; share: of each map's cells, its lowest, that become 0; sigma, kernel_size: px, of
    the blurred photo, which a map, stretched to [0,1], keeps sharp. All as the authors' code."""
    at_least(1, groups=groups, pictures=pictures)
    if not 0 <= share < 1:
        raise ValueError(f"explainer.share={share} must be at least 0 and below 1")
    where, blurred = find(photos, classifier, layer), blur_gaussian(photos, sigma, kernel_size)
    found = [
        _groups(where, *rows, groups, share, pictures)
        for rows in zip(*(v.split(pictures) for v in (photos, blurred, targets)))
    ]
    return torch.cat(found)


def _groups(where: Layer, x: Tensor, blurred: Tensor, targets: Tensor, groups: int, share: float, pictures: int) -> Tensor:
    def probability(shown: Tensor) -> Tensor:
        return where.classifier(shown).softmax(1).gather(1, targets.repeat(len(shown) // len(x))[:, None]).view(-1, len(x))

    parts = weighted(where, x, targets).chunk(groups, 1)
    maps = torch.stack([part.sum(1, keepdim=True).relu() for part in parts])  # (groups,B,1,h,w)
    cut = maps.flatten(2).quantile(share, 2)[..., None, None, None]
    maps = upsample(torch.where(maps > cut, maps, 0.0).flatten(0, 1), x).unflatten(0, maps.shape[:2])
    least, most = maps.amin((2, 3, 4), keepdim=True), maps.amax((2, 3, 4), keepdim=True)
    maps = torch.where(most > least, (maps - least) / (most - least), 0.0)
    before, total = probability(blurred), 0.0
    for some in maps.split(max(1, pictures // len(x))):
        gain = probability(torch.lerp(blurred, x, some).flatten(0, 1)) - before  # (some,B)
        total = total + (gain[..., None, None, None] * some).sum(0)
    return total.relu()


@torch.enable_grad()
def weighted(where: Layer, x: Tensor, targets: Tensor) -> Tensor:
    """(B,C,h,w): w_c A_c."""
    kept = []

    def keep(features: Tensor) -> Tensor:
        kept.append(features.detach().clone().requires_grad_())
        return kept[0].clone()  # what follows may work in place

    with where.patched(keep):
        logits = where.classifier(x).gather(1, targets[:, None])
    slope = torch.autograd.grad(logits.sum(), kept[0], materialize_grads=True)[0]
    return slope.mean((2, 3), keepdim=True) * kept[0].detach()


def find(photos: Tensor, classifier, layer: str | int | None, min_map_fraction: float | None = None) -> Layer:
    """The layer named, or else the last that is fine enough: with sides of at least `min_map_fraction` of the photo's, by
    default as those of the last map that weights made."""
    if layer is None and min_map_fraction is None:
        key = ("last map", tuple(photos.shape[2:]))
        min_map_fraction = cached(classifier, key, lambda: _last(photos, classifier))
    return Layer(classifier, layer, 1.0 if min_map_fraction is None else min_map_fraction, photos, "explainer")


def _last(photos: Tensor, classifier) -> float:
    runs = map_shapes(classifier, photos)
    weights = {
        name for name, module in classifier.named_modules() if next(module.parameters(recurse=False), None) is not None
    }
    shapes = [shapes[-1][1] for name, shapes in runs.items() if name in weights and shapes[-1]]
    return min(n / m for n, m in zip(shapes[-1], photos.shape[2:])) if shapes else 1.0


def upsample(cells: Tensor, photos: Tensor) -> Tensor:
    return F.interpolate(cells, size=photos.shape[2:], mode="bilinear", align_corners=False)
