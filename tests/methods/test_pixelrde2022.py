"""Pixel RDE (Kolek et al. 2022): one mask value per pixel, noise of the image's mean and spread, Adam."""

import numpy as np
from methods.parity import TARGET, problem, same, trajectory, value_and_gradient
from methods.reference import CLASSES, SIDE, Adam, backward, gradient, logits, photos, softmax

from mpx import config

SAMPLES = 2
SMALL = (f"samples={SAMPLES}", "steps=20", "lr=0.02")


def noise(p, iteration: int) -> list[np.ndarray]:
    x = photos()[0]
    draws = [p.rng.at(iteration, s).normal(3, SIDE, SIDE)[0].double().numpy() for s in range(SAMPLES)]
    return [np.clip(x.mean() + x.std(ddof=1) * z, 0, 1) for z in draws]


def both(m: np.ndarray, draws: list[np.ndarray]) -> tuple[float, np.ndarray]:
    """Objective at m: (1,H,W), and its gradient, by hand."""
    x = photos()[0]
    before = softmax(logits(x))[TARGET]
    value, slope = 4 * m.mean(), np.full(m.shape, 4 / m.size)
    for v in draws:
        seen = m * x + (1 - m) * v
        p = softmax(logits(seen))
        value += (p[TARGET] - before) ** 2 / len(draws)
        dz = 2 * (p[TARGET] - before) * p[TARGET] * ((np.arange(CLASSES) == TARGET) - p)
        slope = slope + (backward(seen, dz) * (x - v)).sum(0, keepdims=True) / len(draws)
    return value, slope


def test_objective_gradient_and_twenty_steps():
    p = problem("pixelrde2022", *SMALL)
    m = np.random.default_rng(0).uniform(0.1, 0.9, (1, SIDE, SIDE)).astype(np.float32).astype(np.float64)
    draws, corner = noise(p, 7), np.s_[:, 2:6, 3:7]
    value, g = value_and_gradient(p, m, 7)
    expected, slope = both(m, draws)
    same(value, expected)
    same(g, slope)

    def moved(part):
        changed = m.copy()
        changed[corner] = part
        return both(changed, draws)[0]

    same(slope[corner], gradient(moved, m[corner], 1e-7), 1e-5)
    q, adam = np.ones((1, SIDE, SIDE)), Adam(0.02)
    for step, mine in enumerate(trajectory(p)[1:]):
        q = np.clip(adam(q, both(q, noise(p, step))[1]), 0, 1)
        assert np.abs(mine - q).max() < 1e-3, step


def test_preset_is_the_authors():
    cfg = config.compose("experiment=pixelrde2022")
    method = config.build_method(cfg)
    assert (method.game, method.steps, cfg.lr, method.samples) == ("preservation", 2001, 0.001, 64)
    assert method.regularizers["l1"][0] == 4.0
