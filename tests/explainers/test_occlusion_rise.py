"""Occlusion and RISE by hand."""

import pytest
import torch
from explainers.scene import IMAGES, Checkers, explain, frozen

from mpx.explainers.rise import shifted_masks
from mpx.randomness import RowRandom

pytest.importorskip("captum")


@pytest.mark.parametrize("color", [None, [0.1, 0.5, 0.9]])
def test_occlusion_by_hand(color):
    classifier = frozen(Checkers())
    classifier.shift.fill_(-0.4)
    classifier.scale.fill_(2.0)
    fill = torch.tensor(color or [0.2] * 3).view(3, 1, 1)
    total, count = torch.zeros(3, 1, 32, 32), torch.zeros(32, 32)
    before = classifier(IMAGES).softmax(1)[:, 1]
    for y in (0, 5, 10, 15, 20, 25):  # the last reach over the edge: 25 + 10 > 32
        for x in (0, 5, 10, 15, 20, 25):
            covered = IMAGES.clone()
            covered[:, :, y : y + 10, x : x + 10] = fill
            drop = before - classifier(covered).softmax(1)[:, 1]
            total[:, :, y : y + 10, x : x + 10] += drop[:, None, None, None]
            count[y : y + 10, x : x + 10] += 1
    ours = explain("occlusion", classifier, patch=10, stride=5, color=color)
    torch.testing.assert_close(ours, total / count, atol=1e-6, rtol=1e-4)


def test_rise_by_hand():
    """Each row's masks drawn, upsampled by scikit-image and weighted one by one."""
    from skimage.transform import resize

    classifier, photos = frozen(Checkers()), IMAGES[..., :27]  # 32x27 px, cells of 8x7
    rng = RowRandom([100, 101, 102]).at("rise")
    grids = (rng.uniform(50, 4, 4) < 0.3).float().numpy()
    ys, xs = rng.integers(0, 7, 50), rng.integers(0, 6, 50)
    expected = torch.zeros(3, 1, 32, 27)
    for b in range(3):
        for k in range(50):
            mask = resize(grids[b, k], (5 * 8, 5 * 7), order=1, mode="edge", anti_aliasing=False)
            mask = torch.from_numpy(mask[ys[b, k] :, xs[b, k] :][:32, :27]).float()
            p = classifier((photos[b] * mask)[None]).softmax(1)[0, 1]
            expected[b, 0] += p * mask / (50 * 0.3)
        expected[b] -= expected[b].min()
    ours = explain("rise", classifier, photos, masks=50, cells=4, keep=0.3)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_masks_of_rise_keep_each_pixel_as_often():
    rng = RowRandom([1]).at("rise")
    grids, shifts = (rng.uniform(4000, 7, 7) < 0.5).float()[0][:, None], rng.integers(0, 4, 4000, 2)[0]
    masks = shifted_masks(grids, [5, 5], shifts, (32, 32))
    assert masks.shape == (4000, 1, 32, 32) and masks.min() == 0 and masks.max() == 1
    torch.testing.assert_close(masks.mean(0), torch.full((1, 32, 32), 0.5), atol=0.04, rtol=0)
