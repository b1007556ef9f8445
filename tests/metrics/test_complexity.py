"""Complexity against Quantus and SciPy, and on maps whose numbers are known."""

import math

import numpy as np
import pytest
import torch
from scene import context, random_maps, square
from scipy.stats import entropy

from mpx.metrics.base import as_metric
from mpx.metrics.complexity import complexity as metric_function

N = 1024


def complexity(maps):
    return metric_function(maps, context(len(maps)))


@pytest.mark.slow
def test_gini_and_entropy_are_quantus():
    quantus = pytest.importorskip("quantus")
    maps = torch.cat([random_maps(), random_maps() ** 8])
    given = dict(model=None, x_batch=maps.numpy(), y_batch=np.zeros(4, int), a_batch=maps.double().numpy())
    result, off = complexity(maps), dict(abs=True, normalise=False, disable_warnings=True)
    assert np.allclose(result[""].numpy(), quantus.Sparseness(**off)(**given), atol=1e-5)
    assert np.allclose(result["entropy"].numpy(), quantus.Complexity(**off)(**given), atol=1e-4)


def test_entropy_is_scipys():
    maps = random_maps(1)
    assert complexity(maps)["entropy"].item() == pytest.approx(entropy(maps.flatten().double().numpy()), abs=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.3, 1.0])
def test_constant_maps(constant):
    result = complexity(torch.full((1, 1, 32, 32), constant))
    assert result[""].item() == pytest.approx(0, abs=1e-9)
    assert result["entropy"].item() == pytest.approx(math.log(N)) and result["effective_area"].item() == pytest.approx(1)
    assert result["sparsity"].item() == (constant == 0) and result["area"].item() == (constant >= 0.5)
    assert result["binarity"].item() == pytest.approx(1 - 4 * constant * (1 - constant))


def test_thresholds_of_sparsity_and_area():
    maps = torch.tensor([0.0, 0.9e-5, 1.1e-5, 0.49, 0.5, 1.0]).view(1, 1, 2, 3)
    result = complexity(maps)
    assert result["sparsity"].item() == pytest.approx(2 / 6) and result["area"].item() == pytest.approx(2 / 6)


def test_one_pixel_and_a_square():
    one = torch.zeros(1, 1, 32, 32)
    one[..., 3, 5] = 0.5
    result = complexity(one)
    assert result[""].item() == pytest.approx(1 - 1 / N) and result["entropy"].item() == 0
    result = complexity(square())
    share = 64 / N
    assert result[""].item() == pytest.approx(1 - share) and result["binarity"].item() == 1
    for name in ("effective_area", "area", "mean"):
        assert result[name].item() == pytest.approx(share)
    assert result["sparsity"].item() == pytest.approx(1 - share)


def test_the_simpler_map_is_the_better():
    simple, rich = complexity(square()), complexity(random_maps(1))
    for suffix, value in simple.items():
        higher = as_metric(metric_function).direction_of(suffix) == "higher"
        assert (value > rich[suffix]).item() == higher
