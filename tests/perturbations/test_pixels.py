"""Laws of single perturbations of pixels: blurs, noise, in-painting, local means."""

import math
from functools import partial

import pytest
import torch
from contexts import perturbation_context
from scipy.ndimage import median_filter
from torchvision.transforms.v2.functional import gaussian_blur

from mpx.perturbations import blur
from mpx.perturbations.base import blend
from mpx.perturbations.constant import constant
from mpx.perturbations.inpaint import inpaint
from mpx.perturbations.local_mean import local_mean
from mpx.perturbations.mix import mix
from mpx.perturbations.noise import noise, random_color
from mpx.randomness import RowRandom

PHOTOS = torch.rand(3, 3, 64, 72, generator=torch.Generator().manual_seed(0))
CONTEXT = perturbation_context(PHOTOS)


@pytest.mark.parametrize("levels", [2, 3, 9])
def test_gradient_to_the_mask_is_that_of_finite_differences(levels):
    generator = torch.Generator().manual_seed(1)
    stack = torch.rand(2, levels, 3, 4, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, 1, 4, 5, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: blend(stack, m), mask)


def test_pyramid_is_equation_2_at_its_knots():
    levels = blur.blur_pyramid(PHOTOS, CONTEXT, sigma=6.0, levels=4)
    levels = torch.cat([levels, PHOTOS[:, None]], 1)
    for k in range(4):
        sigma = 6.0 * (1 - k / 4)
        expected = gaussian_blur(PHOTOS, 2 * math.ceil(3 * sigma) + 1, sigma)
        torch.testing.assert_close(blend(levels, torch.full((3, 1, 64, 72), k / 4)), expected)


def test_median_agrees_with_scipy():
    expected = median_filter(PHOTOS.numpy(), size=(1, 1, 11, 11), mode="nearest")
    torch.testing.assert_close(blur.blur_median(PHOTOS, CONTEXT, 11), torch.from_numpy(expected))


def test_inpainting_continues_a_ramp():
    """The biharmonic equation is solved by anything linear, so a tilted plane is filled in exactly."""
    ramp = torch.linspace(0.1, 0.9, 64)[None, :] * torch.ones(64, 1) * 0.5 + torch.linspace(0, 0.4, 64)[:, None]
    ramp = ramp.expand(1, 3, 64, 64)
    inner = (slice(None), slice(None), slice(16, 48), slice(16, 48))
    torch.testing.assert_close(inpaint(ramp, perturbation_context(ramp), 8)[inner], ramp[inner], atol=2e-3, rtol=0)


def test_noise_is_redrawn_at_each_evaluation_or_drawn_once():
    draw, rng = noise(PHOTOS, CONTEXT), CONTEXT.rng
    assert not torch.equal(draw(rng.at(0)), draw(rng.at(1)))
    assert torch.equal(draw(rng.at(1)), draw(rng.at(1)))
    assert isinstance(noise(PHOTOS, perturbation_context(PHOTOS), redraw=False), torch.Tensor)


def test_local_mean_is_of_the_kept_pixels():
    photos = PHOTOS[..., :32, :32]
    perturbation = local_mean(photos, CONTEXT, window=5)
    kept = torch.ones(3, 1, 32, 32)
    kept[..., 16:] = 0
    picture = perturbation.apply(perturbation.sample(CONTEXT.rng), kept)
    assert torch.equal(picture[..., :16], photos[..., :16])
    torch.testing.assert_close(picture[:, :, 10, 16], photos[:, :, 8:13, 14:16].mean((2, 3)))
    torch.testing.assert_close(picture[:, :, 10, 25], photos.mean((2, 3)))  # no kept pixel in the window
    mask = torch.full((3, 1, 32, 32), 0.4, requires_grad=True)
    (g,) = torch.autograd.grad(perturbation.apply(perturbation.sample(CONTEXT.rng), mask).sum(), mask)
    expected = (photos - photos.mean((2, 3), keepdim=True)).sum(1, keepdim=True)
    torch.testing.assert_close(g, expected)  # none through the mean


def test_random_references_have_the_requested_colours():
    x = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)).expand(300, -1, -1, -1)
    context, rng = perturbation_context(x), RowRandom(list(range(300)))
    colors = random_color(x, context, sigma=0.05)(rng.at(0))
    assert colors.std((2, 3)).mean() == pytest.approx(0.05, rel=0.1)
    assert colors.mean((2, 3)).std() == pytest.approx(0.29, rel=0.1)
    draw = mix(x, context, sigma=2.0)
    drawn, blurred = draw(rng.at(0)), mix(x, context, sigma=2.0, blur_probability=1.0)(rng.at(0))
    is_blur = (drawn == blurred).flatten(1).all(1)
    assert 110 < is_blur.sum() < 190 and not torch.equal(drawn, draw(rng.at(1)))
    colored = drawn[~is_blur]
    assert colored.std((2, 3)).mean() == pytest.approx(0.055, rel=0.1)
    assert colored.mean((2, 3)).min() > 0.33 and colored.mean((2, 3)).max() < 0.67


@pytest.mark.parametrize(
    "call, message",
    [
        (partial(blur.blur_gaussian, sigma=40), "sigma=40"),
        (partial(blur.blur_gaussian, sigma=0), "sigma=0"),
        (partial(blur.blur_median, kernel_size=10), "kernel_size=10 must be odd"),
        (partial(blur.blur_median, kernel_size=75), "kernel_size=75"),
        (partial(blur.blur_pyramid, levels=0), "levels=0"),
        (partial(constant, color=[0.5, 2, 0]), "color="),
        (partial(inpaint, tile=40), "tile=40"),
        (partial(local_mean, window=4), "window=4 must be odd"),
        (partial(mix, sigma=3.0, blur_probability=2.0), "perturbation.blur_probability=2.0 must be from 0 to 1"),
        (partial(noise, sigma=-1.0), "perturbation.sigma=-1.0"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(PHOTOS, CONTEXT)
