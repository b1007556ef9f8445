"""The geometry: pixels against torchvision's transform, boxes against where the pixels went."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mpx.data.preprocessing import Preprocess

SIZES = [(500, 375), (375, 500), (301, 257), (256, 256), (90, 60), (641, 427)]  # (width, height)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize, crop", [(256, (224, 224)), (249, (224, 224)), (64, (64, 48)), (None, (61, 80))])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_equals_torchvision(size, resize, crop, interpolation):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    steps = [v2.Resize(resize, v2.InterpolationMode(interpolation), antialias=True)] if resize else []
    reference = v2.Compose([*steps, v2.CenterCrop(crop), v2.PILToTensor()])(image)  # 0..255
    x = Preprocess(crop, resize, interpolation)(image)
    assert x.shape == (3, *crop) and 0 <= x.min() and x.max() <= 1
    assert torch.equal(x, reference / 255)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize, crop", [(256, (224, 224)), (None, (61, 80)), (None, (400, 300))])
def test_a_map_of_the_crop_maps_to_the_originals_pixels(size, resize, crop):
    """Whose values are the crop's coordinates: a linear function is interpolated exactly, away from the edges."""
    preprocess = Preprocess(crop, resize, "bilinear")
    y, x = (torch.arange(side, dtype=torch.float64) + 0.5 for side in crop)
    for axis, coordinate in enumerate((x.expand(crop), y[:, None].expand(crop))):
        mapped = preprocess.map_to_original(coordinate, size)
        assert mapped.shape == size[::-1]
        for point in np.random.default_rng(0).integers(0, size, (20, 2)):
            where = preprocess.point(tuple(point + 0.5), size)
            inside = all(0 <= place <= side for place, side in zip(where, crop[::-1]))
            expected = min(max(where[axis], 0.5), crop[1 - axis] - 0.5) if inside else 0
            assert float(mapped[point[1], point[0]]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize, crop", [(256, (224, 224)), (64, (64, 48)), (None, (61, 80)), (None, (400, 300))])
@pytest.mark.parametrize("where", [(0.3, 0.35, 0.6, 0.7), (0.0, 0.1, 0.5, 0.55), (0.45, 0.4, 1.0, 1.0)])
def test_a_box_maps_to_its_pixels(size, resize, crop, where):
    box = tuple(int(f * side) for f, side in zip(where, size * 2))
    image = Image.new("RGB", size)
    image.paste("white", box)
    preprocess = Preprocess(crop, resize, "bilinear")
    seen = preprocess(image)[0] > 0.5  # (H,W)
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    result = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    mapped = preprocess.box(box, size)
    assert max(abs(float(a) - b) for a, b in zip(result, mapped)) <= 0.75, (result, mapped)


def test_a_box_outside_is_clipped():
    assert Preprocess((10, 10), None).box((-5, 0, 2, 100), (100, 100)) == (0, 0, 0, 10)


def test_grey_and_transparent_images_become_rgb():
    assert Preprocess((8, 8), 8)(Image.new("LA", (20, 10), (0, 0))).min() == 1


def test_refusals():
    with pytest.raises(ValueError, match="bicubic"):
        Preprocess((8, 8), 8, "cubic")
    with pytest.raises(ValueError, match="5000x2"):
        Preprocess((224, 224), 256)(Image.new("RGB", (5000, 2)))
