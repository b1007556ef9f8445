"""Drops, crossed perturbations, representativeness and minimality, against their formulas by hand."""

import math

import pytest
import torch
from scene import classifier, context, perturbations, photos, random_maps, square

from mpx.metrics.average_drop import average_drop
from mpx.metrics.cross_perturbation import cross_perturbation
from mpx.metrics.normalised_drop import normalised_drop
from mpx.metrics.representativeness import representativeness
from mpx.metrics.smallest_box import minimality, saliency_metric
from mpx.perturbations.blur import gaussian_blur


def p(images):
    return classifier()(images).softmax(1)[:, 1]


def test_normalised_drop_is_footnote_4():
    images, maps, blur = photos(), random_maps(), perturbations()["blur"]
    blank = blur(images)
    expected = (p(images) - p(maps * blank + (1 - maps) * images)) / (p(images) - p(blank))
    result = normalised_drop(maps, context(perturbations=perturbations()))
    assert torch.allclose(result, expected, atol=1e-5)
    preserved = normalised_drop(maps, context(perturbations=perturbations(), game="preservation"))
    assert torch.equal(preserved, result)  # the evidence is perturbed, whatever the game
    known = torch.tensor([0.25, 0.5])
    stored = normalised_drop(maps, context(perturbations=perturbations(), value_normalised=known))
    assert stored.tolist() == pytest.approx([0.75, 0.5])


def test_everything_drops_all_and_nothing_drops_nothing():
    for value in (0.0, 1.0):
        maps = torch.full((2, 1, 32, 32), value)
        result = normalised_drop(maps, context(perturbations=perturbations()))
        assert result.tolist() == pytest.approx([value, value], abs=1e-6)


def test_no_score_to_lose_is_no_value():
    rows = context(1, images=torch.full((1, 3, 32, 32), 0.5), perturbations={"blur": perturbations()["blur"]})
    assert normalised_drop(square(), rows).isnan().all()
    assert minimality(square(), rows, sigma=3.0)[""].isnan().all()
    assert representativeness(square(), rows, sigma=3.0)[""].isnan().all()


def test_a_mask_that_works_under_its_own_perturbation_only_is_flagged():
    """A network whose logits tell how bright the square is, and a mask that perturbs it by 0.6."""

    def model(x):
        left = x[:, :, 8:16, 16:24].mean((1, 2, 3))
        return torch.stack([20 - 40 * left, torch.zeros_like(left)], 1).flip(1) * torch.tensor([1.0, -1.0])

    def does(**others):
        perturbations = {"own": torch.zeros_like, **others}
        images = torch.ones(1, 3, 32, 32)
        return cross_perturbation(
            square(0.6), context(1, classifier=model, images=images, perturbations=perturbations)
        )

    own = 1 - torch.tensor(4.0).sigmoid().item()  # 0.4 of the square is left
    faint = does(faint=lambda x: x - 0.75)
    assert faint["own"].item() == pytest.approx(1 - own, abs=1e-3) and faint["faint"] < 0.5
    assert faint["only_own"].item() == 1 and faint[""] == faint["faint"]
    strong = does(faint=lambda x: x - 0.75, strong=lambda x: x - 0.95)
    assert strong["strong"] > 0.5 and strong["only_own"].item() == 0
    assert strong[""].item() == pytest.approx((strong["faint"] + strong["strong"]).item() / 2)
    none = does(nothing=lambda x: x)  # takes no score at all: nothing to compare with
    assert none["nothing"].isnan() and none[""].isnan() and none["only_own"].isnan()
    alone = does()
    assert alone["own"] == faint["own"] and alone[""].isnan() and alone["only_own"].isnan()


def test_cross_perturbation_of_good_masks_and_of_preservations():
    maps = square().expand(2, 1, 32, 32)
    good = cross_perturbation(maps, context(perturbations=perturbations()))
    assert set(good) == {"", "blur", "mean", "noise", "only_own"}
    assert good["only_own"].tolist() == [0, 0] and (good[""] > 0.9).all()
    kept = cross_perturbation(maps, context(perturbations=perturbations(), game="preservation"))
    assert torch.allclose(kept["blur"], torch.ones(2), atol=1e-3)  # with the square alone the score is all there


def test_average_drop_by_hand():
    images, maps = photos(), random_maps()
    y, kept = p(images), p(maps * images + (1 - maps) * 0.5)
    result = average_drop(maps, context())
    assert torch.allclose(result[""], ((y - kept) / y).clamp(min=0), atol=1e-6)
    assert torch.equal(result["increase"], (kept > y).float())
    # where whatever is taken away helps
    y, kept = ((-classifier()(x) / 10).softmax(1)[:, 1] for x in (images, maps * images + (1 - maps) * 0.0))
    flip = average_drop(maps, context(classifier=lambda x: -classifier()(x) / 10), baseline=0.0)
    assert torch.allclose(flip["gain"], (kept - y) / (1 - y), atol=1e-5) and (flip["gain"] > 0.01).all()
    all_ = average_drop(torch.ones_like(maps), context())
    assert all(value.abs().max() == 0 for value in all_.values())  # the photo itself is no increase
    grey = torch.full((1, 3, 32, 32), 0.5)  # any pattern increases it

    def model(x):
        return torch.stack([x[:, 0, 0, 0] * 0, (x < 0.4).flatten(1).sum(1) * 1.0], 1)

    up = average_drop(square(0.5), context(1, classifier=model, images=grey), baseline=0.0)
    assert up["increase"].item() == 1 and up[""].item() == 0 and up["gain"].item() == pytest.approx(1.0)


def test_minimal_box_by_hand():
    maps = square(0.5)
    maps[..., 10:14, 18:22] = 1.0  # its core, not enough for 99 %
    result = minimality(maps, context(1), sigma=3.0)
    blank = gaussian_blur(photos(1), 3.0)
    p_0, p_b = p(photos(1)).item(), p(blank).item()
    boxes = [(0, 0, 32, 32), (16, 8, 24, 16), (18, 10, 22, 14)]
    for level in (80, 90, 95, 99):
        reaching = []
        for x0, y0, x1, y1 in boxes:
            picture = photos(1)
            picture[..., y0:y1, x0:x1] = blank[..., y0:y1, x0:x1]
            if (p(picture).item() - p_b) / (p_0 - p_b) <= 1 - level / 100 + 1e-6:
                reaching.append((x1 - x0) * (y1 - y0) / 32**2)
        assert result[str(level)].item() == pytest.approx(min(reaching)), level
    assert result[""] == result["90"]
    assert result["99"].item() == 64 / 1024  # the square


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_box_of_a_constant_map_is_the_image(value):
    maps = torch.full((1, 1, 32, 32), value)
    assert minimality(maps, context(1), sigma=3.0)[""].item() == 1
    assert saliency_metric(maps, context(1))["area"].item() == 1


def test_saliency_metric_by_hand():
    whole = saliency_metric(torch.ones(2, 1, 32, 32), context())
    assert torch.allclose(whole[""], -p(photos()).log(), atol=1e-5)  # log 1 - log p of the photo
    corner = torch.zeros(1, 1, 32, 32)
    corner[..., 0, 0] = 1.0
    result = saliency_metric(corner, context(1))
    single = photos(1)[..., :1, :1].expand(1, 3, 32, 32)
    assert result[""].item() == pytest.approx(math.log(0.05) - p(single).log().item(), abs=1e-5)
    assert result["area"].item() == pytest.approx(1 / 1024)


def test_representativeness_is_a_curve_from_the_photo():
    images = photos(1)
    result = representativeness(square(), context(1, perturbations=perturbations()), sigma=3.0)
    soft = gaussian_blur(1 - square(), 3.0)
    soft = (soft - soft.min()) / (soft.max() - soft.min())
    for name, perturb in perturbations().items():
        blank = perturb(images)
        p_0, p_b = p(images), p(blank)
        points = [(p(torch.where(soft < alpha, blank, images)) - p_b) / (p_0 - p_b) for alpha in (i / 20 for i in range(20))]
        assert result[f"{name}@0"].item() == pytest.approx(1)
        assert result[f"{name}@0.5"].item() == pytest.approx(points[10].item(), abs=1e-4)
        assert result[name].item() == pytest.approx(torch.stack(points).mean().item(), abs=1e-4)
    assert result[""].item() == pytest.approx(sum(result[name].item() for name in perturbations()) / 3)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_map_represents_nothing(value):
    maps = torch.full((1, 1, 32, 32), value)
    result = representativeness(maps, context(1, perturbations=perturbations()), sigma=3.0)
    assert result[""].item() == pytest.approx(1)
