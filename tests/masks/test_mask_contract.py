"""The contract of a mask (mpx.masks.base), for every option of configs/mask, on images that are not square."""

import pytest
import torch
from contexts import mask_context

from mpx import config
from mpx.masks.base import Mask
from mpx.masks.grid import Grid
from mpx.randomness import RowRandom

SIZE = (32, 40)
IMAGES = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))
OPTIONS = config.options("mask")
RNG = RowRandom([1, 2, 3])


def made(name: str, images: torch.Tensor = IMAGES, game: str = "deletion") -> Mask:
    return config.option("mask", name, mask_size=8)(mask_context(SIZE, game, images))


def parameter_of(mask: Mask) -> torch.Tensor:
    """A parameter where the mask has a derivative: away from its first value and from the ends of its range."""
    initial = mask.initial(RNG.at("start"))
    parameter = initial * 0.5 + 0.2 + 0.2 * torch.rand(initial.shape, generator=torch.Generator().manual_seed(0))
    mask.project_(parameter)
    return parameter


@pytest.mark.parametrize("game", ["deletion", "preservation"])
@pytest.mark.parametrize("name", OPTIONS)
def test_shapes_and_range(name, game):
    mask = made(name, game=game)
    parameter = parameter_of(mask)
    assert parameter.shape == (3, *mask.shape) and mask(parameter).shape == (3, 1, *SIZE)
    samples = mask.sample(parameter, RNG.at(0))
    assert len(samples) == mask.count and all(m.shape == (3, 1, *SIZE) for m in samples)
    cells = mask.cells(parameter)
    assert cells.shape[:2] == (3, 1)
    for values in (mask(parameter), cells, *samples):
        assert values.min() >= 0 and values.max() <= 1 + 1e-6 and values.std() > 0.005
    padded = mask.padded(parameter)
    assert torch.equal(mask.crop(padded), mask(parameter)) and 0 < mask.inside(padded) <= padded[0].numel()


@pytest.mark.parametrize("name", OPTIONS)
def test_only_random_masks_draw(name):
    mask = made(name)
    first, again, other = (mask.sample(parameter_of(mask), RNG.at(moment))[0] for moment in (0, 0, 1))
    assert torch.equal(first, again) and torch.equal(first, other) != mask.is_random
    assert mask.is_random or torch.equal(first, mask(parameter_of(mask)))


@pytest.mark.parametrize("name", OPTIONS)
def test_projection_allows_the_first_value_and_changes_nothing_twice(name):
    mask = made(name)
    initial = mask.initial(RNG.at("start"))
    projected = initial.clone()
    mask.project_(projected)
    assert torch.equal(projected, initial)
    far = 9 * torch.randn(initial.shape, generator=torch.Generator().manual_seed(0))
    mask.project_(far)
    twice = far.clone()
    mask.project_(twice)
    assert torch.equal(far, twice) and mask(far).min() >= -1e-6 and mask(far).max() <= 1 + 1e-6


@pytest.mark.parametrize("name", OPTIONS)
def test_rows_are_independent(name):
    mask = made(name)
    parameter = parameter_of(mask)
    for row in range(3):
        single = made(name, IMAGES[row : row + 1])
        torch.testing.assert_close(single(parameter[row : row + 1]), mask(parameter)[row : row + 1])
    changed = parameter.clone()
    changed[1] = changed[1].flip(-1) * 0.9
    assert torch.equal(mask(changed)[[0, 2]], mask(parameter)[[0, 2]]) and not torch.equal(
        mask(changed)[1], mask(parameter)[1]
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_gradient_is_that_of_finite_differences(name):
    mask = made(name).double()
    parameter = parameter_of(mask).double()
    weights = torch.randn(SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((mask(parameter.requires_grad_()) * weights).sum(), parameter)
    with torch.no_grad():
        above, below = ((mask(parameter + h * direction) * weights).sum() for h in (1e-5, -1e-5))
    assert ((above - below) / 2e-5).item() == pytest.approx((gradient * direction).sum().item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", OPTIONS)
def test_gathered_rows_are_the_rows(name):
    first, second = made(name), made(name, IMAGES.flip(0) * 0.9)
    parts = [(second, 2), (first, 0), (second, 2), (first, 1)]
    parameter = parameter_of(first)[[0, 1, 2, 0]]
    before = first(parameter[:3])
    gathered = Mask.gathered(parts)
    assert type(gathered) is type(first) and torch.equal(first(parameter[:3]), before)
    for k, (mask, row) in enumerate(parts):
        rows = parameter[[k] * 3]
        torch.testing.assert_close(gathered(parameter)[k], mask(rows)[row])


def test_a_users_subclass_inherits_its_row_tensors():
    class Softer(Grid):
        pass

    mask = Softer(mask_context(SIZE, images=IMAGES), 8)
    parameter = parameter_of(mask)
    assert torch.equal(Mask.gathered([(mask, 2), (mask, 1)])(parameter[:2]), mask(parameter[:2]))
