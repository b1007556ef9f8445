"""Regions in the original and in the network's input: both agree on every pixel.

Random sizes with crops larger and smaller than the picture; the second route is the transform of the pixels themselves.
"""

import os
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from mpx.data.annotations import Annotation, Region, regions_digest
from mpx.data.preprocessing import Preprocess

KINDS = [(256, (224, 224)), (64, (64, 48)), (40, (61, 80)), (None, (61, 80)), (None, (30, 31)), (97, (33, 128))]
KINDS = [pytest.param(*kind, id=str(kind)) for kind in KINDS]


def draw(box, size):
    image = Image.new("1", size)
    image.paste(1, box)
    return image


def cases(number, low=20, high=160):
    rng = np.random.default_rng(number)
    for _ in range(number):
        size = tuple(rng.integers(low, high, 2).tolist())
        x, y = (sorted(rng.choice(side + 1, 2, replace=False).tolist()) for side in size)
        yield rng, size, (x[0], y[0], x[1], y[1])


@pytest.mark.parametrize("resize, crop", KINDS)
def test_points_map_back_to_where_they_came_from(resize, crop):
    preprocess = Preprocess(crop, resize)
    for rng, size, _ in cases(200, high=2000):
        point = tuple(rng.uniform(-9, side + 9) for side in size)
        seen = preprocess.point(point, size)
        assert np.allclose(preprocess.to_original(seen, size), point, atol=1e-9)
        scale = [full / side for full, side in zip(preprocess._resized(size), size)]
        # by way of whole pixels: at most half a pixel off, of whichever picture has been rounded to
        nearest = Annotation(Region(), size, preprocess).to_original(*(np.floor(v) + 0.5 for v in seen))
        assert all(abs(a - b) <= 0.5 / s + 1e-9 for a, b, s in zip(nearest, point, scale))
        pixel = tuple(np.floor(v) + 0.5 for v in point)
        assert all(abs(a - b) <= 0.5 * s + 1e-9 for a, b, s in zip(preprocess.point(pixel, size), seen, scale))


@pytest.mark.parametrize("resize, crop", KINDS)
def test_points_follow_pixels(resize, crop):
    """A ramp of brightness gives every pixel of the crop its position in the original."""
    preprocess = Preprocess(crop, resize, "bilinear")
    for _, size, _ in cases(8, 60, 100):
        for axis in range(2):
            ramp = np.arange(size[axis], dtype=np.uint8) * 2
            seen = preprocess(Image.fromarray(np.broadcast_to(ramp if axis == 0 else ramp[:, None], size[::-1]).copy()))
            for i, j in np.random.default_rng(0).integers(0, crop, (50, 2)).tolist():
                point = preprocess.to_original((j + 0.5, i + 0.5), size)
                if all(3 < p < side - 3 for p, side in zip(point, size)):  # where no edge bends the ramp
                    assert abs(seen[0, i, j].item() * 255 / 2 + 0.5 - point[axis]) < 0.5


@pytest.mark.parametrize("resize, crop", KINDS)
def test_a_drawn_box_equals_the_box(resize, crop):
    preprocess = Preprocess(crop, resize)
    for _, size, box in cases(100):
        region, drawn = Region((box,)), Region(draw=partial(draw, box, size))
        place, other = (Annotation(r, size, preprocess) for r in (region, drawn))
        assert torch.equal(place.original_mask(), other.original_mask()) and place.original_mask().sum() == (
            box[2] - box[0]
        ) * (box[3] - box[1])
        assert torch.equal(place.mask(), other.mask())
        assert torch.equal(place.boxes(), other.boxes())
        for x0, y0, x1, y1 in place.boxes():  # within half a pixel
            rows, columns = place.mask().any(1).nonzero().flatten(), place.mask().any(0).nonzero().flatten()
            if len(rows):
                edges = (columns[0] - x0, rows[0] - y0, columns[-1] + 1 - x1, rows[-1] + 1 - y1)
                assert max(map(abs, edges)) <= 0.5 + 1e-4
            else:
                assert x1 - x0 < 1 or y1 - y0 < 1


@pytest.mark.parametrize("resize, crop", KINDS)
def test_masks_are_transformed_like_images(resize, crop):
    preprocess = Preprocess(crop, resize, "nearest")
    for rng, size, _ in cases(50):
        spots = Image.fromarray(rng.random(size[::-1]) < 0.3)
        assert torch.equal(preprocess.mask(spots), preprocess(spots.convert("RGB"))[0] > 0.5)


def test_several_boxes_and_none():
    place = Annotation(Region(((0, 0, 2, 3), (1, 1, 4, 2), (8, 8, 9, 9))), (10, 10), Preprocess((6, 6)))  # 2 off each side
    assert place.original_mask().sum() == 6 + 3 - 1 + 1
    assert place.mask().sum() == 0 and place.boxes().shape == (0, 4)
    place = Annotation(Region(((1, 1, 4, 4), (3, 3, 5, 5))), (10, 10), Preprocess((6, 6)))
    assert place.boxes().tolist() == [[0, 0, 2, 2], [1, 1, 3, 3]] and place.mask().sum() == 7
    empty = Annotation(Region(), (10, 10), Preprocess((6, 6)))
    assert not empty.mask().any() and not empty.original_mask().any() and empty.boxes().shape == (0, 4)
    nothing = Annotation(Region(draw=partial(Image.new, "1", (10, 10))), (10, 10), Preprocess((6, 6)))
    assert not nothing.mask().any() and nothing.boxes().shape == (0, 4)


def test_regions_stay_out_of_the_padding():
    place = Annotation(Region(((-5, 0, 99, 4),)), (10, 10), Preprocess((12, 14)))
    assert place.mask().sum() == place.original_mask().sum() == 40


def test_points_outside_the_crop_are_left_out():
    place = Annotation(Region(points={"eye": (5.5, 5.5), "tail": (0.5, 5.5)}), (10, 10), Preprocess((6, 6)))
    assert place.points() == {"eye": (3.5, 3.5)}


def test_a_digest_covers_boxes_points_and_drawn_files(tmp_path):
    def regions(x=1, point=2, length=9):
        def fresh(path):  # elsewhere in memory each time, as in another process
            raise AssertionError

        (tmp_path / "drawing").write_bytes(b"1" * length)
        os.utime(tmp_path / "drawing", (0, 0))
        return {"cat": Region(((x, 2, 3, 4),), partial(fresh, tmp_path / "drawing"), {"eye": (point, 2)})}

    one, other = regions(), regions()
    assert regions_digest(one) == regions_digest(other) and one["cat"].draw.func is not other["cat"].draw.func
    assert len({regions_digest(one), *(regions_digest(regions(**{name: 0})) for name in ("x", "point", "length"))}) == 4


def test_a_drawing_of_another_size_is_refused():
    with pytest.raises(ValueError, match="10x10 pixels does not fit one of 10x12"):
        Annotation(Region(draw=partial(Image.new, "1", (10, 10))), (10, 12), Preprocess((6, 6))).mask()
