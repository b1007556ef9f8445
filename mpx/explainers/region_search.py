"""Greedy searches over the regions of an image: the order in which regions are chosen is the saliency.

    smdl  consistency, collaboration, confidence and effectiveness of a set of regions      (Chen et al., ICLR 2024)
          with `pending`, chosen from both ends                                             (LiMA, Chen et al. 2025)
    vps   insertion + (1 - deletion)                                                        (Chen et al., CVPR 2025)

Regions are SLICO superpixels. A set of regions has a value, which is read from two pictures: the set alone, and the image
without it. The next region is the one with which the set's value is highest. Each row has its own search.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from mpx.explainers.base import ExplainerContext
from mpx.explainers.occlusion import one_colour
from mpx.masks.superpixels import slic_labels
from mpx.models.classifier import Classifier
from mpx.option_values import Allowed, Color, Count, NotNegative
from mpx.tasks.base import repeat_rows

SetValue = Callable[[Tensor], Tensor]  # sets (N,n) of n regions, True for members -> their values (N,)
Regions = Annotated[int, Allowed(lambda n: n >= 2, "at least 2")]
COMPACTNESS = 10.0  # where SLICO begins; it adapts each segment's own


def smdl(
    images: Tensor,
    classifier: Classifier,
    targets: Tensor,
    context: ExplainerContext,
    regions: Regions = 56,
    consistency: NotNegative = 20.0,
    collaboration: NotNegative = 5.0,
    confidence: NotNegative = 0.01,
    effectiveness: NotNegative = 0.0,
    pending: Count | None = None,
    color: Color | None = 0.0,
    max_batch: Count = 64,
) -> Tensor:
    """Return the order of regions by a value of four weighted parts, each of the task's output for a set's pictures.

    consistency: weight of the support by the set alone. collaboration: of 1 - support by the image without it.
    confidence: of `RegionPictures.certainty` of the set alone. effectiveness: of the distances between the set's regions,
    see `distances` and `nearest_distances`. pending, regions, color: see `region_order`.
    """

    def value_of(pictures: "RegionPictures") -> SetValue:
        between = distances(pictures) if effectiveness else None

        def value(sets: Tensor) -> Tensor:
            alone = pictures.outputs(sets)
            total = consistency * pictures.support(alone) + collaboration * (1 - pictures.support(pictures.outputs(~sets)))
            if confidence:
                total = total + confidence * pictures.certainty(alone)
            return total if between is None else total + effectiveness * nearest_distances(between, sets)

        return value

    return region_order(images, classifier, targets, value_of, regions, color, max_batch, pending)


def vps(
    images: Tensor,
    classifier: Classifier,
    targets: Tensor,
    context: ExplainerContext,
    regions: Regions = 100,
    insertion: NotNegative = 1.0,
    deletion: NotNegative = 1.0,
    color: Color | None = None,
    max_batch: Count = 64,
) -> Tensor:
    """Return the order of regions by insertion * support by the set alone + deletion * (1 - support without the set).

    insertion, deletion: weights. regions, color: see `region_order`.
    """

    def value_of(pictures: "RegionPictures") -> SetValue:
        def value(sets: Tensor) -> Tensor:
            alone, without = (pictures.support(pictures.outputs(kept)) for kept in (sets, ~sets))
            return insertion * alone + deletion * (1 - without)

        return value

    return region_order(images, classifier, targets, value_of, regions, color, max_batch)


@torch.no_grad()
def region_order(
    images: Tensor,
    classifier: Classifier,
    targets: Tensor,
    value_of: Callable[["RegionPictures"], SetValue],
    regions: int,
    color: Color | None,
    max_batch: int,
    pending: int | None = None,
) -> Tensor:
    """Return relevance (B,1,H,W): 1 in the region that is chosen first, 1/n in the last of n.

    regions: approximate number. color: in [0,1], of pixels that are not kept, see `one_colour`. pending: see `greedy_order`.
    """
    pixels = images.shape[2] * images.shape[3]
    if regions > pixels // 4:
        raise ValueError(f"explainer.regions={regions} must be from 2 to {pixels // 4}, a quarter of the pixels")
    fills, maps = one_colour(images, classifier, color), []
    for image, fill, target in zip(images, fills, targets):
        labels = slic_labels(image, regions, COMPACTNESS, denoise=0.0, adaptive=True).to(images.device)
        pictures = RegionPictures(image, fill, labels, classifier, target, max_batch)
        order = greedy_order(value_of(pictures), pictures.count, pending)
        ranks = images.new_empty(pictures.count)
        ranks[order] = torch.arange(pictures.count, 0, -1).to(ranks) / pictures.count
        maps.append(ranks[labels])
    return torch.stack(maps)[:, None]


class RegionPictures:
    """Pictures of one image in which some of its regions are kept and the others have the fill's pixels.

    image, fill: (C,H,W) in [0,1]; labels: (H,W) index of each pixel's region, from 0; target: () or (T,), prepared.
    """

    def __init__(
        self, image: Tensor, fill: Tensor, labels: Tensor, classifier: Classifier, target: Tensor, max_batch: int = 64
    ):
        self.image, self.fill, self.labels = image, fill, labels
        self.classifier, self.target, self.max_batch = classifier, target[None], max_batch
        self.count = int(labels.max()) + 1

    def outputs(self, sets: Tensor) -> Tensor:
        """Return the task's outputs (N,...) where the regions of sets (N,n) are kept."""
        parts = [
            self.classifier(torch.where(part.to(self.labels.device)[:, self.labels][:, None], self.image, self.fill))
            for part in sets.split(self.max_batch)
        ]
        return torch.cat(parts)

    def support(self, outputs: Tensor) -> Tensor:
        """Return the support of the target (N,) in outputs (N,...)."""
        return self.classifier.task.support(outputs, repeat_rows(self.target, len(outputs))).float()

    def certainty(self, outputs: Tensor) -> Tensor:
        """Return 1 - entropy of the exclusive answers, over the largest, (N,) of outputs (N,...); 1 for one answer."""
        logits, _ = self.classifier.task.logits(outputs, repeat_rows(self.target, len(outputs)))
        largest = torch.log(logits.new_tensor(max(2, logits.shape[1])))
        return 1 - torch.distributions.Categorical(logits=logits).entropy().float() / largest


def distances(pictures: RegionPictures) -> Tensor:
    """Return the angles (n,n) between the outputs for each region alone, from 0 (the same) to 1 (opposite)."""
    outputs = pictures.outputs(torch.eye(pictures.count, dtype=torch.bool)).flatten(1).float()
    directions = torch.nn.functional.normalize(outputs, dim=1)
    return (directions @ directions.T).clamp(-1, 1).arccos() / torch.pi


def nearest_distances(between: Tensor, sets: Tensor) -> Tensor:
    """Return the sum (N,) over the members of sets (N,n) of the distance to the nearest other member; 0 for one alone."""
    n = len(between)
    members = sets.to(between.device)
    others = members[:, None] & ~torch.eye(n, dtype=torch.bool, device=between.device)  # (N,n,n)
    nearest = torch.where(others, between, torch.inf).amin(2)
    return torch.where(members & nearest.isfinite(), nearest, 0.0).sum(1)


def greedy_order(value: SetValue, count: int, pending: int | None = None) -> list[int]:
    """Return all regions, first the one with which the set so far has the highest value.

    pending: in each round, this many regions, with which the set's value is lowest, may become the last of the order (LiMA's
    bidirectional search): the one of them whose joining the last ones so far gives these the lowest value. None: none, from
    the front only. With at most `pending` regions left, the search goes on from the front.
    """
    first: list[int] = []
    last: list[int] = []
    left = list(range(count))
    while left:
        values = value(joined(first, left, count)) if len(left) > 1 else torch.zeros(1)
        best = left[int(values.argmax())]
        if pending is not None and len(left) > pending:
            lowest = [left[i] for i in values.argsort(stable=True)[:pending].tolist() if left[i] != best]
            if lowest:
                last.append(lowest[int(value(joined(last, lowest, count)).argmin())])
                left.remove(last[-1])
        first.append(best)
        left.remove(best)
    return first + last[::-1]


def all_sets(count: int) -> Tensor:
    """Return every set of regions (2^count,count); the k-th has the regions of the bits of k."""
    return (torch.arange(2**count)[:, None] >> torch.arange(count) & 1).bool()


def joined(members: list[int], candidates: list[int], count: int) -> Tensor:
    """Return the sets (N,count) of these members and one of the N candidates each."""
    sets = torch.zeros(len(candidates), count, dtype=torch.bool)
    sets[:, members] = True
    sets[range(len(candidates)), candidates] = True
    return sets
