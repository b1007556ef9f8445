"""The iterative form of Dabkowski & Gal 2017: both games, random references, margins, the area of m^0.3."""

import numpy as np
import pytest
from contexts import score_context
from methods.parity import TARGET, problem, same, trajectory, value_and_gradient
from methods.reference import SIDE, bilinear, blur, gradient, logits, photos

CELLS, STEPS = 8, 20
SMALL = (f"mask_size={CELLS}", f"steps={STEPS}", "perturbation.sigma=3.0")


def margin(z: np.ndarray) -> float:
    return z[TARGET] - np.delete(z, TARGET).max()


def objective(p: np.ndarray, reference: np.ndarray, noise: np.ndarray) -> float:
    """p: (2,h,w); reference: (3,H,W); noise: (2,3,H,W), standard normal, of the destroyed and of the preserved picture."""
    x, up = photos()[0], bilinear(CELLS, SIDE)
    a, b = np.abs(p)
    m = up @ (a / (a + b + 0.001)) @ up.T  # 1 is evidence
    destroyed = (1 - m) * x + m * reference + 0.015 * noise[0]
    preserved = m * x + (1 - m) * reference + 0.015 * noise[1]
    area = np.mean((m + 0.0005) ** 0.3) - 0.0005**0.3
    smooth = (np.diff(m, axis=0) ** 2).sum() + (np.diff(m, axis=1) ** 2).sum()
    border = sum((edge**2).sum() for edge in (m[0], m[-1], m[:, 0], m[:, -1]))
    score = max(margin(logits(destroyed)), -5) - 0.2 * min(margin(logits(preserved)), 1)
    return score + 11 * area + 0.5 * (smooth + 0.3 * border) / 2


def draws(p, iteration):
    """The reference and the noise of a step."""
    rng = p.rng.at(iteration, 0)
    drawn = rng.uniform(1, 1, 1), rng.uniform(3, 1, 1), rng.normal(3, SIDE, SIDE)
    which, colour, grain = (t[0].double().numpy() for t in drawn)
    reference = blur(photos()[0], 3.0) if which < 0.5 else np.clip(0.5 + 0.33 * (colour - 0.5) + 0.055 * grain, 0, 1)
    rng = p.rng.at((iteration, "augment"), 0)
    return reference, np.stack([rng.normal(3, SIDE, SIDE)[0].double().numpy() for _ in range(2)])


@pytest.mark.parametrize("iteration", range(4))
def test_objective_and_gradient(iteration):
    p, parameter = problem("dabkowski2017", *SMALL), np.random.default_rng(0).uniform(-1, 1, (2, CELLS, CELLS))
    parameter = parameter.astype(np.float32)
    value, g = value_and_gradient(p, parameter, iteration)
    random_draws = draws(p, iteration)
    same(value, objective(parameter.astype(np.float64), *random_draws))
    same(g, gradient(lambda q: objective(q, *random_draws), parameter.astype(np.float64)))


def test_both_references_are_drawn_and_both_margins_are_cut():
    p = problem("dabkowski2017", *SMALL)
    blurred = blur(photos()[0], 3.0)
    assert {bool(np.allclose(draws(p, i)[0], blurred, atol=1e-6)) for i in range(12)} == {True, False}
    score = p.method.score
    z = p.original_logits * 100  # margins far beyond both ends
    for target in range(z.shape[1]):
        m = (z[0, target] - np.delete(z[0].numpy(), target).max()).item()
        at = p.targets * 0 + target
        assert score(z, at, score_context(z)).item() == pytest.approx(max(m, -5), rel=1e-5)
        assert score(z, at, score_context(z, -1.0)).item() == pytest.approx(min(m, 1), rel=1e-5)


def test_twenty_steps():
    """Nesterov's momentum as Sutskever et al. 2013 rewrote it: the step is g + 0.9 v with v = 0.9 v + g."""
    p, q, v = problem("dabkowski2017", *SMALL), np.full((2, CELLS, CELLS), 0.5), 0.0
    result = trajectory(p)
    for step in range(STEPS):
        random_draws = draws(p, step)
        g = gradient(lambda r: objective(r, *random_draws), q)  # noqa: B023
        v = 0.9 * v + g
        q = q - 0.1 * (g + 0.9 * v)
        assert np.abs(result[step + 1] - q).max() < 1e-3, step
