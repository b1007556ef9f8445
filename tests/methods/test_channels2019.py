"""Fong, Patrick & Vedaldi 2019, section 5: the share of a layer's channels that keeps the logit highest, the others 0."""

from itertools import combinations

import numpy as np
import pytest
import torch
from contexts import mask_context
from methods.parity import TARGET, problem, same, trajectory, value_and_gradient
from methods.reference import NETWORK, gradient, photos

from mpx import config, explain, method

SMALL = ("perturbation.layer=conv", "area=0.25", "steps=20")
KEPT = 3  # of the 12 channels


def logit(m: np.ndarray) -> float:
    """m: (12,1,1). Of the target, where the convolution's channels are multiplied."""
    conv, head = NETWORK.weights
    patches = (photos()[0] - 0.5).reshape(3, 4, 8, 4, 8).transpose(1, 3, 0, 2, 4)  # (4,4,3,8,8)
    features = m * np.einsum("ijcyx,kcyx->kij", patches, conv)
    return (head @ np.tanh(features).mean((1, 2)))[TARGET]


def objective(m: np.ndarray, iteration: int) -> float:
    expected = np.array([0.0] * (12 - KEPT) + [1.0] * KEPT)
    return -logit(m) + 300 * 1.0035**iteration * np.mean((np.sort(m.ravel()) - expected) ** 2)


@pytest.mark.parametrize("iteration", [0, 7])
def test_objective_and_gradient(iteration):
    p, m = problem("channels2019", *SMALL), np.random.default_rng(0).uniform(0, 1, (12, 1, 1))
    value, g = value_and_gradient(p, m, iteration)
    same(value, objective(m, iteration))
    same(g, gradient(lambda q: objective(q, iteration), m))


def test_twenty_steps():
    """Averaged gradients; of equal values, as all are at the start, each is to be 1 in proportion."""
    result = trajectory(problem("channels2019", *SMALL))
    m, average = np.ones((12, 1, 1)), None
    assert np.array_equal(result[0], m)
    for step, mine in enumerate(result[1:]):
        values = m.ravel()
        orders = [np.flatnonzero(values == v) for v in sorted(set(values), reverse=True)]  # equal ones together
        share, left = np.zeros(12), KEPT
        for equal in orders:
            share[equal] = min(1, left / len(equal))
            left -= share[equal].sum()
        pull = 2 / 12 * (values - share) * 300 * 1.0035**step
        g = gradient(lambda q: -logit(q), m) + pull.reshape(m.shape)
        average = g if average is None else 0.9 * average + 0.1 * g
        m = np.clip(m - 0.01 * average, 0, 1)
        assert np.abs(mine - m).max() < 1e-3, step
    assert np.ptp(m) > 0.9


def test_it_finds_the_best_channels():
    """Of all 220 sets of three channels, the one with the highest logit, or nearly."""
    best = {}
    for chosen in combinations(range(12), KEPT):
        m = np.zeros((12, 1, 1))
        m[list(chosen)] = 1
        best[chosen] = logit(m)
    p = problem("channels2019", *SMALL[:2], "steps=300")
    m = trajectory(p)[-1]
    assert ((m < 0.05) | (m > 0.95)).all() and m.sum() == pytest.approx(KEPT, abs=0.1)
    order = sorted(best, key=best.get)
    assert order.index(tuple(np.flatnonzero(m > 0.5))) >= len(order) - 3


def test_preset_is_the_papers():
    cfg = config.compose("experiment=channels2019")
    method = config.build_method(cfg)
    assert (method.steps, method.areas, method.game, cfg.lr) == (800, (0.1,), "preservation", 0.01)
    assert method.optimizer.keywords | {"momentum": 0.9, "dampening": 0.9} == method.optimizer.keywords
    weight, area = method.regularizers["area"]
    assert weight == 300 and area.keywords["growth"] == 1.0035 and method.mask(mask_context((12, 1, 1))).shape == (12, 1, 1)


def test_the_result_names_the_channels():
    e = explain(NETWORK, torch.from_numpy(photos()).float(), TARGET, method=method("channels2019", *SMALL[:2], "steps=300"))
    assert e.parameter.shape == (1, 12, 1, 1) and (e.parameter > 0.5).sum() == KEPT
    assert e.saliency.shape == (1, 1, 32, 32) and e.saliency.max() == 1 and e.saliency.min() >= 0
