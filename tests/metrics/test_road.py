"""ROAD against grad-cam's imputation and score, and where the answer is known."""

from functools import partial

import pytest
import torch
from scene import context, photos, random_maps, square

from mpx.metrics.base import as_metric
from mpx.metrics.road import impute, road


def test_a_ramp_is_filled_in_exactly():
    """The mean of a linear function's neighbours is its value."""
    ramp = (torch.arange(16.0) / 16).expand(3, 16, 16).contiguous()
    removed = torch.zeros(16, 16, dtype=torch.bool)
    removed[4:10, 5:12] = True
    assert torch.allclose(impute(ramp, removed, torch.zeros(3, 16, 16)), ramp, atol=1e-5)


def test_only_removed_pixels_change():
    image, removed = photos(1)[0], random_maps(1)[0, 0] < 0.4
    plain, noisy = impute(image, removed, torch.zeros_like(image)), impute(image, removed, torch.full_like(image, 0.25))
    assert torch.equal(plain[:, ~removed], image[:, ~removed])
    assert torch.allclose(noisy - plain, 0.25 * removed.float().expand(3, -1, -1), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_imputation_is_grad_cams(share):
    theirs = pytest.importorskip("pytorch_grad_cam.metrics.road").NoisyLinearImputer(noise=0.0)
    image, removed = photos(1)[0], random_maps(1)[0, 0] < share
    removed[0, :5] = True  # at an edge
    expected = theirs(image, (~removed).float())
    assert torch.allclose(impute(image, removed, torch.zeros_like(image)), expected, atol=1e-5)


def tied_maps() -> torch.Tensor:
    """(1,1,32,32) of 1 in a fifth of the pixels, 0.5 in three tenths and 0 in the rest."""
    ranks = random_maps(1).flatten().argsort().argsort()
    return ((ranks >= 512).float() / 2 + (ranks >= 1024 - 205).float() / 2).view(1, 1, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("maps, percentiles", [(random_maps(1), [20, 50, 80]), (tied_maps(), [50])])
def test_the_score_is_grad_cams(maps, percentiles):
    grad_cam = pytest.importorskip("pytorch_grad_cam.metrics.road")
    imputer, rows = grad_cam.NoisyLinearImputer(noise=0.0), context(1)
    means = []
    for kind in (grad_cam.RemoveMostRelevantFirst, grad_cam.RemoveLeastRelevantFirst):
        shown = torch.stack([kind(100 - p, imputer)(rows.images[0], maps[0, 0]) for p in percentiles])
        means.append(rows.classifier(shown).softmax(1)[:, 1].mean().item())
    result = road(maps, rows, percentiles=percentiles, noise=0.0)
    assert [result["morf"].item(), result["lerf"].item()] == pytest.approx(means, abs=2e-3)
    assert result[""].item() == pytest.approx((means[1] - means[0]) / 2, abs=2e-3)


@pytest.mark.slow
def test_tied_pixels_are_removed_one_by_one_and_by_grad_cam_together():
    grad_cam = pytest.importorskip("pytorch_grad_cam.metrics.road")
    maps, removed = tied_maps(), []
    for percentage in (20, 50):
        grad_cam.RemoveLeastRelevantFirst(100 - percentage, lambda image, kept: removed.append(kept == 0))(None, maps[0, 0])
    assert torch.equal(*removed) and removed[0].sum() == 512
    rows, first = context(1), removed[0].flatten().cumsum(0).view(32, 32) <= round(0.2 * 1024)
    shown = impute(rows.images[0], removed[0] & first, torch.zeros(3, 32, 32))[None]
    expected = rows.classifier(shown).softmax(1)[0, 1].item()
    assert road(maps, rows, percentiles=[20], noise=0.0)["lerf"].item() == pytest.approx(expected, abs=1e-6)


def test_rows_are_independent_and_constant_maps_score_zero():
    both = road(torch.cat([square(), 1 - square()]), context())[""]
    alone = road(1 - square(), context(1, images=photos()[1:]))[""]
    assert both[1].item() == pytest.approx(alone.item(), abs=1e-6)
    assert both[0] > 0 > both[1]
    assert road(torch.zeros(1, 1, 32, 32), context(1))[""].item() == 0  # both orders are the same


@pytest.mark.parametrize("percentiles", [[0, 50], [100], [], 50, ["a"], "50"])
def test_percentiles_out_of_range_are_refused(percentiles):
    with pytest.raises(ValueError, match="must be a list of numbers above 0 and below 100"):
        as_metric(partial(road, percentiles=percentiles))
