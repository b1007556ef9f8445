"""Fong & Vedaldi 2017: blur, smoothed cells, crop jitter, sums of L1 and isotropic TV, Adam from a disc; equation 2."""

from functools import cache, partial

import numpy as np
import pytest
import torch
from contexts import augmentation_context, mask_context, perturbation_context, score_context
from methods.parity import TARGET, problem, same, trajectory, value_and_gradient
from methods.reference import SIDE, Adam, bilinear, blur, gaussian, gradient, logits, nearest, photos, softmax

from mpx import augmentations as augment
from mpx import config, scores
from mpx.masks.grid import Grid
from mpx.perturbations.base import blend
from mpx.perturbations.blur import gaussian_blur
from mpx.randomness import RowRandom

CELLS = 8  # on 32 px; the paper's are 28 on 224
SMALL = (f"mask_size={CELLS}", "steps=20")
UP = gaussian(SIDE, 5.0) @ nearest(CELLS, SIDE)  # (32,8)
CANVAS = bilinear(SIDE, SIDE + 4)  # (36,32)


@cache
def level(sigma: float, offset) -> np.ndarray:
    """(3,32,32): the photo, blurred, enlarged by 4 px and cut at (top,left); not moved where there is no offset."""
    x = photos()[0] if sigma == 0 else blur(photos()[0], sigma)
    if offset is None:
        return x
    rows, cols = (CANVAS[start : start + SIDE] for start in offset)
    return rows @ x @ cols.T


def blended(m: np.ndarray, offset) -> np.ndarray:
    return m * level(0, offset) + (1 - m) * level(10.0, offset)


def leveled(m: np.ndarray, offset) -> np.ndarray:
    """Equation 2 with sigma(u) = 10 (1 - m(u)): between the whole sigmas, linear."""
    sigma = 10 * (1 - m)
    levels = np.stack([level(s, offset) for s in range(11)])
    below = np.clip(np.floor(sigma), 0, 9).astype(int)
    y, z = np.indices(m.shape)
    low, high = levels[below, :, y, z], levels[below + 1, :, y, z]
    return (low + (sigma - below)[..., None] * (high - low)).transpose(2, 0, 1)


def target(p: np.ndarray) -> float:
    return p[TARGET]


def first_two(p: np.ndarray) -> float:
    """Of the classes as the photo has them; five are the network's all."""
    return p[np.argsort(logits(photos()[0]))[-2:]].sum()


def terms(p: np.ndarray, l1: float, beta: float) -> float:
    dy, dx = np.diff(p, axis=0, append=p[-1:]), np.diff(p, axis=1, append=p[:, -1:])
    return l1 * np.abs(1 - p).sum() + 1e-2 * ((dy**2 + dx**2) ** (beta / 2)).sum()


def objective(p, offset, l1=1e-4, beta=3, shown=blended, score=target) -> float:
    return score(softmax(logits(shown(UP @ p[0] @ UP.T, offset)))) + terms(p[0], l1, beta)


VARIANTS = {
    "fong2017": ((), {}),
    "fong2017_loc": (("score.classes=2",), {"l1": 1e-3, "beta": 2, "score": first_two}),
    "fong2017_scale_space": ((), {"shown": leveled}),
}


def offsets(p, iteration):
    return tuple(p.rng.at((iteration, "augment"), 0).integers(0, 3, 2)[0].tolist())


@pytest.mark.parametrize("experiment", VARIANTS)
def test_objective_and_gradient(experiment):
    overrides, options = VARIANTS[experiment]
    p, start = problem(experiment, *SMALL, *overrides), np.random.default_rng(0).uniform(0.2, 0.8, (1, CELLS, CELLS))
    for iteration in (0, 7):
        exact = partial(objective, offset=offsets(p, iteration), **options)
        value, g = value_and_gradient(p, start, iteration)
        same(value, exact(start))
        same(g, gradient(exact, start))


@pytest.mark.parametrize("experiment", VARIANTS)
def test_twenty_steps(experiment):
    overrides, options = VARIANTS[experiment]
    p = problem(experiment, *SMALL, "mask.init=random", *overrides)
    adam, result = Adam(0.1), trajectory(p)
    q = result[0]
    for step, mine in enumerate(result[1:]):
        exact = partial(objective, offset=offsets(p, step), **options)
        q = np.clip(adam(q, gradient(exact, q)), 0, 1)
        assert np.abs(mine - q).max() < 1e-3, step
    assert np.abs(q - result[0]).max() > 0.5


@pytest.mark.parametrize("experiment, shown", [("fong2017", blended), ("fong2017_scale_space", leveled)])
def test_starts_from_the_smallest_disc(experiment, shown):
    """The first of the radii 0, 5, ... px that leaves 1 % of the target's probability, over that of the blur."""
    p = problem(experiment, *SMALL)
    p.targets = p.prepared_targets = torch.tensor([3])  # whose probability a blur lowers

    def left(m):
        return softmax(logits(shown(m, None)))[3]

    everything, photo = left(np.zeros((SIDE, SIDE))), left(np.ones((SIDE, SIDE)))
    p.support_before, p.support_reference = torch.tensor([photo]).float(), torch.tensor([everything]).float()
    y = (np.arange(CELLS) + 0.5) * SIDE / CELLS - SIDE / 2
    for radius in range(0, 30, 5):
        cells = (np.hypot(y[:, None], y) > radius) * 1.0
        if left(UP @ cells @ UP.T) <= everything + 0.01 * (photo - everything):
            break
    assert 0 < cells.mean() < 1 and np.array_equal(p.initial()[0, 0].numpy(), cells)


def test_straight_through_is_the_codes_gradient():
    """That of the mask's pixels, summed over each cell, and not of their smoothing; forward, nothing changes."""
    p = problem("fong2017", *SMALL, "mask.straight_through=true")
    start, offset = np.random.default_rng(0).uniform(0.2, 0.8, (1, CELLS, CELLS)), offsets(p, 0)
    value, g = value_and_gradient(p, start)
    same(value, objective(start, offset))
    of_pixels = gradient(lambda m: softmax(logits(blended(m, offset)))[TARGET], UP @ start[0] @ UP.T)
    summed = of_pixels.reshape(CELLS, 4, CELLS, 4).sum((1, 3))
    same(g[0], summed + gradient(lambda q: terms(q, 1e-4, 3), start[0]))
    assert np.linalg.norm(g - value_and_gradient(problem("fong2017", *SMALL), start)[1]) > 0.05 * np.linalg.norm(g)


def test_presets_are_the_papers():
    cfg = config.compose("experiment=fong2017")
    method = config.build_method(cfg)
    assert (method.game, method.steps, cfg.lr, cfg.mask_size, method.perturbation.keywords["sigma"]) == (
        "deletion", 300, 0.1, 28, 10.0,
    )  # fmt: skip
    assert method.optimizer.func is torch.optim.Adam and method.score is not None and not method.input_augmentations
    assert [a.keywords for a in method.image_augmentations] == [{"pixels": 4}]
    assert {k: w for k, (w, _) in method.regularizers.items()} == {"l1": 1e-4, "tv": 1e-2}
    assert method.mask.keywords | {"sigma": 5.0, "upsample": "nearest", "init": "disc"} == method.mask.keywords
    loc = config.build_method(config.compose("experiment=fong2017_loc"))
    assert loc.regularizers["l1"][0] == 1e-3 and loc.regularizers["tv"][1].keywords["beta"] == 2
    assert loc.score.func is scores.top and loc.score.keywords == {"classes": 5} and loc.mask.keywords["init"] == "disc"


def per_pixel(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Equation 2's integral itself: each pixel's own Gaussian. x: (3,H,W); sigma: (H,W) px."""
    edge = int(np.ceil(3 * sigma.max()))
    padded, out = np.pad(x, ((0, 0), (edge, edge), (edge, edge)), mode="reflect"), np.empty_like(x)
    for i, j in np.ndindex(sigma.shape):
        r = int(np.ceil(3 * sigma[i, j]))
        weights = np.exp(-0.5 * (np.arange(-r, r + 1) / max(sigma[i, j], 1e-9)) ** 2)
        weights /= weights.sum()
        around = padded[:, i + edge - r : i + edge + r + 1, j + edge - r : j + edge + r + 1]
        out[:, i, j] = around @ weights @ weights
    return out


@pytest.mark.parametrize("image", ["chelsea", "coffee"])
def test_ten_levels_are_near_the_exact_blur_of_each_pixel(image):
    """Of a photo at the network's resolution under a smooth mask. Measured: 0.8 % of the change; 8 levels: 1.2 %."""
    from skimage import data, transform

    photo = transform.resize(getattr(data, image)(), (224, 224), anti_aliasing=True)[64:112, 64:112].transpose(2, 0, 1)
    cells = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.nn.functional.interpolate(cells, size=(48, 48), mode="bicubic").clamp(0, 1)
    exact = per_pixel(photo, 10 * (1 - mask[0, 0].numpy()))
    method = config.build_method(config.compose("experiment=fong2017_scale_space"))
    x = torch.from_numpy(photo)[None]
    result = blend(torch.cat([method.perturbation(x, perturbation_context(x)), x[:, None]], 1), mask)[0].numpy()
    error, change = np.abs(result - exact), np.abs(photo - exact).mean()
    assert error.mean() < 0.01 * change and np.quantile(error, 0.99) < 0.012


def test_crop_moves_all_levels_alike_and_evenly_often():
    x = torch.rand(2000, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, 1 - x], 1)
    moved = augment.crop(x, augmentation_context(RowRandom(list(range(2000))).at(0)), 4)
    torch.testing.assert_close(moved[:, 1], 1 - moved[:, 0])
    offsets = RowRandom(list(range(2000))).at(0).integers(0, 3, 2)
    rows = torch.from_numpy(bilinear(6, 10)).float()
    for k in range(3):
        top, left = offsets[k].tolist()
        torch.testing.assert_close(moved[k], rows[top : top + 6] @ x[k] @ rows[left : left + 6].T)
    counts = torch.stack([torch.bincount(offsets[:, axis], minlength=4) for axis in (0, 1)])
    assert counts.shape == (2, 4) and counts.min() > 430 and counts.max() < 570  # 500 each


def test_top_is_of_the_photos_classes_not_of_the_pictures():
    before, now = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 2), torch.tensor([[0.0, 0.0, 9.0, 9.0], [9.0, 1.0, 0.0, 0.0]])
    p = now.softmax(1)
    torch.testing.assert_close(scores.top(now, torch.tensor([3, 3]), score_context(before), classes=2), p[:, 0] + p[:, 1])


def test_one_cell_per_pixel():
    grid = Grid(mask_context((6, 9)), None)
    parameter = torch.rand(2, *grid.shape)
    assert grid.shape == (1, 6, 9) and torch.equal(grid(parameter), parameter)


@pytest.mark.parametrize(
    "call, names",
    [
        (lambda: augment.crop(torch.rand(1, 3, 8, 8), augmentation_context(RowRandom([1])), 8), "crop=8 px"),
        (
            lambda: scores.top(torch.rand(1, 5), None, score_context(torch.rand(1, 5)), classes=5),
            "classes=5 must be from 1 to 4",
        ),
        (lambda: gaussian_blur(torch.rand(1, 3, 32, 32), 50.0, 65), "kernel_size=65 must be odd.*at most 63"),
        (lambda: gaussian_blur(torch.rand(1, 3, 32, 32), 5.0, 6), "kernel_size=6 must be odd"),
        (lambda: gaussian_blur(torch.rand(1, 3, 32, 32), 50.0), "sigma=50.0"),
    ],
)
def test_mistakes_are_named(call, names):
    with pytest.raises(ValueError, match=names):
        call()
