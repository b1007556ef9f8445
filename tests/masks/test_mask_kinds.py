"""Laws of masks that are more than a grid: coins, ratios, contours, superpixels, patches."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from contexts import mask_context, regularizer_context
from planted import SquareNet, square_photo
from scipy import ndimage

from mpx import config, explain, scores
from mpx.learning.method import Method
from mpx.learning.objective import Objective
from mpx.masks.bernoulli import Bernoulli
from mpx.masks.contour import Contour
from mpx.masks.patches import Patches
from mpx.masks.ratio import Ratio
from mpx.masks.superpixels import Superpixels
from mpx.models.classifier import Classifier
from mpx.randomness import RowRandom
from mpx.regularizers import spectrum

NET = SquareNet().eval()
PHOTOS = torch.stack([square_photo(NET, seed) for seed in range(3)])
KINDS = ["bernoulli", "ratio", "contour", "superpixels", "patches"]
SIZE = (32, 40)
WIDE = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
CONTEXT = mask_context(SIZE, images=WIDE)


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_of_three_is_three_single_runs(name):
    options = dict(mask=config.option("mask", name, mask_size=8), steps=30, jitter=1, noise=0.02, samples=2, target=1)
    options["perturbation"] = partial(config.option("perturbation", "mix"), sigma=3.0)
    together = explain(NET, PHOTOS, **options)
    singles = torch.cat([explain(NET, photo, **options).parameter for photo in PHOTOS])
    torch.testing.assert_close(together.parameter, singles, atol=1e-5, rtol=1e-5)


def test_coins_fall_with_their_probability():
    for grain in ("pixel", "cell"):
        kind, rng = Bernoulli(mask_context((32, 32)), 32, grain=grain), RowRandom([1])
        chances = torch.linspace(0.05, 0.95, 32).expand(1, 1, 32, 32)
        draws = torch.cat([kind.sample(chances.logit(), rng.at(i))[0] for i in range(40)])
        kept = (draws > 0.5).float().mean((0, 1, 2))
        torch.testing.assert_close(kept, chances[0, 0, 0], atol=0.05, rtol=0)
        assert ((draws < 0.02) | (draws > 0.98)).float().mean() > 0.8
    cell = Bernoulli(mask_context((32, 32)), 4, grain="cell", temperature=0.01).sample(
        torch.zeros(1, 1, 4, 4), RowRandom([1])
    )[0]
    torch.testing.assert_close(cell[..., 4:-1:8, 4:-1:8].round(), cell[..., 3::8, 3::8].round())  # one coin for each cell


def test_random_masks_are_evaluated_by_a_draw():
    method = Method(config.option("perturbation", "black"), partial(Bernoulli, mask_size=8), scores.probability)
    problem = Objective(method, Classifier(NET), PHOTOS[:1], torch.tensor([1]), ["a"])
    parameter = torch.zeros(1, *problem.mask.shape)
    drawn = problem.evaluated_mask(parameter)
    assert (
        (problem.mask(parameter) == 0.5).all()
        and drawn.std() > 0.3
        and torch.equal(drawn, problem.evaluated_mask(parameter))
    )


def test_a_ratio_by_hand():
    kind = Ratio(mask_context((8, 8)), 8)
    parameter = torch.tensor([0.3, -0.6])[None, :, None, None].expand(1, 2, 8, 8)
    torch.testing.assert_close(kind(parameter), torch.full((1, 1, 8, 8), 1 - 0.3 / 0.901))
    assert (kind(torch.zeros(1, 2, 8, 8)) == 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_contour_is_one_region_that_every_ray_leaves_once(seed):
    kind = Contour(mask_context((96, 128)), harmonics=6)
    parameter = kind.initial(RowRandom([1]))
    parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    kind.project_(parameter)
    inside = 1 - kind(parameter)[0, 0]
    y, x = ((0.5 * side + 9.6 * parameter[0, 0, 0, axis]).item() for axis, side in enumerate((96, 128)))
    assert 0 <= y <= 96 and 0 <= x <= 128
    fine = (inside > 0.5).numpy()
    assert fine.any() and ndimage.label(fine, np.ones((3, 3)))[1] == 1
    for angle in np.linspace(0, 2 * np.pi, 60):
        steps = np.arange(2, 90)
        rows, cols = (np.floor(c + steps * f(angle)).astype(int) for c, f in ((y, np.sin), (x, np.cos)))
        there = (rows >= 0) & (rows < 96) & (cols >= 0) & (cols < 128)
        ray = inside.numpy()[rows[there], cols[there]]
        if ray.size:
            assert (np.diff(np.maximum.accumulate(ray[::-1])[::-1] - ray) < 0.5).all() and ray[-1] <= ray[0] + 0.5


def test_a_contour_without_harmonics_is_a_circle_and_the_evidence_in_every_game():
    kind, other = (
        Contour(mask_context((200, 300)), radius=0.25),
        Contour(mask_context((200, 300), "preservation"), radius=0.25),
    )
    parameter = kind.initial(RowRandom([1]))
    # of a soft disc: pi (r^2 + pi^2/3 softness^2)
    assert (1 - kind(parameter)).sum().item() == pytest.approx(math.pi * (50**2 + math.pi**2 / 3 * 4**2), rel=1e-3)
    torch.testing.assert_close(other(parameter), 1 - kind(parameter))
    assert spectrum(parameter, regularizer_context(parameter)).item() == 0
    parameter[..., :3] = torch.tensor([99.0, -99.0, -99.0])
    kind.project_(parameter)  # to the corner at the left below, and no smaller than 0.02 of 200 px
    corner = 1 - kind(parameter)[0, 0]
    assert corner[-1, 0] > 0.6 and corner[:-20].max() < 0.05 and corner[:, 20:].max() < 0.05
    several = Contour(mask_context((200, 300)), radius=0.1, contours=3)
    assert ndimage.label((several(several.initial(RowRandom([1]))) < 0.5)[0, 0].numpy())[1] == 3


def test_spectrum_is_the_bending_of_the_radius():
    parameter = torch.zeros(1, 1, 1, 3 + 2 * 5)
    parameter[..., 3:] = torch.randn(10, generator=torch.Generator().manual_seed(0))
    t = torch.arange(1000, dtype=torch.float64) * (2 * math.pi / 1000)
    a, b = parameter[0, 0, 0, 3:].double().view(2, 5)
    k = torch.arange(1, 6)
    log_r = ((a / k**2) @ torch.cos(k[:, None] * t)) + ((b / k**2) @ torch.sin(k[:, None] * t))
    bends = (log_r.roll(1) - 2 * log_r + log_r.roll(-1)) / (2 * math.pi / 1000) ** 2
    assert spectrum(parameter, regularizer_context(parameter)).item() == pytest.approx(
        2 * (bends**2).mean().item(), rel=1e-3
    )
    with pytest.raises(ValueError, match="choose mask=contour"):
        spectrum(parameter, regularizer_context(torch.zeros(1, 1, 28, 28)))


def test_a_superpixel_is_constant_and_counts_by_its_area():
    kind = Superpixels(CONTEXT, n_segments=20, mask_size=8)
    parameter = torch.rand(2, *kind.shape, generator=torch.Generator().manual_seed(0))
    mask = kind(parameter)
    for photo in range(2):
        labels = kind.labels[photo].view(SIZE)
        assert 4 < labels.max() < kind.shape[2]
        for label in labels.unique():
            assert (mask[photo, 0][labels == label] == parameter[photo, 0, 0, label]).all()
            assert ndimage.label((labels == label).numpy())[1] == 1
        alone = Superpixels(mask_context(SIZE, images=WIDE[photo : photo + 1]), n_segments=20)
        assert torch.equal(alone.labels[0], kind.labels[photo]) and alone.shape == kind.shape
    torch.testing.assert_close(kind.cells(parameter).mean((1, 2, 3)), mask.mean((1, 2, 3)))  # cells of 4 x 5 px
    soft = Superpixels(CONTEXT, n_segments=20, sigma=2.0)(parameter)
    torch.testing.assert_close(soft.mean(), mask.mean(), atol=0.02, rtol=0)
    assert soft.diff(dim=-1).abs().max() < 0.6 * mask.diff(dim=-1).abs().max()


@pytest.mark.parametrize("number", [2, 7, 50, 320])
def test_no_image_has_more_superpixels_than_parameters(number):
    noise = torch.rand(4, 3, *SIZE, generator=torch.Generator().manual_seed(number)).round()
    kind = Superpixels(mask_context(SIZE, images=noise), n_segments=number, compactness=0.01, denoise=0.0)
    assert kind.labels.max() < kind.shape[2]


def test_patches_are_those_of_a_transformer():
    kind = Patches(mask_context((224, 224)), patch=16)
    assert kind.shape == (1, 14, 14)
    mask = kind(torch.arange(196.0).view(1, 1, 14, 14))
    blocks = mask.view(14, 16, 14, 16)
    assert (blocks == torch.arange(196.0).view(14, 1, 14, 1)).all()


@pytest.mark.parametrize(
    "mask, options, message",
    [
        (Bernoulli, {"mask_size": 8, "temperature": 0.0}, "mask.temperature=0.0"),
        (Bernoulli, {"mask_size": 8, "grain": "row"}, "mask.grain='row' must be 'pixel' or 'cell'"),
        (Bernoulli, {"mask_size": 8, "init": 1}, "mask.init=1 must be a probability"),
        (Ratio, {"init": 0}, "mask.init=0 must be a number above 0"),
        (Contour, {"harmonics": 0}, "mask.harmonics=0 must be at least 1"),
        (Contour, {"radius": 2.0}, "mask.radius=2.0 must be from 0.02 to 1.0"),
        (Contour, {"softness": 0.0}, "mask.softness=0.0"),
        (Superpixels, {"n_segments": 1}, "mask.n_segments=1 must be from 2 to 320"),
        (Superpixels, {"compactness": 0}, "mask.compactness=0"),
        (Superpixels, {"init": "disc"}, "mask.init='disc' is for grids"),
        (Patches, {"patch": 16}, "mask.patch=16 px must divide the image's sides, 32x40 px"),
    ],
)
def test_mistakes_are_named(mask, options, message):
    with pytest.raises(ValueError, match=message):
        mask(CONTEXT, **options)


def test_superpixels_need_pixels():
    with pytest.raises(ValueError, match="mask=superpixels needs a perturbation of pixels"):
        Superpixels(mask_context((5, 16, 16), images=WIDE))
