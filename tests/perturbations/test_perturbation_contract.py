"""The contract of a perturbation (mpx.perturbations.base), for every option of configs/perturbation."""

from functools import partial

import pytest
import torch
from choices import PERTURBATIONS
from contexts import perturbation_context
from torch import nn
from torchvision.models import VisionTransformer

from mpx import config
from mpx.perturbations.base import PreparedPerturbation, fully_perturbed, prepare
from mpx.randomness import RowRandom

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
OPTIONS = config.options("perturbation")
RNG = RowRandom([1, 2, 3])


def network(channels: int = 3) -> nn.Module:
    """A transformer, which has the tokens and the layers that perturbations inside the network need."""
    torch.manual_seed(0)
    network = VisionTransformer(64, 16, 3, 2, 16, 24, num_classes=3).eval().requires_grad_(False)
    nn.init.normal_(network.heads.head.weight)
    if channels != 3:
        network.conv_proj = nn.Conv2d(channels, 16, 16, 16).requires_grad_(False)
    return network


NETWORK = network()


def other_images(preprocess, shape):
    """For perturbation=bottleneck, which computes the features' mean and spread over these."""
    yield torch.rand(20, *shape, generator=torch.Generator().manual_seed(1))


def prepared(name: str, images: torch.Tensor = IMAGES) -> PreparedPerturbation:
    option = config.option("perturbation", name)
    if "reference_images" in option.keywords:
        option.keywords["reference_images"] = other_images
    return prepare(option, images, perturbation_context(images, NETWORK))


def logits(perturbation: PreparedPerturbation, sample, mask: torch.Tensor) -> torch.Tensor:
    with perturbation.patched_network(*perturbation.network_inputs(sample, mask)):
        return NETWORK(perturbation.apply(sample, mask))


def check_ends(name: str, perturbation: PreparedPerturbation, sample, images: torch.Tensor, net: nn.Module) -> None:
    """Hold a perturbation to its contract under masks of ones and of zeros."""
    ones, zeros = (torch.full((len(images), *perturbation.mask_shape), value) for value in (1.0, 0.0))
    count = f"perturbation={name}, images of {images.shape[1]} channels:"
    assert torch.equal(perturbation.apply(sample, ones), images), f"{count} a mask of ones must give the image itself"
    perturbed = perturbation.apply(sample, zeros)
    assert perturbed.shape == images.shape, f"{count} perturbed images must have the shape of the images"
    assert perturbed.min() >= 0 and perturbed.max() <= 1, f"{count} perturbed images must lie in [0,1]"
    inside = bool(perturbation.network_inputs(sample, zeros))
    changed = torch.equal(perturbed, images) == inside
    assert changed, f"{count} a mask of zeros must change every image, or the network's inside but not the image"
    assert not (inside and perturbation.masks_pixels), f"{count} masks_pixels=True says that nothing is masked inside"
    with perturbation.patched_network(*perturbation.network_inputs(sample, zeros)):
        output = net(perturbed)
    change = (output - net(images)).abs().amax(1).min()
    weak = f"{count} a mask of zeros must change the network's output for every image (by more than 1e-4, here {change:.1g})"
    assert change > 1e-4, weak


@pytest.mark.parametrize("name", OPTIONS)
def test_a_mask_of_ones_keeps_the_image_exactly_and_zeros_change_the_output(name):
    perturbation = prepared(name)
    ones = torch.ones(3, *perturbation.mask_shape)
    for sample in (perturbation.sample(RNG.at(0)), perturbation.fixed_sample(RNG.at("evaluation"))):
        check_ends(name, perturbation, sample, IMAGES, NETWORK)
        torch.testing.assert_close(logits(perturbation, sample, ones), NETWORK(IMAGES), atol=1e-5, rtol=1e-5)
    assert perturbation.masks_pixels == (name in PERTURBATIONS)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_contract_is_told_in_words(channels):
    images = IMAGES[:, :channels]
    idle = prepare(lambda images, context: images.clone(), images, perturbation_context(images))
    words = f"perturbation=idle, images of {channels} channels: a mask of zeros must change every image"
    with pytest.raises(AssertionError, match=words):
        check_ends("idle", idle, idle.sample(RNG), images, nn.Flatten())


@pytest.mark.parametrize("name", [name for name in PERTURBATIONS if name != "generative"])  # whose fill sees the whole mask
def test_a_pixel_depends_on_its_own_mask_and_its_perturbed_value(name):
    perturbation = prepared(name)
    sample, half = perturbation.sample(RNG.at(0)), torch.zeros(3, 1, 64, 64)
    half[..., :30] = 1
    mixed, perturbed = (perturbation.apply(sample, mask) for mask in (half, half * 0))
    assert torch.equal(mixed[..., :30], IMAGES[..., :30]), f"perturbation={name} must keep the pixels where the mask is 1"
    far = torch.equal(mixed[..., 50:], perturbed[..., 50:])  # farther away than the window of local_mean
    assert far, f"perturbation={name}: where the mask is 0, pixels must be as under a mask of zeros"
    change = (perturbed - IMAGES).abs().mean()
    assert change > 0.05, f"perturbation={name} must change noise by more than 0.05 in the mean, and does by {change:.2g}"
    assert torch.equal(perturbation.to_image(half), half)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_gradient_is_alive_at_the_ends_and_in_between(name, value):
    perturbation = prepared(name)
    mask = torch.full((3, *perturbation.mask_shape), value, requires_grad=True)
    sample = perturbation.sample(RNG.at(0))
    if perturbation.masks_pixels:
        change = IMAGES - perturbation.apply(sample, torch.zeros_like(mask)).detach()
        (perturbation.apply(sample, mask) * change).sum().backward()
    else:
        logits(perturbation, sample, mask)[:, 0].sum().backward()
    alive = mask.grad.isfinite().all() and (mask.grad.flatten(1).abs().amax(1) > 1e-6).all()
    assert alive, f"perturbation={name} must have a finite gradient that is not 0 to a mask, also to one of {value}"


@pytest.mark.parametrize("name", OPTIONS)
def test_a_batch_is_its_single_images(name):
    together = prepared(name)
    mask = torch.rand(3, *together.mask_shape, generator=torch.Generator().manual_seed(2))
    sample = together.sample(RNG.at(0))
    outputs, evidence = logits(together, sample, mask), together.to_image(mask)
    assert evidence.shape == (3, 1, 64, 64) and evidence.min() >= 0 and evidence.max() <= 1 + 1e-6
    for row in range(3):
        images = IMAGES[row : row + 1]
        context = perturbation_context(images, NETWORK)
        context.rng.seeds[:] = [row + 1]
        option = config.option("perturbation", name)
        if "reference_images" in option.keywords:
            option.keywords["reference_images"] = other_images
        single = prepare(option, images, context)
        single_sample = single.sample(RowRandom([row + 1]).at(0))
        one = mask[row : row + 1]
        torch.testing.assert_close(single.apply(single_sample, one), together.apply(sample, mask)[row : row + 1])
        torch.testing.assert_close(logits(single, single_sample, one), outputs[row : row + 1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(single.to_image(one), evidence[row : row + 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_gathered_rows_are_the_rows(name):
    first, second = prepared(name), prepared(name, IMAGES.flip(0) * 0.9)
    if first.row_tensors is None:
        return
    parts = [(second, 2), (first, 0), (second, 2), (first, 1)]
    mask = torch.rand(4, *first.mask_shape, generator=torch.Generator().manual_seed(2))
    gathered = first.gathered(parts)
    assert torch.equal(first.images, IMAGES)
    for k, (part, row) in enumerate(parts):
        expected = part.apply(part.sample(RowRandom([7] * 3)), mask[[k] * 3])[row]  # rows of one seed draw the same
        assert torch.equal(gathered.apply(gathered.sample(RowRandom([7] * 4)), mask)[k], expected)


@pytest.mark.parametrize("name", OPTIONS)
def test_fully_perturbed_is_under_a_mask_of_zeros(name):
    option = config.option("perturbation", name)
    if "reference_images" in option.keywords:
        option.keywords["reference_images"] = other_images
    perturbed = fully_perturbed(option, IMAGES, perturbation_context(IMAGES, NETWORK))
    perturbation = prepared(name)
    zeros = torch.zeros(3, *perturbation.mask_shape)
    assert torch.equal(perturbed, perturbation.apply(perturbation.fixed_sample(RNG.at("evaluation")), zeros))


def test_a_perturbation_of_another_shape_is_refused():
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"returned \(2, 8, 8\): it must return \(B,C,H,W\) = \(2, 3, 8, 8\)"):
        prepare(lambda images, context: images[:, 0], images, perturbation_context(images))


@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize("name", OPTIONS)
def test_images_may_have_any_number_of_channels(name, channels):
    option = config.option("perturbation", name)
    if "reference_images" in option.keywords:
        option.keywords["reference_images"] = other_images
    if name == "fade":  # a colour of three channels
        option.keywords["color"] = 0.45
    images = torch.rand(2, channels, 64, 64, generator=torch.Generator().manual_seed(0))
    net = network(channels)
    perturbation = prepare(option, images, perturbation_context(images, net))
    sample = perturbation.sample(RowRandom([1, 2]).at(0))
    check_ends(name, perturbation, sample, images, net)
    assert perturbation.to_image(torch.ones(2, *perturbation.mask_shape)).shape == (2, 1, 64, 64)


@pytest.mark.parametrize("name, options, key", [
    ("blur_gaussian", {"sigma": [5.0, 0, 2.0]}, "sigma"),
    ("noise", {"sigma": [0.2, 0, 0.1], "mean": [0.5, 0.1, 0.9]}, "sigma"),
    ("random_color", {"sigma": [0.2, 0.0, 0.1]}, "sigma"), ("black", {"color": [0.1, 0.5, 0.0]}, "color"),
])  # fmt: skip
def test_each_channel_has_its_strength(name, options, key):
    option = config.option("perturbation", name)

    def perturbed(**options):
        result = prepare(partial(option, **options), IMAGES, perturbation_context(IMAGES))
        return result.apply(result.sample(RNG.at(0)), torch.zeros(3, *result.mask_shape))

    together = perturbed(**options)
    for channel in range(3):
        alone = {name: values[channel] for name, values in options.items()}
        if name == "blur_gaussian" and not alone["sigma"]:
            assert torch.equal(together[:, channel], IMAGES[:, channel])
        else:
            torch.testing.assert_close(together[:, channel], perturbed(**alone)[:, channel])
    for wrong in ([1.0, 1.0], [0.1] * 4, ["a"] * 3, [-1.0] * 3):
        with pytest.raises(ValueError, match=f"{key}="):
            perturbed(**{key: wrong})
