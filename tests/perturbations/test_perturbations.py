import math
from functools import partial

import pytest
import torch
from choices import PERTURBATIONS
from scipy.ndimage import median_filter
from torchvision.transforms.v2.functional import gaussian_blur

from mpx import config
from mpx.learning.method import Method
from mpx.learning.objective import Objective
from mpx.perturbations import blur as perturbations
from mpx.perturbations.blur import blend
from mpx.randomness import RowRandom

PHOTOS = torch.rand(3, 3, 64, 72, generator=torch.Generator().manual_seed(0))


def levels_of(name, photos=PHOTOS):
    """A search's prepared levels, with a network that nobody asks."""
    method = Method(config.option("perturbation", name), config.option("mask", "grid", mask_size=8), lambda *_: 0)
    targets = torch.zeros(len(photos), dtype=torch.long)
    problem = Objective(method, lambda x: x.mean((2, 3)), photos, targets, ["a", "b", "c"])
    return problem.site.draw(problem.rng.at("evaluation"))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_contract(name):
    """m=1 is the photo to the bit, m=0 another picture in [0,1], and m=1 in one place changes only the rest."""
    levels = levels_of(name)
    assert levels.shape[0] == 3 and levels.shape[2:] == PHOTOS.shape[1:]
    assert torch.equal(blend(levels, torch.ones(3, 1, 64, 72)), PHOTOS)
    nothing = blend(levels, torch.zeros(3, 1, 64, 72))
    assert torch.equal(nothing, levels[:, 0]) and (nothing - PHOTOS).abs().mean() > 0.05
    assert nothing.min() >= 0 and nothing.max() <= 1
    half = torch.zeros(3, 1, 64, 72)
    half[..., :30] = 1
    mixed = blend(levels, half)
    assert torch.equal(mixed[..., :30], PHOTOS[..., :30]) and torch.equal(mixed[..., 30:], nothing[..., 30:])


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_batch_is_its_single_photos(name):
    batch = levels_of(name)
    singles = [levels_of(name, PHOTOS[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(batch, torch.cat(singles), atol=1e-6, rtol=0)


@pytest.mark.parametrize("levels", [2, 3, 9])
def test_gradient_to_the_mask_is_that_of_finite_differences(levels):
    generator = torch.Generator().manual_seed(1)
    stack = torch.rand(2, levels, 3, 4, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, 1, 4, 5, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: blend(stack, m), mask)


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_gradient_is_alive_at_the_ends_and_at_knots(name, value):
    mask = torch.full((3, 1, 64, 72), value, requires_grad=True)
    levels = levels_of(name)
    (blend(levels, mask) * (levels[:, -1] - levels[:, 0])).sum().backward()
    assert mask.grad.abs().mean() > 1e-3


def test_pyramid_is_equation_2_at_its_knots():
    levels = perturbations.blur_pyramid(PHOTOS, sigma=6.0, levels=4)
    levels = torch.cat([levels, PHOTOS[:, None]], 1)
    for k in range(4):
        sigma = 6.0 * (1 - k / 4)
        expected = gaussian_blur(PHOTOS, 2 * math.ceil(3 * sigma) + 1, sigma)
        torch.testing.assert_close(blend(levels, torch.full((3, 1, 64, 72), k / 4)), expected)


def test_median_agrees_with_scipy():
    expected = median_filter(PHOTOS.numpy(), size=(1, 1, 11, 11), mode="nearest")
    torch.testing.assert_close(perturbations.blur_median(PHOTOS, 11), torch.from_numpy(expected))


def test_inpainting_continues_a_ramp():
    """The biharmonic equation is solved by anything linear, so a tilted plane is filled in exactly."""
    ramp = torch.linspace(0.1, 0.9, 64)[None, :] * torch.ones(64, 1) * 0.5 + torch.linspace(0, 0.4, 64)[:, None]
    ramp = ramp.expand(1, 3, 64, 64)
    inner = (slice(None), slice(None), slice(16, 48), slice(16, 48))
    torch.testing.assert_close(perturbations.inpaint(ramp, 8)[inner], ramp[inner], atol=2e-3, rtol=0)


def test_fresh_noise_is_new_each_step_and_fixed_noise_is_not():
    rng = RowRandom([1, 2, 3])
    fresh = perturbations.noise(PHOTOS, rng)
    assert not torch.equal(fresh(rng.at(0)), fresh(rng.at(1)))
    assert torch.equal(fresh(rng.at(1)), fresh(rng.at(1)))
    assert isinstance(perturbations.noise(PHOTOS, rng, fresh=False), torch.Tensor)


@pytest.mark.parametrize(
    "call, names",
    [
        (partial(perturbations.blur_gaussian, sigma=40), "sigma=40"),
        (partial(perturbations.blur_gaussian, sigma=0), "sigma=0"),
        (partial(perturbations.blur_median, kernel_size=10), "kernel_size=10 must be odd"),
        (partial(perturbations.blur_median, kernel_size=75), "kernel_size=75"),
        (partial(perturbations.blur_pyramid, levels=0), "levels=0"),
        (partial(perturbations.inpaint, tile=40), "tile=40"),
    ],
)
def test_what_cannot_be_is_named(call, names):
    with pytest.raises(ValueError, match=names):
        call(PHOTOS)
