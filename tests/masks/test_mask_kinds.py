"""Laws of masks that are more than a grid: coins, ratios, contours, superpixels, patches; and of what came with them."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from mpx.perturbations.infill import LocalMean, mix, random_color
from planted import SquareNet, square_photo
from scipy import ndimage

from mpx import config, explain, regularizers, scores
from mpx.learning.method import Method
from mpx.learning.objective import Objective
from mpx.masks.bernoulli import Bernoulli
from mpx.masks.contour import Contour, spectrum
from mpx.masks.ratio import Ratio
from mpx.masks.superpixels import Patches, Superpixels
from mpx.randomness import RowRandom

NET = SquareNet().eval()
PHOTOS = torch.stack([square_photo(NET, seed) for seed in range(3)])
KINDS = ["bernoulli", "ratio", "contour", "superpixels", "patches"]
SIZE = (32, 40)
WIDE = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
RNG = RowRandom([1, 2])


def kinds():
    """Each kind for photos that are not square, and a parameter."""
    for kind in (
        Bernoulli(SIZE, 8), Bernoulli(SIZE, 8, grain="cell"), Ratio(SIZE, 8), Contour(SIZE, contours=2, harmonics=4),
        Superpixels(SIZE, WIDE, n_segments=20, sigma=1.5), Patches(SIZE, patch=8),
    ):  # fmt: skip
        start = kind.start(RNG.at("start"))
        parameter = start + 0.2 * torch.randn(start.shape, generator=torch.Generator().manual_seed(0))
        kind.project_(parameter)
        yield pytest.param(kind, parameter, id=type(kind).__name__)


@pytest.mark.parametrize("kind, parameter", [*kinds()])
def test_contract(kind, parameter):
    """In [0,1], what regularizers see too; draws are too; a row's mask is its own."""
    assert parameter.shape == (2, *kind.shape)
    mask = kind(parameter)
    seen = [mask, *([kind.cells(parameter)] if hasattr(kind, "cells") else [])]
    seen += kind.draw(parameter, RNG.at(0)) if hasattr(kind, "draw") else []
    assert mask.shape == (2, 1, *SIZE)
    for m in seen:
        assert m.shape[:2] == (2, 1) and m.min() >= 0 and m.max() <= 1 + 1e-6 and m.std() > 0.01
    changed = parameter.clone()
    changed[1] = kind.start(RNG.at("start"))[1]
    assert torch.equal(kind(changed)[0], mask[0]) and not torch.equal(kind(changed)[1], mask[1])


@pytest.mark.parametrize("kind, parameter", [*kinds()])
def test_gradient_is_that_of_finite_differences(kind, parameter):
    weights = torch.randn(SIZE, generator=torch.Generator().manual_seed(1))
    parameter = parameter.clamp(0.1, 0.9) if isinstance(kind, Superpixels | Patches) else parameter

    def value(p):
        return (kind(p) * weights).sum()

    direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    (g,) = torch.autograd.grad(value(parameter.requires_grad_()), parameter)
    h = 1e-3
    with torch.no_grad():
        slope = (value(parameter + h * direction) - value(parameter - h * direction)) / (2 * h)
    assert slope.item() == pytest.approx((g * direction).sum().item(), rel=2e-2, abs=2e-2)


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_of_three_is_three_single_runs(name):
    options = dict(mask=config.option("mask", name, mask_size=8), steps=30, jitter=1, noise=0.02, samples=2, target=1)
    options["perturbation"] = partial(config.option("perturbation", "mix"), sigma=3.0)
    together = explain(NET, PHOTOS, **options)
    singles = torch.cat([explain(NET, photo, **options).parameter for photo in PHOTOS])
    torch.testing.assert_close(together.parameter, singles, atol=1e-5, rtol=1e-5)


def test_coins_fall_as_often_as_their_chance():
    for grain in ("pixel", "cell"):
        kind, rng = Bernoulli((32, 32), 32, grain=grain), RowRandom([1])
        chances = torch.linspace(0.05, 0.95, 32).expand(1, 1, 32, 32)
        draws = torch.cat([kind.draw(chances.logit(), rng.at(i))[0] for i in range(40)])
        kept = (draws > 0.5).float().mean((0, 1, 2))
        torch.testing.assert_close(kept, chances[0, 0, 0], atol=0.05, rtol=0)
        assert ((draws < 0.02) | (draws > 0.98)).float().mean() > 0.8
    cell = Bernoulli((32, 32), 4, grain="cell", temperature=0.01).draw(torch.zeros(1, 1, 4, 4), RowRandom([1]))[0]
    torch.testing.assert_close(cell[..., 4:-1:8, 4:-1:8].round(), cell[..., 3::8, 3::8].round())  # one coin for each cell


def test_what_is_judged_of_random_masks_is_a_draw():
    method = Method(config.option("perturbation", "black"), partial(Bernoulli, mask_size=8), scores.probability)
    problem = Objective(method, NET, PHOTOS[:1], torch.tensor([1]), ["a"])
    parameter = torch.zeros(1, *problem.mask.shape)
    drawn = problem.shown(parameter)
    assert (problem.mask(parameter) == 0.5).all() and drawn.std() > 0.3 and torch.equal(drawn, problem.shown(parameter))


def test_a_ratio_is_its_numbers():
    kind = Ratio((8, 8), 8)
    parameter = torch.tensor([0.3, -0.6])[None, :, None, None].expand(1, 2, 8, 8)
    torch.testing.assert_close(kind(parameter), torch.full((1, 1, 8, 8), 1 - 0.3 / 0.901))
    assert (kind(torch.zeros(1, 2, 8, 8)) == 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_contour_is_one_region_that_every_ray_leaves_once(seed):
    kind = Contour((96, 128), harmonics=6)
    parameter = kind.start(RowRandom([1]))
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
    kind, other = Contour((200, 300), radius=0.25), Contour((200, 300), radius=0.25, game="preservation")
    parameter = kind.start(RowRandom([1]))
    # of a soft disc: pi (r^2 + pi^2/3 softness^2)
    assert (1 - kind(parameter)).sum().item() == pytest.approx(math.pi * (50**2 + math.pi**2 / 3 * 4**2), rel=1e-3)
    torch.testing.assert_close(other(parameter), 1 - kind(parameter))
    assert spectrum(None, parameter).item() == 0
    parameter[..., :3] = torch.tensor([99.0, -99.0, -99.0])
    kind.project_(parameter)  # to the corner at the left below, and no smaller than 0.02 of 200 px
    corner = 1 - kind(parameter)[0, 0]
    assert corner[-1, 0] > 0.6 and corner[:-20].max() < 0.05 and corner[:, 20:].max() < 0.05
    several = Contour((200, 300), radius=0.1, contours=3)
    assert ndimage.label((several(several.start(RowRandom([1]))) < 0.5)[0, 0].numpy())[1] == 3


def test_spectrum_is_how_much_the_radius_bends():
    parameter = torch.zeros(1, 1, 1, 3 + 2 * 5)
    parameter[..., 3:] = torch.randn(10, generator=torch.Generator().manual_seed(0))
    t = torch.arange(1000, dtype=torch.float64) * (2 * math.pi / 1000)
    a, b = parameter[0, 0, 0, 3:].double().view(2, 5)
    k = torch.arange(1, 6)
    log_r = ((a / k**2) @ torch.cos(k[:, None] * t)) + ((b / k**2) @ torch.sin(k[:, None] * t))
    bends = (log_r.roll(1) - 2 * log_r + log_r.roll(-1)) / (2 * math.pi / 1000) ** 2
    assert spectrum(None, parameter).item() == pytest.approx(2 * (bends**2).mean().item(), rel=1e-3)
    with pytest.raises(ValueError, match="choose mask=contour"):
        spectrum(None, torch.zeros(1, 1, 28, 28))


def test_a_superpixel_is_constant_and_counts_by_its_area():
    kind = Superpixels(SIZE, WIDE, n_segments=20, mask_size=8)
    parameter = torch.rand(2, *kind.shape, generator=torch.Generator().manual_seed(0))
    mask = kind(parameter)
    for photo in range(2):
        labels = kind.labels[photo].view(SIZE)
        assert 4 < labels.max() < kind.shape[2]
        for label in labels.unique():
            assert (mask[photo, 0][labels == label] == parameter[photo, 0, 0, label]).all()
            assert ndimage.label((labels == label).numpy())[1] == 1
        alone = Superpixels(SIZE, WIDE[photo : photo + 1], n_segments=20)
        assert torch.equal(alone.labels[0], kind.labels[photo]) and alone.shape == kind.shape
    torch.testing.assert_close(kind.cells(parameter).mean((1, 2, 3)), mask.mean((1, 2, 3)))  # cells of 4 x 5 px
    soft = Superpixels(SIZE, WIDE, n_segments=20, sigma=2.0)(parameter)
    torch.testing.assert_close(soft.mean(), mask.mean(), atol=0.02, rtol=0)
    assert soft.diff(dim=-1).abs().max() < 0.6 * mask.diff(dim=-1).abs().max()


@pytest.mark.parametrize("number", [2, 7, 50, 320])
def test_no_photo_has_more_superpixels_than_there_is_room_for(number):
    noise = torch.rand(4, 3, *SIZE, generator=torch.Generator().manual_seed(number)).round()
    kind = Superpixels(SIZE, noise, n_segments=number, compactness=0.01, denoise=0.0)
    assert kind.labels.max() < kind.shape[2]


def test_patches_are_the_transformers():
    kind = Patches((224, 224), patch=16)
    assert kind.shape == (1, 14, 14)
    mask = kind(torch.arange(196.0).view(1, 1, 14, 14))
    blocks = mask.view(14, 16, 14, 16)
    assert (blocks == torch.arange(196.0).view(14, 1, 14, 1)).all()


def test_local_mean_is_of_what_is_kept():
    site = LocalMean(PHOTOS, window=5)
    kept = torch.ones(3, 1, 32, 32)
    kept[..., 16:] = 0
    picture = site.show(site.draw(None), kept)[0]
    assert torch.equal(picture[..., :16], PHOTOS[..., :16])
    torch.testing.assert_close(picture[:, :, 10, 16], PHOTOS[:, :, 8:13, 14:16].mean((2, 3)))
    torch.testing.assert_close(picture[:, :, 10, 25], PHOTOS.mean((2, 3)))  # nothing kept near
    mask = torch.full((3, 1, 32, 32), 0.4, requires_grad=True)
    (g,) = torch.autograd.grad(site.show(site.draw(None), mask)[0].sum(), mask)
    torch.testing.assert_close(g, (PHOTOS - PHOTOS.mean((2, 3), keepdim=True)).sum(1, keepdim=True))  # none through the fill


def test_random_references_have_the_colours_asked():
    rng = RowRandom(list(range(300)))
    x = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)).expand(300, -1, -1, -1)
    colors = random_color(x, rng, sigma=0.05)(rng.at(0))
    assert colors.std((2, 3)).mean() == pytest.approx(0.05, rel=0.1)
    assert colors.mean((2, 3)).std() == pytest.approx(0.29, rel=0.1)
    draw = mix(x, rng, sigma=2.0)
    drawn, blurred = draw(rng.at(0)), mix(x, rng, sigma=2.0, blurred=1.0)(rng.at(0))
    is_blur = (drawn == blurred).flatten(1).all(1)
    assert 110 < is_blur.sum() < 190 and not torch.equal(drawn, draw(rng.at(1)))
    plain = drawn[~is_blur]
    assert plain.std((2, 3)).mean() == pytest.approx(0.055, rel=0.1)
    assert plain.mean((2, 3)).min() > 0.33 and plain.mean((2, 3)).max() < 0.67


def test_area_may_be_raised_to_a_power_and_grow():
    s = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(regularizers.l1(s, power=0.3), ((s + 0.0005) ** 0.3 - 0.0005**0.3).mean((1, 2, 3)))
    assert regularizers.l1(s * 0, power=0.3).abs().max() < 1e-7
    zero = torch.zeros(1, 1, 2, 2, requires_grad=True)
    assert torch.autograd.grad(regularizers.l1(zero, power=0.3).sum(), zero)[0].isfinite().all()
    for iteration, share in ((0, 0), (15, 0.5), (30, 1), (200, 1)):
        at = torch.full((len(s),), iteration)
        torch.testing.assert_close(regularizers.l1(s, warmup=30, iteration=at), share * s.mean((1, 2, 3)))
    assert torch.equal(regularizers.l1(s), s.abs().flatten(1).mean(1))


def test_border_by_hand():
    s = torch.arange(9.0).view(1, 1, 3, 3)
    by_hand = sum(v**2 for v in (0, 1, 2, 6, 7, 8, 0, 3, 6, 2, 5, 8))
    assert regularizers.border(s, reduction="sum").item() == by_hand
    assert regularizers.border(s).item() == pytest.approx(by_hand / 12)


def test_hinge_lets_go_where_it_is_enough():
    logits = torch.tensor([[0.0, -8.0], [0.0, -3.0], [0.0, 3.0]], requires_grad=True)
    target = torch.tensor([1, 1, 1])
    assert scores.hinge(logits, target, sign=1).tolist() == [-5, -3, 3]
    assert scores.hinge(logits, target, sign=-1).tolist() == [-8, -3, 1]
    (g,) = torch.autograd.grad(scores.hinge(logits, target, sign=1).sum(), logits)
    assert g[0].eq(0).all() and g[1].tolist() == [-1, 1]


@pytest.mark.parametrize(
    "make, names",
    [
        (partial(Bernoulli, SIZE, 8, temperature=0.0), "mask.temperature=0.0"),
        (partial(Bernoulli, SIZE, 8, grain="row"), "mask.grain='row' must be 'pixel' or 'cell'"),
        (partial(Bernoulli, SIZE, 8, init=1), "mask.init=1 must be a chance"),
        (partial(Ratio, SIZE, init=0), "mask.init=0 must be a number above 0"),
        (partial(Contour, SIZE, harmonics=0), "mask.harmonics=0 must be at least 1"),
        (partial(Contour, SIZE, radius=2.0), "mask.radius=2.0 must be from 0.02 to 1.0"),
        (partial(Contour, SIZE, softness=0.0), "mask.softness=0.0"),
        (partial(Superpixels, SIZE, WIDE, n_segments=1), "mask.n_segments=1 must be from 2 to 320"),
        (partial(Superpixels, SIZE, WIDE, compactness=0), "mask.compactness=0"),
        (partial(Superpixels, (16, 16), WIDE), "mask=superpixels masks pixels"),
        (partial(Superpixels, SIZE, WIDE, init="disc"), "mask.init='disc' is for grids"),
        (partial(Patches, SIZE, patch=16), "mask.patch=16 px must divide the image's sides, 32x40 px"),
        (partial(LocalMean, WIDE, window=4), "window=4 must be odd"),
        (partial(mix, WIDE, RNG, 3.0, blurred=2.0), "perturbation.blurred=2.0 is a probability"),
    ],
)
def test_what_cannot_be_is_named(make, names):
    with pytest.raises(ValueError, match=names):
        make()
