"""Laws of Frank-Wolfe: it stays in the polytope, whose linear and quadratic problems it solves, each row for itself."""

from functools import partial

import pytest
import torch
from planted import SquareNet, square_photo

from mpx import config, explain
from mpx.learning.frank_wolfe import FrankWolfe
from mpx.learning.optimizers import OptimizerContext

AREA = torch.tensor([0.1, 0.25, 0.6])
SHAPE, CELLS = (3, 1, 6, 10), 60
MOST = (AREA * CELLS).double().round()  # 6, 15, 36


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def start(value: float = 0.0, rows=slice(None)) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.full(SHAPE, value, dtype=torch.float64)[rows])


def solve(objective, p, steps: int, area=AREA, game="preservation", **options):
    """objective: parameter -> (B,), minimised from p in place; the parameter after each step."""
    optimizer = FrankWolfe([p], OptimizerContext(objective, lambda q: q.clamp_(0, 1), area, game), **options)
    path = []
    for _ in range(steps):
        optimizer.zero_grad()
        objective(p).sum().backward()
        optimizer.step()
        path.append(p.detach().clone())
    return path


@pytest.mark.parametrize("monotone", [True, False])
@pytest.mark.parametrize("game", ["preservation", "deletion"])
def test_a_linear_problem_is_solved_in_one_step(game, monotone):
    """The evidence is 1 at the k cells that lower the objective most, and at no cell that raises it."""
    slope = random(0, *SHAPE)
    slope[2] = slope[2].abs() + (torch.arange(CELLS).view(6, 10) < 4) * -9.0  # only four of 36 are worth it
    keeps = game == "preservation"
    p = solve(
        lambda q: ((q if keeps else 1 - q) * slope).flatten(1).sum(1), start(not keeps), 1, game=game, monotone=monotone
    )[-1]
    evidence = (p if keeps else 1 - p).flatten(1)
    for row, s, k in zip(evidence, slope.flatten(1), MOST.int().tolist()):
        best = s.sort().indices[:k]
        expected = torch.zeros(CELLS, dtype=torch.float64)
        expected[best[s[best] < 0]] = 1
        assert torch.equal(row, expected)
    assert evidence.sum(1).tolist() == [6, 15, 4]


@pytest.mark.parametrize("monotone", [True, False])
@pytest.mark.parametrize("game", ["preservation", "deletion", "dual"])
def test_it_never_leaves_the_polytope(game, monotone):
    keeps, target = game == "preservation", random(1, *SHAPE)
    jumpy = lambda q: (torch.sin(9 * q + target) * target).flatten(1).sum(1)  # noqa: E731
    for p in solve(jumpy, start(0.5), 60, game=game, monotone=monotone):
        evidence = (p if keeps else 1 - p).flatten(1)
        assert evidence.min() >= 0 and evidence.max() <= 1
        assert (evidence.sum(1) <= MOST + 1e-9).all()


def test_projection_onto_the_polytope_is_found():
    """min |e - c|^2: e = clip(c - t, 0, 1), with the t >= 0 of a full sum (bisection)."""
    c = random(2, *SHAPE)
    result = solve(lambda q: (q - c).square().flatten(1).sum(1), start(), 1000, monotone=False)[-1]
    low, high = torch.zeros(3, 1, 1, 1, dtype=torch.float64), torch.full((3, 1, 1, 1), 5.0, dtype=torch.float64)
    for _ in range(60):
        t = (low + high) / 2
        over = (c - t).clamp(0, 1).sum((1, 2, 3), keepdim=True) > MOST.view(-1, 1, 1, 1)
        low, high = torch.where(over, t, low), torch.where(over, high, t)
    torch.testing.assert_close(result, (c - high).clamp(0, 1), atol=0.02, rtol=0)


def test_monotone_steps_never_raise_a_rows_objective_and_halve_each_row_by_itself():
    steep = torch.tensor([1.0, 30.0, 1000.0], dtype=torch.float64)
    c = random(3, *SHAPE) * 0.02
    objective = lambda q: (steep.view(-1, 1, 1, 1) * (q - c).abs() ** 1.5 + q).flatten(1).sum(1)  # noqa: E731
    p = start()
    values = torch.stack([objective(q) for q in [p.detach().clone(), *solve(objective, p, 30)]])
    assert (values.diff(dim=0) <= 1e-12).all() and (values[-1] < values[0])[1:].all()
    again = torch.stack([objective(q) for q in solve(objective, start(), 30, monotone=False)])
    assert (again.diff(dim=0) > 0).any()  # a step of 2/(t+2) does raise it


@pytest.mark.parametrize("monotone", [True, False])
def test_a_batch_is_its_rows(monotone):
    c, steep = random(4, *SHAPE) * 0.3, torch.tensor([0.1, 30.0, 1000.0], dtype=torch.float64).view(-1, 1, 1, 1)

    def objective(q, rows=slice(None)):  # the rows want steps of different lengths
        return (steep[rows] * (q - c[rows]).square() + torch.cos(3 * q)).flatten(1).sum(1)

    together = solve(objective, start(), 25, monotone=monotone)[-1]
    for i in range(3):
        rows = slice(i, i + 1)
        alone = solve(partial(objective, rows=rows), start(rows=rows), 25, AREA[rows], monotone=monotone)[-1]
        assert torch.equal(alone[0], together[i])


def test_it_calls_the_closure_before_it_steps():
    p, slope = start(), random(5, *SHAPE)
    context = OptimizerContext(lambda q: (q * slope).flatten(1).sum(1), lambda q: q.clamp_(0, 1), AREA, "preservation")
    optimizer = FrankWolfe([p], context)

    def closure():
        optimizer.zero_grad()
        loss = (p * slope).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 0 and p.sum() > 0


NET = SquareNet().eval()
PHOTO = square_photo(NET)[None]


def options(**root):
    return dict(optimizer="frank_wolfe", game="preservation", lambda_l1=0, lambda_tv=0, jitter=0, mask_size=32, **root)


@pytest.mark.parametrize("game", ["preservation", "deletion", "dual"])
def test_planted_square_is_found_and_the_area_kept(game):
    blur = partial(config.option("perturbation", "blur_gaussian"), sigma=3.0)
    e = explain(
        NET, PHOTO, 1, perturbation=blur, area=0.0625, steps=30, scheduler=None, **options() | {"game": game}
    )  # as large as the square
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[NET.box] = True
    assert e.area <= 0.0625 + 1e-6
    assert e.saliency[0, 0, inside].mean() > (0.6 if game == "preservation" else 0.25)
    assert e.saliency[0, 0, inside].mean() > 10 * e.saliency[0, 0, ~inside].mean()


@pytest.mark.parametrize(
    "mistake, names",
    [
        ({}, "optimizer needs area="),
        ({"area": 0.1, "mask": "bernoulli"}, "a mask whose parameter is limited to"),
        ({"area": 0.1, "scheduler": "cosine"}, "no lr that scheduler= could change: add scheduler=null"),
        ({"area": 0.1, "optimizer": partial(config.option("optimizer", "frank_wolfe"), max_backtracks=0)}, "max_backtracks"),
    ],
)
def test_mistakes_are_named(mistake, names):
    with pytest.raises(ValueError, match=names):
        explain(NET, PHOTO, 1, steps=1, **options() | mistake)
