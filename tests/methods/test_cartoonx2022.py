"""CartoonX and WaveletX (Kolek et al. 2022, 2023): masked wavelet coefficients, noise of each scale, squared change."""

import numpy as np
import pytest
from methods.parity import TARGET, problem, same, trajectory, value_and_gradient
from methods.reference import CLASSES, SIDE, Adam, backward, gradient, logits, photos, softmax

from mpx import config

LEVELS, SAMPLES = 3, 2
SMALL = (f"samples={SAMPLES}", f"perturbation.levels={LEVELS}", "steps=20")
LAMBDA = {"cartoonx2022": (20.0, 0.0), "waveletx2023": (2.0, 10.0)}  # of the mask's mean, and of the picture's
# Daubechies 1988: six numbers with three vanishing moments
ROOT = np.sqrt(5 + 2 * np.sqrt(10))
LOW = np.array([
    1 + np.sqrt(10) + ROOT, 5 + np.sqrt(10) + 3 * ROOT, 10 - 2 * np.sqrt(10) + 2 * ROOT,
    10 - 2 * np.sqrt(10) - 2 * ROOT, 5 + np.sqrt(10) - 3 * ROOT, 1 + np.sqrt(10) - ROOT,
]) / (16 * np.sqrt(2))  # fmt: skip
HIGH = LOW[::-1] * np.array([1, -1, 1, -1, 1, -1])


def level(x: np.ndarray, axis: int) -> np.ndarray:
    """One level along an axis, periodic: low frequencies, then details."""
    x, n = np.moveaxis(x, axis, -1), x.shape[axis]
    halves = []
    for taps in (LOW, HIGH):
        halves.append(sum(taps[k] * x[..., (2 * np.arange(n // 2) + k - 2) % n] for k in range(6)))
    return np.moveaxis(np.concatenate(halves, -1), -1, axis)


def level_back(c: np.ndarray, axis: int) -> np.ndarray:
    c, n = np.moveaxis(c, axis, -1), c.shape[axis]
    x = np.zeros_like(c)
    for taps, half in ((LOW, c[..., : n // 2]), (HIGH, c[..., n // 2 :])):
        for k in range(6):
            x[..., (2 * np.arange(n // 2) + k - 2) % n] += taps[k] * half
    return np.moveaxis(x, -1, axis)


def analyse(x: np.ndarray) -> np.ndarray:
    c = x.copy()
    for n in (SIDE >> k for k in range(LEVELS)):
        c[..., :n, :n] = level(level(c[..., :n, :n], -1), -2)
    return c


def synthesise(c: np.ndarray) -> np.ndarray:
    x = c.copy()
    for n in (SIDE >> k for k in reversed(range(LEVELS))):
        x[..., :n, :n] = level_back(level_back(x[..., :n, :n], -1), -2)
    return x


def statistics() -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (H,W) of each coefficient's scale, over its places, orientations and colours."""
    c = analyse(photos()[0])
    mean, std, done = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE), bool)
    for n in [SIDE >> k for k in reversed(range(LEVELS + 1))]:
        here = np.zeros((SIDE, SIDE), bool)
        here[:n, :n] = True
        here &= ~done
        mean[here], std[here], done = c[:, here].mean(), c[:, here].std(ddof=1), done | here
    return mean, std


def noise(p, iteration: int, variant: str) -> list[np.ndarray]:
    mean, std = statistics()
    rngs = [p.rng.at(iteration, s) for s in range(SAMPLES)]
    if variant == "waveletx2023":
        return [mean + std * (2 * rng.uniform(3, SIDE, SIDE)[0].double().numpy() - 1) for rng in rngs]
    return [mean + std * rng.normal(3, SIDE, SIDE)[0].double().numpy() for rng in rngs]


def both(m: np.ndarray, draws: list[np.ndarray], variant: str) -> tuple[float, np.ndarray]:
    """Objective at m: (1,H,W), and its gradient, by hand: the transpose of the synthesis is the analysis."""
    h, (of_mask, of_picture) = analyse(photos()[0]), LAMBDA[variant]
    before = 1.0 if variant == "waveletx2023" else softmax(logits(photos()[0]))[TARGET]
    value, slope = of_mask * m.mean(), np.full(m.shape, of_mask / m.size)
    for v in draws:
        raw = synthesise(m * h + (1 - m) * v)
        p = softmax(logits(np.clip(raw, 0, 1)))
        value += (p[TARGET] - before) ** 2 / len(draws)
        dz = 2 * (p[TARGET] - before) * p[TARGET] * ((np.arange(CLASSES) == TARGET) - p)
        dx = backward(np.clip(raw, 0, 1), dz) * ((raw > 0) & (raw < 1))
        slope = slope + (analyse(dx) * (h - v)).sum(0, keepdims=True) / len(draws)
    picture = synthesise(m * h)
    value += of_picture * np.abs(picture).mean()
    slope = slope + (analyse(of_picture * np.sign(picture) / picture.size) * h).sum(0, keepdims=True)
    return value, slope


def test_the_derivation_is_sound():
    """Its transform is orthogonal, and its hand-made gradient that of finite differences."""
    x = photos()[0]
    np.testing.assert_allclose(synthesise(analyse(x)), x, atol=1e-12)
    np.testing.assert_allclose((analyse(x) ** 2).sum(), (x**2).sum())
    random = np.random.default_rng(0)
    m, (mean, std) = random.uniform(0.2, 0.9, (1, SIDE, SIDE)), statistics()
    draws, corner = [mean + std * random.normal(size=(3, SIDE, SIDE)) for _ in range(2)], np.s_[:, 2:6, 3:7]
    for variant in LAMBDA:

        def value(part):
            moved = m.copy()
            moved[corner] = part
            return both(moved, draws, variant)[0]  # noqa: B023

        same(both(m, draws, variant)[1][corner], gradient(value, m[corner], 1e-7), 1e-5)


@pytest.mark.parametrize("variant", LAMBDA)
def test_objective_and_gradient(variant):
    p = problem(variant, *SMALL)
    m = np.random.default_rng(0).uniform(0.1, 0.9, (1, SIDE, SIDE)).astype(np.float32).astype(np.float64)
    for iteration in (0, 7):
        value, g = value_and_gradient(p, m, iteration)
        expected, slope = both(m, noise(p, iteration, variant), variant)
        same(value, expected)
        same(g, slope)


@pytest.mark.parametrize("lr", [0.001, 0.02])
@pytest.mark.parametrize("variant", LAMBDA)
def test_twenty_steps(variant, lr):
    p = problem(variant, *SMALL, f"lr={lr}")
    q, result, adam = np.ones((1, SIDE, SIDE)), trajectory(p), Adam(lr)
    for step, mine in enumerate(result[1:]):
        q = np.clip(adam(q, both(q, noise(p, step, variant), variant)[1]), 0, 1)
        assert np.abs(mine - q).max() < 1e-3, step
    assert q.min() < 1 - 10 * lr and q.std() > 0


def test_the_distortion_alone_moves_the_mask_as_derived():
    """With so strong an l1 all coefficients fall alike; without it, only the change of the probability moves them."""
    p = problem("cartoonx2022", *SMALL, "lambda_l1=0.01", "lr=0.02", "mask.init=0.5")
    q, result, adam, kept = np.full((1, SIDE, SIDE), 0.5), trajectory(p), Adam(0.02), LAMBDA["cartoonx2022"]
    LAMBDA["cartoonx2022"] = (0.01, 0.0)
    try:
        for step, mine in enumerate(result[1:]):
            q = np.clip(adam(q, both(q, noise(p, step, "cartoonx2022"), "cartoonx2022")[1]), 0, 1)
            assert np.abs(mine - q).max() < 1e-3, step
    finally:
        LAMBDA["cartoonx2022"] = kept
    assert q.max() > 0.6 and q.min() < 0.4


@pytest.mark.parametrize(
    "preset, numbers, weights, noise, from_certainty",
    [
        ("cartoonx2022", (2000, 0.001, 64), {"l1": 20.0}, "gaussian", False),
        ("waveletx2023", (300, 0.1, 16), {"l1": 2.0, "spatial_l1": 10.0}, "uniform", True),
    ],
)
def test_preset_is_the_papers(preset, numbers, weights, noise, from_certainty):
    cfg = config.compose(f"experiment={preset}")
    method = config.build_method(cfg)
    assert method.game == "preservation" and (method.steps, cfg.lr, method.samples) == numbers
    assert method.perturbation.keywords == {"wavelet": "db3", "levels": 5, "noisy": False, "noise": noise}
    assert {name: weight for name, (weight, _) in method.regularizers.items()} == weights
    assert method.score.keywords == {"outputs": "target", "softmax": True, "from_certainty": from_certainty}
