"""Extremal contours, as mpx describes them: a Fourier series for the radius, both games' logits, area asked, bending."""

import numpy as np
import pytest
from methods.parity import TARGET, problem, same, trajectory, value_and_gradient
from methods.reference import SIDE, Adam, blur, gradient, logits, photos

K, STEPS, AREA, LEVELS = 4, 20, 0.1, 3
SMALL = (f"mask.harmonics={K}", f"steps={STEPS}", "perturbation.sigma=3.0", f"perturbation.levels={LEVELS}")


def inside(p: np.ndarray) -> np.ndarray:
    """(H,W) of p: (y, x in tenths of the side, rho, a_1..a_K, b_1..b_K)."""
    place = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    y, x = place[:, None] - 0.1 * p[0], place[None] - 0.1 * p[1]
    angle, k = np.arctan2(y, x)[..., None], np.arange(1, K + 1)
    radius = np.exp(p[2] + ((p[3 : 3 + K] * np.cos(k * angle) + p[3 + K :] * np.sin(k * angle)) / k**2).sum(-1))
    return 1 / (1 + np.exp((np.hypot(y, x) - radius) / 0.02))


def perturbed(mask: np.ndarray) -> np.ndarray:
    """The photo at 1, at 0 blurred by 3 px, and linear between LEVELS + 1 blurs in between."""
    stack = np.stack([blur(photos()[0], 3.0 * (1 - k / LEVELS)) if k < LEVELS else photos()[0] for k in range(LEVELS + 1)])
    return sum(stack[k] * np.clip(1 - np.abs(mask * LEVELS - k), 0, 1) for k in range(LEVELS + 1))


def objective(p: np.ndarray, iteration: int) -> float:
    """p: (1,1,P)."""
    m = inside(p[0, 0])
    r = m.mean() / AREA
    share = AREA * max(np.clip(r**-8, 0.5, 2), min((r - 0.5) / 1.5, 1))
    expected = np.arange(m.size) < round(m.size * share)
    area = np.mean((np.sort(m.ravel())[::-1] - expected) ** 2)
    score = logits(perturbed(1 - m))[TARGET] - logits(perturbed(m))[TARGET]
    return score + 300 * 1.0035**iteration * area + 0.05 * (p[0, 0, 3:] ** 2).sum()


@pytest.mark.parametrize("iteration", [0, 50])
def test_objective_and_gradient(iteration):
    p, parameter = problem("contour2025", *SMALL), np.random.default_rng(0).normal(0, 0.3, (1, 1, 3 + 2 * K))
    parameter[0, 0, 2] = np.log(0.25)
    value, g = value_and_gradient(p, parameter.astype(np.float32), iteration)
    parameter = parameter.astype(np.float32).astype(np.float64)
    same(value, objective(parameter, iteration))
    same(g, gradient(lambda q: objective(q, iteration), parameter))


def test_twenty_steps():
    p, q, adam = problem("contour2025", *SMALL), np.zeros((1, 1, 3 + 2 * K)), Adam(0.05)
    q[0, 0, 2] = np.log(0.3)
    result = trajectory(p)
    same(result[0], q)
    for step in range(STEPS):
        q = adam(q, gradient(lambda r: objective(r, step), q))  # noqa: B023
        q[..., :2], q[..., 2] = np.clip(q[..., :2], -5, 5), np.clip(q[..., 2], np.log(0.02), 0)
        assert np.abs(result[step + 1] - q).max() < 1e-3, step
