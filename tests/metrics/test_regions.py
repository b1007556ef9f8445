"""Pointing, mass, overlap and keypoints against TorchRay, Quantus, scikit-learn and by hand; degenerate maps and regions."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scene import BOX, SIDE, annotation, context, random_maps, square

from mpx.data.preprocessing import Preprocess
from mpx.metrics.base import as_metric
from mpx.metrics.iou import iou as iou_metric
from mpx.metrics.keypoints import keypoints as keypoints_metric
from mpx.metrics.mass import mass as mass_metric
from mpx.metrics.pointing import pointing as pointing_metric
from mpx.metrics.summary import SummaryContext

ONE = torch.zeros(1, 1, SIDE, SIDE)  # one pixel at x=3, y=20
ONE[..., 20, 3] = 1.0


def with_annotations(metric):
    """The metric as a function of maps and annotations."""
    return lambda maps, annotations, **options: metric(maps, context(len(maps), annotations=annotations), **options)


iou, keypoints, mass, pointing = map(
    with_annotations, (iou_metric, keypoints_metric, mass_metric, pointing_metric)
)
OUTSIDE = annotation((0, 0, 20, 20), size=(96, 32), preprocess=Preprocess((32, 32)))  # left of the crop
EMPTY = [None, OUTSIDE]


@pytest.mark.parametrize("metric", [pointing, mass, iou, keypoints])
def test_no_region_is_no_value(metric):
    result = metric(random_maps(3), [*EMPTY, annotation()])
    result = result if isinstance(result, dict) else {"": result}
    assert result[""].isnan().tolist() == [True, True, metric is keypoints]  # whose region has no points


def test_pointing_counts_pixels_of_the_original():
    twice = annotation((32, 16, 48, 32), size=(64, 64), preprocess=Preprocess((32, 32), resize=32))
    for x, y, hit in [
        (16, 8, 1),
        (9, 8, 1),
        (8, 8, 0),
        (30, 15, 1),
        (31, 15, 0),
        (30, 22, 0),
    ]:  # twice as far in the original
        maps = torch.zeros(1, 1, 32, 32)
        maps[..., y, x] = 1
        assert pointing(maps, [twice])[""].item() == hit, (x, y)
    near = torch.zeros(1, 1, 32, 32)
    near[..., 8, 9] = 1
    assert pointing(near, [twice], tolerance=12)[""].item() == 0


@pytest.mark.parametrize("drawn", [False, True])
def test_a_region_between_the_networks_pixels_is_pointed_at(drawn):
    """6 pixels wide where a pixel of the network is 8: nearest sampling shows none of it."""
    box, picture = (901, 1000, 907, 1006), Image.new("1", (2048, 2048))
    picture.paste(1, box)
    region = {"draw": lambda: picture} if drawn else {}
    where = annotation(box, size=picture.size, preprocess=Preprocess((224, 224), resize=256), **region)
    x, y = where.preprocess.point((904, 1003), picture.size)
    assert not where.mask().any()
    for far, hit in ((0, 1), (4, 0)):
        maps = torch.zeros(1, 1, 224, 224)
        maps[..., int(y), int(x) + far] = 1
        assert pointing(maps, [where])[""].item() == hit


def test_a_drawing_outside_of_the_picture_is_no_miss():
    picture = Image.new("1", (96, 32))
    picture.paste(1, (0, 0, 32, 32))  # up to the crop's first pixel
    where = [annotation((0, 0, 96, 32), size=(96, 32), preprocess=Preprocess((32, 32)), draw=lambda: picture)]
    assert pointing(ONE, where)[""].isnan().all()
    picture.putpixel((32, 20), 1)
    assert pointing(ONE, where)[""].item() == 1


def test_15_pixels_are_too_far():
    for x, hit in [(5, 0), (6, 1)]:
        maps = torch.zeros(1, 1, SIDE, SIDE)
        maps[..., 10, x] = 1
        assert pointing(maps, [annotation((20, 10, 21, 11))])[""].item() == hit


def test_ties_point_at_the_first_pixel():
    assert pointing(torch.ones(1, 1, 32, 32), [annotation((0, 0, 1, 1))], tolerance=1)[""].item() == 1
    assert pointing(torch.ones(1, 1, 32, 32), [annotation((1, 0, 2, 1))], tolerance=1)[""].item() == 0


def test_a_drawn_region_comes_before_its_boxes():
    def draw():
        picture = Image.new("1", (32, 32))
        picture.putpixel((3, 20), 1)
        return picture

    drawn = annotation((0, 0, 32, 32), draw=draw)
    assert mass(ONE, [drawn]).item() == 1 and iou(ONE, [drawn]).item() == 1
    assert pointing(ONE.flip(3), [drawn], tolerance=5)[""].item() == 0


@pytest.mark.slow
def test_pointing_is_torchray():
    theirs = pytest.importorskip("torchray.benchmark.pointing_game").PointingGame(3)
    hits, classes = [], torch.tensor([0, 1, 1, 0, 2, 2, 2, 1])
    random = np.random.default_rng(0)
    for seed, label in enumerate(classes.tolist()):
        map = random_maps(1, 64, seed)
        x, y = random.integers(0, 58, 2).tolist()
        where = annotation((x, y, x + 6, y + 6), size=(64, 64), preprocess=Preprocess((64, 64)))
        peak = map.argmax().item()
        theirs.aggregate(theirs.evaluate(where.original_mask(), (peak % 64, peak // 64)), label)
        hits.append(pointing(map, [where])[""].item())
    rows = SummaryContext(classes.numpy(), np.arange(8))
    result = as_metric(pointing_metric).summarise({"": np.array(hits)}, rows)
    assert 0 < result["value"] < 1 and result["n"] == 8
    assert result["value"] == pytest.approx(theirs.accuracy.item())


def test_difficult_is_of_difficult_regions_only():
    result = pointing(square().expand(3, -1, -1, -1), [annotation(), annotation(difficult=True), None])
    assert result[""][:2].tolist() == [1, 1] and result["difficult"].isnan().tolist() == [True, False, True]


@pytest.mark.slow
def test_mass_is_quantus():
    quantus = pytest.importorskip("quantus")
    maps, where = (
        random_maps(4),
        [annotation(), annotation((0, 0, 5, 9)), annotation((1, 1, 3, 4), (10, 10, 30, 30)), annotation((0, 0, 32, 32))],
    )
    theirs = quantus.RelevanceMassAccuracy(abs=False, normalise=False, disable_warnings=True)(
        model=None, x_batch=maps.numpy(), y_batch=np.zeros(4, int), a_batch=maps.numpy(),
        s_batch=torch.stack([p.mask()[None] for p in where]).numpy(),
    )  # fmt: skip
    assert np.allclose(mass(maps, where).numpy(), theirs, atol=1e-6)


def test_mass_of_degenerate_maps():
    share = 64 / 1024
    for constant in (0.0, 0.3):
        assert mass(torch.full((1, 1, 32, 32), constant), [annotation()]).item() == pytest.approx(share)
    assert mass(ONE, [annotation()]).item() == 0 and mass(ONE, [annotation((3, 20, 4, 21))]).item() == 1


@pytest.mark.slow
def test_iou_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    maps = random_maps(1)
    low, high = maps.min(), maps.max()
    result = (maps[0, 0] - low) / (high - low) >= 0.5
    theirs = metrics.jaccard_score(annotation().mask().flatten().numpy(), result.flatten().numpy())
    assert iou(maps, [annotation()]).item() == pytest.approx(theirs)


def test_iou_by_hand():
    assert iou(square(), [annotation()]).item() == 1 and iou(1 - square(), [annotation()]).item() == 0
    assert iou(torch.ones(1, 1, 32, 32), [annotation()]).item() == 64 / 1024  # a constant map finds all


def test_keypoints_are_means_of_windows():
    maps = random_maps(2)
    points = {"eye": (10.5, 7.5), "foot": (0.2, 31.9)}
    result = keypoints(maps, [annotation(points=points), annotation(points={"eye": (99.0, 7.0)})])
    assert result["eye"][0].item() == pytest.approx(maps[0, 0, 5:10, 8:13].mean().item())
    assert result["foot"][0].item() == pytest.approx(maps[0, 0, 29:, :3].mean().item())  # what is left of it at a corner
    assert result[""][0].item() == pytest.approx((result["eye"][0] + result["foot"][0]).item() / 2)
    assert math.isnan(result["eye"][1]) and math.isnan(result[""][1])  # not in the picture


def test_a_region_of_another_size_is_one_sentence():
    with pytest.raises(ValueError, match="does not fit a saliency"):
        mass(torch.ones(1, 1, 16, 16), [annotation(BOX)])
