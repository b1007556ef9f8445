"""Weak localisation and MaxBoxAccV2 by brute force, and against pycocotools and scikit-image."""

from functools import partial

import numpy as np
import pytest
import torch
from scene import BOX, SIDE, annotation, columns, context, random_maps, square, summary

from mpx.metrics.base import as_metric
from mpx.metrics.boxes import THRESHOLD_GRIDS, best_iou, component_boxes, scaled_to_unit, thresholds, tight_boxes
from mpx.metrics.localisation import localisation, localisation_error
from mpx.metrics.max_box_acc_v2 import max_box_acc_v2
from mpx.metrics.summary import SummaryContext
from mpx.perturbations.blur import gaussian_blur


def around(pixels):
    """Of (H,W) bool, in loops; the whole picture where there is none."""
    result = [(x, y) for y in range(pixels.shape[0]) for x in range(pixels.shape[1]) if pixels[y, x]]
    if not result:
        return [0, 0, pixels.shape[1], pixels.shape[0]]
    xs, ys = zip(*result)
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def left(map, rule, alpha):
    """(H,W) bool, each rule written out."""
    map = map.double()
    if rule == "value":
        return map >= map.min() + alpha * (map.max() - map.min())
    if rule == "mean":
        return map >= alpha * map.mean()
    total, least = 0.0, None
    for value in sorted(map.flatten().tolist(), reverse=True):
        total, least = total + value, value
        if total >= alpha * map.sum().item() * (1 - 1e-12):
            break
    return map >= least


@pytest.mark.parametrize("kind", ["random", "peaked", "ties", "zeros", "constant", "one"])
def test_boxes_are_what_loops_find(kind):
    one = torch.zeros(1, 1, SIDE, SIDE)
    one[..., 20, 3] = 1
    maps = {
        **{"random": random_maps(1), "peaked": random_maps(1) ** 30, "ties": (random_maps(1) * 3).round() / 3},
        **{"zeros": one * 0, "constant": one * 0 + 0.3, "one": one},
    }[kind]
    boxes = iter(tight_boxes(maps, thresholds(maps))[0].tolist())
    for rule, grid in THRESHOLD_GRIDS.items():
        for alpha in grid:
            box = next(boxes)
            if kind == "constant" and rule == "mean" and alpha == 1:
                continue  # a sum's rounding decides
            assert box == around(left(maps[0, 0], rule, alpha)), (rule, alpha)


def test_overlap_is_pycocotools():
    mask = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(0)
    corner, size = random.integers(0, 16, (2, 9, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + size + 1], 1)).float()
    where = annotation(*(tuple(b) for b in boxes[6:].tolist()))
    xywh = np.concatenate([corner, size + 1], 1).astype(float)
    theirs = mask.iou(xywh[:6], xywh[6:], [0] * 3).max(1)
    assert np.allclose(best_iou(boxes[None, :6], [where])[0].numpy(), theirs, atol=1e-6)


def test_the_threshold_is_tuned_on_images_that_do_not_count():
    """One fold wants a low threshold and the other a high one: tuned on the fold itself, the error would be 0."""
    halo = (square() + 0.2 * gaussian_blur(square(), 4.0).gt(0.01)).clamp(0, 1)
    wide = around(halo[0, 0] > 0)
    maps = torch.cat([halo, halo] * 3)
    where = [annotation(tuple(wide)), annotation(BOX)] * 3
    result = summary(localisation, maps, context(6, annotations=where))["parts"]["value"]
    assert result["value"] == 1 and result["n"] == 6 and min(result["thresholds"]) <= 0.2 < max(result["thresholds"])
    equal = summary(localisation, torch.cat([halo] * 4), context(4, annotations=[annotation(BOX)] * 4))
    assert equal["parts"]["value"]["value"] == 0


@pytest.mark.parametrize("folds", [2, 3, 8])
def test_each_image_is_scored_at_the_threshold_of_the_other_folds(folds):
    """Two rows of each image, as two areas or classes give them. Beside a plain loop over images."""
    iou = columns(localisation, random_maps(16), context(16, annotations=[annotation()] * 16))
    image = np.repeat(np.arange(8), 2)
    result = localisation_error(iou, SummaryContext(np.zeros(16, int), image), "mean", folds)["mean"].values
    wrong = np.stack([values < 0.5 for name, values in iou.items() if name.startswith("mean@")])
    for row in range(16):
        others = image % folds != image[row] % folds
        assert result[row] == wrong[wrong[:, others].mean(1).argmin(), row]


def test_rows_without_a_box_neither_tune_nor_count():
    outside = annotation((0, 0, 20, 20), size=(96, 32))  # left of the crop
    rows = context(4, annotations=[annotation(), None, outside, annotation()])
    assert max_box_acc_v2(square(), context(1, annotations=[outside]))["@0.5"].isnan().all()
    result = summary(localisation, square().expand(4, -1, -1, -1), rows)
    assert result["n"] == 2 and result["value"] == 0
    single = summary(localisation, square(), context(1, annotations=[annotation()]))
    assert single["n"] == 0 and single["value"] is None  # one image cannot both tune and count


@pytest.mark.parametrize(
    "wrong, match",
    [({"rule": "top"}, "rule=top must be one of value, energy"), ({"folds": 1}, "folds=1 must be at least 2")],
)
def test_wrong_options_are_one_sentence(wrong, match):
    with pytest.raises(ValueError, match=match):
        as_metric(partial(localisation, **wrong))


def test_components_are_scikit_images():
    measure = pytest.importorskip("skimage.measure")
    for seed in range(3):
        pixels = random_maps(1, 32, seed)[0, 0].numpy() > 0.8
        theirs = [p.bbox for p in measure.regionprops(measure.label(pixels, connectivity=2))]
        assert {tuple(b) for b in component_boxes(pixels).int().tolist()} == {(x0, y0, x1, y1) for y0, x0, y1, x1 in theirs}
    assert component_boxes(np.zeros((4, 4), bool)).tolist() == [[0, 0, 0, 0]]


def test_max_box_acc_by_hand():
    two = square() + 0.5 * square().flip(3)  # the second object, fainter
    maps = torch.cat([two, square(), 1 - square()])
    result = summary(max_box_acc_v2, maps, context(3, annotations=[annotation()] * 3))
    assert result["parts"]["50"]["value"] == pytest.approx(2 / 3) and result["value"] == pytest.approx(2 / 3)
    wider = summary(max_box_acc_v2, square(), context(1, annotations=[annotation((16, 8, 24, 19))]))  # IoU 8/11
    assert [wider["parts"][part]["value"] for part in ("30", "50", "70")] == [1, 1, 1]
    beside = (square() + 0.5 * square().roll(8, 3)).clamp(0, 1)
    steps = max_box_acc_v2(beside, context(1, annotations=[annotation()]), levels=4)
    assert steps["@0.25"].item() == 0.5 and steps["@0.5"].item() == 1  # a half is not above a half
    assert scaled_to_unit(torch.full((1, 1, 4, 4), 0.7)).sum() == 0
    assert summary(max_box_acc_v2, square(), context(1, annotations=[None]))["value"] is None
