"""The masks that explain() finds, on a network whose evidence is known by construction (tests/planted.py: SquareNet)."""

from functools import partial

import pytest
import torch
from choices import GRIDS, PERTURBATIONS, small_perturbation
from planted import SquareNet, square_photo

from mpx import config, explain
from mpx.learning.method import GAMES
from mpx.perturbations.blur import gaussian_blur

NET = SquareNet().eval()
PHOTOS = torch.stack([square_photo(NET, seed) for seed in range(3)])
PLAIN = [game for game in GAMES if game != "product"]  # which needs a mask of two
INSIDE = torch.zeros(32, 32, dtype=torch.bool)
INSIDE[NET.box] = True
KINDS = [(mask, "blur_gaussian") for mask in GRIDS] + [("grid", name) for name in PERTURBATIONS if name != "blur_gaussian"]
# a dual is a deletion and a preservation at once, so each kind has one of these besides
CASES = [(*kind, game) for number, kind in enumerate(KINDS) for game in ("dual", ("deletion", "preservation")[number % 2])]

quick = partial(
    explain, NET, target=1, perturbation=small_perturbation("blur_gaussian"), mask="grid", mask_size=8, steps=40, jitter=0
)


@pytest.mark.parametrize("mask, name, game", CASES)
def test_planted_answer_is_found(game, name, mask):
    """The network looks at one square: the evidence is there, and nowhere else as much."""
    kind = partial(config.option("mask", mask, mask_size=16), **({"sigma": 1.0} if mask == "smooth" else {}))
    options = dict(perturbation=small_perturbation(name), game=game, mask=kind, steps=60, jitter=0, ranking="mask")
    e = explain(NET, PHOTOS[:2], 1, **options)
    inside, outside = e.saliency[:, 0, INSIDE].mean(1), e.saliency[:, 0, ~INSIDE].mean(1)
    limit = 0.12 if mask == "grid" else 0.3  # other kinds of mask may reach beyond the square
    least = 0.4 if name == "blur_pyramid" else 0.6  # half a pyramid blurs enough
    assert (inside > least).all() and (outside < limit).all(), (inside, outside)
    assert torch.allclose(e.saliency[:, 0, INSIDE].amax(1), e.saliency.amax((1, 2, 3)), atol=5e-3)
    kept = game == "preservation"
    assert ((e.value_after > 0.9) if kept else (e.value_after < 0.3)).all() and (e.value_before > 0.99).all()


@pytest.mark.parametrize("score", config.options("score"))
def test_every_score_finds_it(score):
    keeps = score in ("distortion", "log_probability")  # flat where nothing is perturbed yet: made for preservations
    weights = {"lambda_l1": 0.3 if score in ("probability", "top") or keeps else 3.0}
    function = partial(config.option("score", score), **({"classes": 1} if score == "top" else {}))
    e = quick(PHOTOS[:1], score=function, steps=60, game="preservation" if keeps else "deletion", **weights)
    assert e.saliency[:, 0, INSIDE].mean() > 3 * e.saliency[:, 0, ~INSIDE].mean()
    assert e.value_after > 0.9 if keeps else e.value_after < 0.6


@pytest.mark.parametrize("name", [pytest.param("blur_gaussian", marks=pytest.mark.slow), "noise"])
@pytest.mark.parametrize("game", PLAIN)
def test_a_batch_of_three_is_three_single_runs_in_any_order(name, game):
    options = dict(perturbation=small_perturbation(name), game=game, jitter=2, noise=0.05, flip=0.3, samples=2)
    together = quick(PHOTOS, **options)
    backwards = quick(PHOTOS.flip(0), **options)
    assert torch.equal(together.parameter, backwards.parameter.flip(0))
    singles = torch.cat([quick(photo, **options).parameter for photo in PHOTOS])
    torch.testing.assert_close(together.parameter, singles, atol=1e-4, rtol=0)
    split = quick(PHOTOS, batch_size=2, **options)
    torch.testing.assert_close(together.parameter, split.parameter, atol=1e-4, rtol=0)


def test_the_returned_mask_is_the_one_that_was_evaluated():
    e = quick(PHOTOS, jitter=2, noise=0.1)
    blurred = gaussian_blur(PHOTOS, 3.0)
    by_hand = blurred + e.mask * (PHOTOS - blurred)
    torch.testing.assert_close(e.perturbed, by_hand)
    with torch.no_grad():
        torch.testing.assert_close(e.value_after, NET(by_hand).softmax(1)[:, 1])
        torch.testing.assert_close(e.value_reference, NET(blurred).softmax(1)[:, 1])
    assert torch.equal(e.frame_values[-1], e.value_after) and torch.allclose(e.frame_values[0], e.value_before)
    assert torch.equal(e.frame_parameters[-1], e.parameter) and e.iterations[-1] == 40


def test_the_seed_decides():
    options = dict(noise=0.2, jitter=2)
    assert torch.equal(quick(PHOTOS, **options).parameter, quick(PHOTOS, **options).parameter)
    assert not torch.equal(quick(PHOTOS, **options).parameter, quick(PHOTOS, seed=1, **options).parameter)


@pytest.mark.parametrize("init", ["ones", "random", "disc", 0.5])
def test_every_start_reaches_the_answer(init):
    e = quick(PHOTOS, mask=partial(config.option("mask", "grid", mask_size=8), init=init), steps=80)
    assert (e.saliency[:, 0, INSIDE].mean(1) > 2 * e.saliency[:, 0, ~INSIDE].mean(1)).all() and (e.value_after < 0.3).all()


def test_the_users_model_comes_back_as_it_came():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(inplace=True), torch.nn.Dropout(0.5),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3),
    )  # fmt: skip
    net[1].eval()
    net[6].bias.requires_grad_(False)
    calls = []
    net[0].register_forward_hook(lambda *_: calls.append(1))
    state = {k: v.clone() for k, v in net.state_dict().items()}
    modes, flags = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    photos = PHOTOS.clone()
    explain(net, photos, perturbation=small_perturbation("blur_gaussian"), mask_size=4, mask="grid", steps=3)
    assert modes == [m.training for m in net.modules()] and flags == [p.requires_grad for p in net.parameters()]
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters()) and calls and torch.equal(photos, PHOTOS)


def test_the_weights_and_the_precision_reach_the_search():
    area = quick(PHOTOS).area.mean()
    assert quick(PHOTOS, lambda_l1=2.0).area.mean() < area and quick(PHOTOS, lambda_tv=20.0).area.mean() != area
    kinds = []

    class Spy(SquareNet):
        def forward(self, x):
            kinds.append(torch.is_autocast_enabled("cpu"))
            return super().forward(x)

    explain(Spy(), PHOTOS, 1, perturbation="mean_color", mask_size=8, steps=3, precision="bf16")
    assert sum(kinds) == 3  # the search's steps; probabilities are always taken in 32 bits
    kinds.clear()
    explain(Spy(), PHOTOS, 1, perturbation="mean_color", mask_size=8, steps=3)
    assert not any(kinds)


@pytest.mark.parametrize(
    "options, names",
    [
        ({"game": "delete"}, "game='delete' must be one of deletion, preservation, dual, product"),
        ({"steps": 0}, "steps=0"),
        ({"samples": 0}, "samples=0"),
        ({"precision": "64"}, "precision='64'"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS"),
        ({"perturbation": "blur"}, "perturbation='blur' is not an option"),
        ({"mask_size": 64}, "mask_size=64"),
        ({"target": "espresso"}, "espresso"),
        ({"target": 7}, "7"),
        ({"target": torch.tensor([1, 1, 1])}, "target of shape"),
    ],
)
def test_mistakes_are_named(options, names):
    with pytest.raises(ValueError, match=names):
        quick(PHOTOS[:1], **options)


def test_images_that_are_not_in_range_are_refused():
    with pytest.raises(ValueError, match=r"images range from -?\d.*must be in \[0,1\]"):
        quick(PHOTOS * 4 - 2)
    with pytest.raises(ValueError, match="must be"):
        quick(PHOTOS[0, 0])


@pytest.mark.parametrize("mask", ["grid", "bernoulli"])
def test_a_product_needs_two_masks(mask):
    with pytest.raises(ValueError, match="game=product needs a mask of two: mask=pair"):
        quick(PHOTOS[:1], game="product", mask=mask)
