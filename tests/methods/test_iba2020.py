"""Schulz et al. 2020, per-sample bottleneck: noise of the features' mean and spread, cross entropy, information in nats."""

from functools import cache

import numpy as np
import pytest
import torch
from contexts import mask_context
from methods.parity import TARGET, problem, same, trajectory, value_and_gradient
from methods.reference import NETWORK, Adam, gaussian, gradient, photos, softmax
from PIL import Image

from mpx import config

SAMPLES, SMOOTH = 10, gaussian(4, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos that tell the features' mean and spread."""
    path = tmp_path_factory.mktemp("others")
    for i, photo in enumerate(photos(9)):
        Image.fromarray((photo.transpose(1, 2, 0) * 255).round().astype(np.uint8)).save(path / f"{i}.png")
    return path


def features(x: np.ndarray) -> np.ndarray:
    """(3,32,32) -> (12,4,4), what the small network's convolution gives."""
    patches = (x - 0.5).reshape(3, 4, 8, 4, 8).transpose(1, 3, 0, 2, 4)  # (4,4,3,8,8)
    return np.einsum("ijcyx,kcyx->kij", patches, NETWORK.weights[0])


@cache
def statistics(folder) -> tuple[np.ndarray, np.ndarray]:
    """Of each feature, over the photos and their mirror images."""
    views = [np.asarray(Image.open(path)).transpose(2, 0, 1) / 255 for path in sorted(folder.glob("*.png"))]
    result = np.stack([features(v) for x in views for v in (x, x[..., ::-1])])
    return result.mean(0), np.maximum(result.std(0, ddof=1), 0.01)


def objective(alpha: np.ndarray, noise: np.ndarray, folder, beta: float = 10.0) -> float:
    """alpha: (12,4,4); noise: (SAMPLES,12,4,4), standard normal."""
    r, (mean, std) = features(photos()[0]), statistics(folder)
    m = SMOOTH @ (1 / (1 + np.exp(-alpha))) @ SMOOTH.T
    z = m * r + (1 - m) * (mean + std * noise)
    y = np.tanh(z).mean((2, 3)) @ NETWORK.weights[1].T  # (SAMPLES,classes)
    entropy = -np.mean([np.log(softmax(row)[TARGET]) for row in y])
    # KL of N(m (r-mean)/std, (1-m)^2) from N(0,1)
    kl = np.log(1 / (1 - m)) + ((1 - m) ** 2 + (m * (r - mean) / std) ** 2 - 1) / 2
    return entropy + beta * kl.mean()


def noise(p, iteration: int) -> np.ndarray:
    return np.stack([p.rng.at(iteration, k).normal(12, 4, 4)[0].double().numpy() for k in range(SAMPLES)])


def small(folder, *more):
    return problem("iba2020", "perturbation.layer=conv", f"perturbation.reference_images.images={folder}", *more)


@pytest.mark.parametrize("iteration", [0, 7])
def test_objective_and_gradient(folder, iteration):
    p, alpha = small(folder), np.random.default_rng(0).normal(0, 2, (12, 4, 4))
    value, g = value_and_gradient(p, alpha, iteration)
    draw = noise(p, iteration)
    same(value, objective(alpha, draw, folder))
    same(g, gradient(lambda a: objective(a, draw, folder), alpha, 1e-5))


def test_twenty_steps(folder):
    p, alpha, adam = small(folder, "steps=20"), np.full((12, 4, 4), 5.0), Adam(1.0)
    result = trajectory(p)
    assert np.array_equal(result[0], alpha)
    for step, mine in enumerate(result[1:]):
        draw = noise(p, step)
        alpha = adam(alpha, gradient(lambda a: objective(a, draw, folder), alpha, 1e-5))  # noqa: B023
        assert np.abs(mine - alpha).max() < 1e-3 * np.abs(alpha).max(), step
    assert np.abs(alpha - 5).max() > 5


def test_information_is_the_divergence_of_sampled_noise(folder):
    """Monte Carlo: log of the densities' ratio, averaged over what passes."""
    site, random = small(folder).perturbation, np.random.default_rng(0)
    m = torch.full((1, 12, 4, 4), 0.6)
    r = ((site.features - site.mean) / site.std)[0].numpy()
    z = 0.6 * r + 0.4 * random.normal(size=(100_000, 1, 1, 1))
    ratio = -((z - 0.6 * r) ** 2) / (2 * 0.4**2) - np.log(0.4) + z**2 / 2
    np.testing.assert_allclose(site.information(m)[0].numpy(), ratio.mean(0), rtol=0.02, atol=0.02)


def test_preset_is_the_papers():
    cfg = config.compose("experiment=iba2020")
    method = config.build_method(cfg)
    assert (method.steps, method.samples, cfg.lr, cfg.lambda_information) == (
        10,
        10,
        1,
        10,
    ) and method.game == "preservation"
    mask = method.mask(mask_context((12, 14, 14)))
    assert (mask.sigmoid, mask.init) == (True, 5.0) and not method.image_augmentations and not method.input_augmentations
