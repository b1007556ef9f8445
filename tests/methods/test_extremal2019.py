"""Fong, Patrick & Vedaldi 2019: smooth maximum, area constraint, pyramid of blurs, averaged gradients, mirroring."""

from functools import partial

import numpy as np
import pytest
import torch
from contexts import mask_context, regularizer_context
from methods.parity import TARGET, problem, same, trajectory, value_and_gradient
from methods.reference import SIDE, bilinear, blur, gradient, logits, photos
from numpy.lib.stride_tricks import sliding_window_view
from planted import SquareNet, square_photo

from mpx import config, explain
from mpx.masks.smooth_max import SmoothMax
from mpx.randomness import RowRandom
from mpx.regularizers import area

CELLS, SIGMA, BLUR = 8, 6.0, 4.0  # on 32 px; the paper's are 32 cells, 21 px and 20 px on 224 px
SMALL = (f"mask_size={CELLS}", f"mask.sigma={SIGMA / SIDE}", f"perturbation.sigma={BLUR}", "mask.init=random", "steps=20")
POINTS = {"null": SIDE // CELLS, "2": 2}  # places in a cell where the maximum is taken


def smooth_max(p: np.ndarray, points: int, pixels: int = SIDE, sigma: float = SIGMA) -> tuple[np.ndarray, np.ndarray]:
    """p: (h,w) -> the evidence (pixels,pixels), and at all places, those included to which bumps reach beyond the image.

    Every cell, and a frame of zeros, takes part where its bump may reach.
    """
    step = pixels / len(p)
    reach = 1 + int(np.ceil(sigma / step))
    windows = sliding_window_view(np.pad(p, 2 * reach), (2 * reach + 1,) * 2)  # of each cell and its frame: (n,n,k,k)
    places = (np.arange(points) + 0.5) / points * step  # in a cell
    away = (np.arange(-reach, reach + 1) + 0.5) * step - places[:, None]  # (points,k): to the centres around
    z = np.hypot(away[:, None, :, None], away[None, :, None, :]) / sigma
    v = windows[:, None, :, None] * np.exp(-2 * np.maximum(z - 0.5, 0) ** 2)[None, :, None, :]  # (n,points,n,points,k,k)
    weights = np.exp(20 * v)
    fine = (weights * v).sum((4, 5)) / weights.sum((4, 5))
    fine = fine.reshape(len(windows) * points, -1)
    inside = fine[reach * points : -reach * points, reach * points : -reach * points]
    up = bilinear(len(inside), pixels)
    return up @ inside @ up.T, fine


def perturbed(m: np.ndarray) -> np.ndarray:
    """Seven blurs, sigma falling to 0 at the photo in equal steps; between them, linear."""
    x = photos()[0]
    levels = np.stack([blur(x, BLUR * (1 - k / 7)) for k in range(7)] + [x])
    place = m * 7
    below = np.clip(np.floor(place), 0, 6).astype(int)
    y, z = np.indices(m.shape)
    low, high = levels[below, :, y, z], levels[below + 1, :, y, z]  # (H,W,3)
    return (low + (place - below)[..., None] * (high - low)).transpose(2, 0, 1)


def reward(x: np.ndarray, contrastive: bool) -> float:
    y = logits(x)
    return y[TARGET] - (np.delete(y, TARGET).max() if contrastive else 0)


def evidence(p, points, variant="preserve") -> np.ndarray:
    """What is learnt is the evidence, in the dual game what is perturbed."""
    return smooth_max(p[0] if variant == "preserve" else 1 - p[0], points)


def number(p, points, variant="preserve", contrastive=False) -> int:
    """Of ones in r_a: a share of 0.1, corrected for the soft edges; no gradient passes through it."""
    r = evidence(p, points, variant)[0].mean() / 0.1
    near, far = min(max(r**-8, 0.5), 2), min((r - 0.5) / 1.5, 1)
    return round((CELLS * points) ** 2 * 0.1 * max(near, far))


def objective(p, iteration, points, ones, variant="preserve", contrastive=False) -> float:
    """What is minimised."""
    m, fine = evidence(p, points, variant)
    mirrored = (lambda x: x[..., ::-1]) if iteration % 2 == 0 else (lambda x: x)
    if variant == "preserve":
        score = -reward(mirrored(perturbed(m)), contrastive)
    else:
        score = reward(mirrored(perturbed(1 - m)), contrastive) - reward(mirrored(perturbed(m)), contrastive)
    wanted = np.zeros(fine.size)
    wanted[fine.size - ones :] = 1
    return score + 300 * 1.0035**iteration * np.mean((np.sort(fine.ravel()) - wanted) ** 2)


VARIANTS = {
    "extremal2019": {},
    "extremal2019_dual": {"variant": "dual"},
    "extremal2019_contrastive": {"contrastive": True},
}


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("experiment", VARIANTS)
def test_objective_and_gradient(experiment, points):
    p, start = (
        problem(experiment, *SMALL, f"mask.points={points}"),
        np.random.default_rng(0).uniform(0, 1, (1, CELLS, CELLS)),
    )
    for iteration in (0, 7):
        how = {"points": POINTS[points]} | VARIANTS[experiment]
        exact = partial(objective, iteration=iteration, ones=number(start, **how), **how)
        value, g = value_and_gradient(p, start, iteration)
        same(value, exact(start))
        same(g, gradient(exact, start, 1e-7))


@pytest.mark.parametrize(
    "experiment",
    ["extremal2019", *(pytest.param(f"extremal2019_{game}", marks=pytest.mark.slow) for game in ("dual", "contrastive"))],
)
def test_twenty_steps(experiment):
    """SGD 0.01 whose momentum 0.9 is dampened by 0.9: an average of the gradients, the first one whole."""
    result = trajectory(problem(experiment, *SMALL, "mask.points=2"))
    q, average = result[0], None
    for step, mine in enumerate(result[1:]):
        how = {"points": 2} | VARIANTS[experiment]
        g = gradient(partial(objective, iteration=step, ones=number(q, **how), **how), q, 1e-7)
        average = g if average is None else 0.9 * average + 0.1 * g
        q = np.clip(q - 0.01 * average, 0, 1)
        assert np.abs(mine - q).max() < 1e-3, step
    assert np.abs(q - result[0]).max() > 0.05


def test_area_is_sorted_distance_whatever_the_order_and_ties():
    random = torch.Generator().manual_seed(0)
    m = torch.rand(3, 1, 20, 30, generator=random, dtype=torch.float64)
    m[1] = (m[1] * 4).round() / 4  # many equal values
    m[2] = 1
    asked = torch.tensor([0.05, 0.3, 0.2])
    expected = []
    for row, a in zip(m, asked.tolist()):
        wanted = np.zeros(600)
        wanted[600 - round(600 * a) :] = 1
        expected.append(np.mean((np.sort(row.numpy().ravel()) - wanted) ** 2) * 1.01**5)
    result = area(m, regularizer_context(m, iteration=5, areas=asked), growth=1.01, correction=0.0)
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64))
    m = m.requires_grad_()
    area(m, regularizer_context(m, areas=asked), correction=0.0).sum().backward()
    assert torch.allclose(m.grad[2], m.grad[2].mean()) and (m.grad[2] > 0).all()  # equal values are pulled alike


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 64])
def test_the_area_of_the_mask_is_the_requested_area(side):
    """Within a tenth, soft edges and all, at every resolution."""
    net = SquareNet(side, side // 4, side // 2, side // 4).eval()
    blur = ["perturbation.sigma=4"] * (side == 32)
    method = config.method("extremal2019", "area=[0.025,0.2]", *blur)
    e = explain(net, square_photo(net)[None], 1, method=method, frames=2)
    assert ((e.area / e.areas - 1).abs() < 0.1).all(), e.area
    assert e.saliency.shape == (2, 1, side, side) and (e.passes == 800).all()


def test_smooth_max_gradient_is_that_of_finite_differences():
    mask = SmoothMax(mask_context((12, 16), "preservation"), [3, 4], sigma=0.4, points=2)
    mask.double()
    start = torch.rand(2, 1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(mask, start)


def test_three_places_in_a_cell_are_every_pixel():
    """The interpolated maximum stays near the exact one, at the paper's sizes."""
    cells = torch.zeros(2, 1, 32, 32)
    cells[0, 0, 10:14, 10:20] = cells[1, 0, 5, 5] = cells[1, 0, 6, 25] = 1
    cells[1] += torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.3
    every = SmoothMax(mask_context((224, 224), "preservation"), 32, points=None)(cells)
    few = SmoothMax(mask_context((224, 224), "preservation"), 32, points=3)(cells)
    assert (every - few).abs().max() < 0.025 and (every.mean((1, 2, 3)) / few.mean((1, 2, 3)) - 1).abs().max() < 0.01


def test_a_mask_of_ones_is_a_mask_of_ones_inside():
    mask = SmoothMax(mask_context((224, 224), "preservation"), 32)
    ones = mask(mask.initial(RowRandom([1])))
    assert ones.max() <= 1 and ones[..., 60:-60, 60:-60].min() > 0.9


def test_presets_are_the_papers():
    cfg = config.compose("experiment=extremal2019")
    method = config.build_method(cfg)
    assert (method.steps, method.areas, method.game, cfg.lr) == (800, (0.1,), "preservation", 0.01)
    assert method.optimizer.keywords | {"momentum": 0.9, "dampening": 0.9} == method.optimizer.keywords
    mask = method.mask(mask_context((224, 224)))
    assert mask.shape == (1, 32, 32) and mask.sigma == 21 and method.perturbation.keywords == {"sigma": 20.0, "levels": 7}


@pytest.mark.parametrize(
    "options, names",
    [
        ({"sigma": 0.0}, "mask.sigma=0.0"),
        ({"points": 0}, "mask.points=0"),
        ({"points": None, "mask_size": 7}, "mask_size=7"),
    ],
)
def test_mistakes_are_named(options, names):
    with pytest.raises(ValueError, match=names):
        SmoothMax(mask_context((32, 32)), **{"mask_size": 8, **options})
