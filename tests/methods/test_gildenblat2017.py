"""jacobgil/pytorch-explain-black-box, from its description: deletion, median blur, noise, means, anisotropic TV."""

from functools import cache

import numpy as np
import pytest
from methods.parity import TARGET, problem, same, trajectory, value_and_gradient
from methods.reference import SIDE, Adam, bilinear, gradient, logits, photos, softmax
from scipy.ndimage import median_filter

CELLS, STD = 8, np.array([0.229, 0.224, 0.225])
SMALL = (f"mask_size={CELLS}", "steps=20")


@cache
def blurred() -> np.ndarray:
    return median_filter(photos()[0], size=(1, 11, 11), mode="nearest")


def objective(p: np.ndarray, noise: np.ndarray) -> float:
    """p: (1,h,w), 1 keeps; noise: (3,H,W), standard normal."""
    x, up = photos()[0], bilinear(CELLS, SIDE)
    mask = up @ p[0] @ up.T
    seen = mask * x + (1 - mask) * blurred() + 0.2 * STD[:, None, None] * noise
    tv = np.mean(np.abs(np.diff(p[0], axis=0)) ** 3) + np.mean(np.abs(np.diff(p[0], axis=1)) ** 3)
    return softmax(logits(seen))[TARGET] + 0.01 * np.mean(np.abs(1 - p)) + 0.2 * tv


def noise(p, iteration):
    return p.rng.at((iteration, "augment"), 0).normal(3, SIDE, SIDE)[0].double().numpy()


@pytest.mark.parametrize("iteration", [0, 7])
def test_objective_and_gradient(iteration):
    p, parameter = problem("gildenblat2017", *SMALL), np.random.default_rng(0).uniform(0.2, 0.8, (1, CELLS, CELLS))
    value, g = value_and_gradient(p, parameter, iteration)
    draw = noise(p, iteration)
    same(value, objective(parameter, draw))
    same(g, gradient(lambda q: objective(q, draw), parameter))


def test_twenty_steps():
    p, q, adam = problem("gildenblat2017", *SMALL), np.ones((1, CELLS, CELLS)), Adam(0.1)
    result = trajectory(p)
    for step, mine in enumerate(result[1:]):
        draw = noise(p, step)
        q = np.clip(adam(q, gradient(lambda r: objective(r, draw), q)), 0, 1)  # noqa: B023
        assert np.abs(mine - q).max() < 1e-3, step
