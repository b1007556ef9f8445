import pytest
import torch
import torch.nn.functional as F
from contexts import mask_context
from torchvision.transforms.v2.functional import gaussian_blur

from mpx.masks.grid import Grid
from mpx.randomness import RowRandom

P = torch.rand(2, 1, 7, 9, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("upsample", ["linear", "nearest"])
@pytest.mark.parametrize("sigma", [0.0, 2.0, 5.0])
def test_equals_interpolation_followed_by_torchvisions_blur(upsample, sigma):
    mode = {"mode": "bilinear", "align_corners": False} if upsample == "linear" else {"mode": "nearest"}
    expected = F.interpolate(P, size=(48, 40), **mode)
    if sigma:
        expected = gaussian_blur(expected, [int(6 * sigma) + 1] * 2, [sigma] * 2)
    torch.testing.assert_close(Grid(mask_context((48, 40)), [7, 9], sigma, upsample)(P), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [1, 2, 28, 40, [40, 48], [3, 17]])
def test_any_size_keeps_a_constant_and_stays_in_range(size):
    grid = Grid(mask_context((40, 48)), size, sigma=3.0)
    for value in (0.0, 0.3, 1.0):
        flat = grid(torch.full((1, *grid.shape), value))
        torch.testing.assert_close(flat, torch.full((1, 1, 40, 48), value))
    noise = grid(torch.rand(4, *grid.shape))
    assert noise.shape == (4, 1, 40, 48) and noise.min() >= 0 and noise.max() <= 1 + 1e-6


def test_gradient_flows_through_the_smoothing():
    grid = Grid(mask_context((24, 24)), 5, sigma=2.0)
    grid.double()
    assert torch.autograd.gradcheck(grid, torch.rand(1, 1, 5, 5, dtype=torch.float64, requires_grad=True))


def test_initial_and_projection():
    rng = RowRandom([1, 2])
    assert (Grid(mask_context((32, 32)), 8)(Grid(mask_context((32, 32)), 8).initial(rng)) == 1).all()
    assert (Grid(mask_context((32, 32)), 8, init=0.25).initial(rng) == 0.25).all()
    drawn = Grid(mask_context((32, 32)), 8, init="random").initial(rng)
    assert drawn.std() > 0.2 and not torch.equal(drawn[0], drawn[1])
    parameter = torch.tensor([-1.0, 0.5, 2.0])
    Grid(mask_context((32, 32)), 8).project_(parameter)
    assert parameter.tolist() == [0, 0.5, 1]


def test_disc_has_its_area():
    grid = Grid(mask_context((224, 224)), 56)
    for radius in (20, 50, 100):
        area = (1 - grid(grid.disc(radius))).sum().item()
        assert area == pytest.approx(3.14159 * radius**2, rel=0.05)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mask_size": 33}, "mask_size=33"),
        ({"center": [0.5, 1.5]}, r"mask.center=\[0.5, 1.5\]"),
        ({"mask_size": 0}, "mask_size=0"),
        ({"mask_size": [4]}, "mask_size"),
        ({"mask_size": 2.5}, "mask_size=2.5"),
        ({"sigma": 20.0}, "mask.sigma=20.0"),
        ({"init": "zeros"}, "mask.init='zeros'"),
        ({"init": 2}, "mask.init=2"),
        ({"upsample": "cubic"}, "mask.upsample='cubic'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Grid(mask_context((32, 32)), **{"mask_size": 8, **options})
