"""Sufficient, necessary, complete and disjoint regions: planted ones are found, and each claim holds in a forward pass."""

import torch
from scene import SIDE, context, perturbations, random_maps

from mpx.metrics.base import as_metric
from mpx.metrics.deletion_insertion import saliency_ranks
from mpx.metrics.sets import sets

AREA = 64 / SIDE**2  # of a planted square


def squares() -> torch.Tensor:
    """(2,1,H,W): two squares that do not touch."""
    maps = torch.zeros(2, 1, SIDE, SIDE)
    maps[0, :, 4:12, 4:12] = 1
    maps[1, :, 20:28, 16:24] = 1
    return maps


def either(images: torch.Tensor) -> torch.Tensor:
    """Logits (N,2): class 1 where one of the two squares is white for more than half."""
    white = torch.stack([(images[:, :1] * one).sum((1, 2, 3)) / one.sum() for one in squares()])
    return torch.stack([torch.zeros(len(images)), 20 * (white.amax(0) - 0.5)], 1)


def two_squares(saliency: torch.Tensor, **options) -> dict[str, torch.Tensor]:
    images = torch.ones(len(saliency), 3, SIDE, SIDE)
    scene = context(len(saliency), classifier=either, images=images, perturbations={"black": torch.zeros_like})
    return sets(saliency, scene, levels=16, **options)


def test_planted_regions_are_found():
    """One square is sufficient, both are necessary; they are two disjoint explanations, in either order."""
    one, other = squares()
    found = two_squares(torch.stack([one + 0.5 * other, 0.5 * one + other]))
    assert found["sufficient"].tolist() == [AREA, AREA] and found["necessary"].tolist() == [2 * AREA, 2 * AREA]
    assert found[""].tolist() == [2 * AREA, 2 * AREA]
    assert found["disjoint"].tolist() == [2, 2] and found["disjoint@3"].isnan().all()
    assert two_squares(torch.stack([one + 0.5 * other]), max_disjoint=1)["disjoint"].tolist() == [1]


def test_what_is_claimed_holds_in_a_forward_pass_and_no_smaller_region_does():
    scene = context(2, perturbations=perturbations())
    saliency, levels, perturb = random_maps(2), 8, next(iter(perturbations().values()))
    found = sets(saliency, scene, sufficient_share=0.8, levels=levels)
    blurred, ranks = perturb(scene.images), saliency_ranks(saliency)
    ends = [scene.classifier(x).softmax(1)[:, 1] for x in (scene.images, blurred)]

    def normalised(area: torch.Tensor, keep: bool) -> torch.Tensor:
        region = ranks < (area * SIDE**2).round().view(-1, 1, 1, 1)
        p = scene.classifier(torch.where(region == keep, scene.images, blurred)).softmax(1)[:, 1]
        return (p - ends[1]) / (ends[0] - ends[1])

    kept, left = normalised(found[""], keep=True), normalised(found[""], keep=False)
    assert torch.allclose(kept, found["kept"], atol=1e-5) and torch.allclose(left, found["left"], atol=1e-5)
    assert (kept >= 0.8).all() and (left <= 0.2 + 1e-6).all()
    smaller = [(found[""] - k / levels).clamp(min=0) for k in range(1, levels)]
    for area in smaller:
        claim = (normalised(area, keep=True) >= 0.8) & (normalised(area, keep=False) <= 0.2) & (area > 0)
        assert not claim.any()


def test_nothing_to_lose_has_no_region():
    scene = context(2, perturbations={"none": lambda images: images})
    assert all(values.isnan().all() for values in as_metric(sets)(random_maps(2), scene).values())


