"""Rate-distortion explanations (Macdonald et al. 2019, 2022): the class's logit under noise, k-sparse Frank-Wolfe."""

from functools import partial

import numpy as np
import pytest
import torch
from contexts import mask_context, score_context
from methods.parity import TARGET, problem, same, trajectory, value_and_gradient
from methods.reference import CLASSES, SIDE, backward, bilinear, gradient, logits, photos, softmax

from mpx import config
from mpx.scores import distortion

CELLS, SAMPLES, AREA = 8, 2, 0.1
SMALL = (f"samples={SAMPLES}", "steps=20")
VARIANTS = {
    "class": (),
    "output": ("score.outputs=all", "score.softmax=true"),
    "logits": ("score.outputs=all", "score.softmax=false"),
}


def fills(p, iteration: int) -> list[np.ndarray]:
    """What one iteration's samples put in the place of pixels: clipped noise of ImageNet's mean and spread."""
    draws = [p.rng.at(iteration, s).normal(3, SIDE, SIDE)[0].double().numpy() for s in range(SAMPLES)]
    return [np.clip(0.449 + 0.265 * z, 0, 1) for z in draws]


def both(p: np.ndarray, noise: list[np.ndarray], variant: str = "class") -> tuple[float, np.ndarray]:
    """Distortion at the mask p: (1,h,w), and its gradient, by hand."""
    x, up = photos()[0], bilinear(p.shape[1], SIDE) if p.shape[1] < SIDE else np.eye(SIDE)
    mask, value, slope = up @ p[0] @ up.T, 0.0, np.zeros((SIDE, SIDE))
    there = softmax(logits(x)) if variant == "output" else logits(x)
    for fill in noise:
        seen = mask * x + (1 - mask) * fill
        z = logits(seen)
        difference = (softmax(z) if variant == "output" else z) - there
        if variant == "class":
            difference = difference * (np.arange(CLASSES) == TARGET)
        value += np.sum(difference**2) / len(noise)
        dz = 2 * difference
        if variant == "output":
            dz = softmax(z) * (dz - dz @ softmax(z))
        slope += (backward(seen, dz) * (x - fill)).sum(0) / len(noise)
    return value, (up.T @ slope @ up)[None]


def test_the_hand_made_gradient_is_that_of_finite_differences():
    noise = [np.random.default_rng(1).random((3, SIDE, SIDE)) for _ in range(2)]
    p = np.random.default_rng(0).uniform(0.2, 0.8, (1, 4, 4))
    for variant in VARIANTS:
        same(both(p, noise, variant)[1], gradient(lambda q: both(q, noise, variant)[0], p), 1e-6)  # noqa: B023


@pytest.mark.parametrize("size", ["null", CELLS])
@pytest.mark.parametrize("variant", VARIANTS)
def test_objective_and_gradient(variant, size):
    p = problem("rde2019", *SMALL, *VARIANTS[variant], f"mask_size={size}", area=AREA)
    parameter = np.random.default_rng(0).uniform(0.1, 0.4, p.mask.shape).astype(np.float32).astype(np.float64)
    assert p.mask.shape[1] == (SIDE if size == "null" else CELLS)
    for iteration in (0, 7):
        value, g = value_and_gradient(p, parameter, iteration)
        expected, slope = both(parameter, fills(p, iteration), variant)
        same(value, expected)
        same(g, slope)


@pytest.mark.parametrize("monotone", [True, False])
def test_twenty_steps(monotone):
    p = problem("rde2019", *SMALL, f"mask_size={CELLS}", f"optimizer.monotone={monotone}", area=AREA)
    q, result, halvings = np.zeros((1, CELLS, CELLS)), trajectory(p), 0
    k, seen = round(AREA * CELLS**2), []
    for t, mine in enumerate(result[1:]):
        noise = fills(p, t)
        value, g = both(q, noise)
        corner = np.zeros(CELLS**2)
        corner[np.argsort(g.ravel())[:k]] = 1
        corner = (corner * (g.ravel() < 0)).reshape(q.shape)
        if monotone:
            while both(q + (corner - q) / (2**halvings * np.sqrt(t + 1)), noise)[0] > value:
                halvings += 1
            q = q + (corner - q) / (2**halvings * np.sqrt(t + 1))
        else:
            q = q + 2 / (t + 2) * (corner - q)
        seen.append(np.abs(mine - q).max())
        assert seen[-1] < 1e-3, t
        assert mine.min() >= 0 and mine.max() <= 1 and mine.sum() <= k * (1 + 1e-6)
    assert np.abs(q).max() > 0.3 and np.abs(np.diff(result, axis=0)).max() > 0.05


def test_preset_is_the_papers():
    cfg = config.compose("experiment=rde2019")
    method = config.build_method(cfg)
    assert (method.game, method.areas, method.steps) == ("preservation", (0.1,), 100)  # theirs: 2000, see the preset
    assert cfg.mask_size is None and not method.regularizers
    # its code: the class's activation before the softmax
    assert method.score.keywords == {"outputs": "target", "softmax": False, "from_certainty": False}
    assert method.optimizer.keywords["monotone"] and method.mask(mask_context((224, 224))).shape == (1, 224, 224)


def test_distortion_by_hand():
    random = np.random.default_rng(0)
    original, seen, target = random.normal(0, 2, (4, 6)), random.normal(0, 2, (4, 6)), np.array([0, 5, 2, 2])
    call = partial(distortion, torch.from_numpy(seen), torch.from_numpy(target), score_context(torch.from_numpy(original)))
    p, q = (np.stack([softmax(z) for z in zs]) for zs in (original, seen))
    for options, expected in (
        ({}, -((p - q) ** 2).sum(1)),
        ({"outputs": "target"}, -((p - q) ** 2)[range(4), target]),
        ({"softmax": False}, -((original - seen) ** 2).sum(1)),
        ({"outputs": "target", "softmax": False}, -((original - seen) ** 2)[range(4), target]),
    ):
        np.testing.assert_allclose(call(**options).numpy(), expected, rtol=1e-12)
    same_ = torch.from_numpy(original)
    assert (distortion(same_, torch.from_numpy(target), score_context(same_)) == 0).all()
    with pytest.raises(ValueError, match="score.outputs='class' must be"):
        call(outputs="class")
