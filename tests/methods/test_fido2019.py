"""FIDO (Chang et al. 2019): Bernoulli masks by concrete relaxation, log-odds, a penalty per pixel that grows."""

import numpy as np
import pytest
from methods.parity import TARGET, problem, same, trajectory, value_and_gradient
from methods.reference import SIDE, Adam, bilinear, gradient, logits, photos

CELLS, STEPS, SAMPLES = 8, 20, 2
SMALL = (f"mask_size={CELLS}", f"steps={STEPS}", f"samples={SAMPLES}", "perturbation.window=5")
GAMES = {"fido2019_sdr": 1, "fido2019_ssr": -1}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def log_odds(z: np.ndarray) -> float:
    return z[TARGET] - np.log(np.exp(np.delete(z, TARGET)).sum())


def tosses(theta: np.ndarray, u: np.ndarray, grain: str = "pixel") -> list[np.ndarray]:
    """Masks (H,W) in [0,1] of the draws u: (samples,1,...), uniform. theta: (1,h,w) log-odds of keeping."""
    up = bilinear(CELLS, SIDE)
    u = np.clip(u, 1e-6, 1 - 1e-6)
    if grain == "cell":
        return [up @ sigmoid((theta[0] + draw[0]) / 0.1) @ up.T for draw in np.log(u / (1 - u))]
    keep = up @ sigmoid(theta[0]) @ up.T
    return [sigmoid((np.log(keep / (1 - keep)) + draw[0]) / 0.1) for draw in np.log(u / (1 - u))]


def local_mean(z: np.ndarray) -> np.ndarray:
    """(3,H,W): of each pixel, the mean of what is kept within 2 px, or the photo's where nothing is."""
    x, kept = photos()[0], z > 0.5
    fill = np.empty_like(x)
    for i, j in np.ndindex(SIDE, SIDE):
        window = slice(max(0, i - 2), i + 3), slice(max(0, j - 2), j + 3)
        there = x[(slice(None), *window)][:, kept[window]]
        fill[:, i, j] = there.mean(1) if there.size else x.mean((1, 2))
    return fill


def objective(theta, u, fills, iteration: int, sign: int, grain: str = "pixel") -> float:
    """fills: what is filled in, of each sample, through which no gradient flows; sign: 1 destroys, -1 suffices."""
    x, up = photos()[0], bilinear(CELLS, SIDE)
    masks = tosses(theta, u, grain)
    score = np.mean([log_odds(logits(z * x + (1 - z) * fill)) for z, fill in zip(masks, fills)])
    keep = up @ sigmoid(theta[0]) @ up.T
    penalised = (1 - keep).sum() if sign > 0 else keep.sum()
    return sign * score + 0.001 * (224 / SIDE) ** 2 * penalised * min(1, iteration / 30)  # per pixel of 224 x 224


def draws(p, iteration, *shape):
    result = [p.rng.at((iteration, "mask"), sample).uniform(1, *shape)[0].double().numpy() for sample in range(SAMPLES)]
    return np.stack(result)


def both(theta, u, *options):
    """Value and gradient at theta."""
    fills = [local_mean(z) for z in tosses(theta, u, *options[2:])]
    return objective(theta, u, fills, *options), gradient(lambda q: objective(q, u, fills, *options), theta)


THETA = np.random.default_rng(0).normal(0, 1, (1, CELLS, CELLS)).astype(np.float32)


@pytest.mark.parametrize("iteration", [0, 7, 100])
@pytest.mark.parametrize("experiment", GAMES)
def test_objective_and_gradient(experiment, iteration):
    p = problem(experiment, *SMALL)
    value, g = both(THETA.astype(np.float64), draws(p, iteration, SIDE, SIDE), iteration, GAMES[experiment])
    mine, gradient_of_mine = value_and_gradient(p, THETA, iteration)
    same(mine, value)
    same(gradient_of_mine, g)


def test_coins_of_cells():
    p = problem("fido2019_sdr", "mask.grain=cell", *SMALL)
    value, g = both(THETA.astype(np.float64), draws(p, 3, CELLS, CELLS), 3, 1, "cell")
    mine, gradient_of_mine = value_and_gradient(p, THETA, 3)
    same(mine, value)
    same(gradient_of_mine, g)


@pytest.mark.parametrize("experiment", GAMES)
def test_twenty_steps(experiment):
    p, q, adam = problem(experiment, *SMALL), np.zeros((1, CELLS, CELLS)), Adam(0.05)
    result = trajectory(p)
    for step in range(STEPS):
        g = both(q, draws(p, step, SIDE, SIDE), step, GAMES[experiment])[1]
        q = adam(q, g, 0.05 * (1 - step / STEPS))
        assert np.abs(result[step + 1] - q).max() < 1e-3, step
