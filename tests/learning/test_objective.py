"""Laws of the objective of a batch of rows."""

from functools import partial

import pytest
import torch
from choices import small_perturbation
from contexts import augmentation_context
from planted import SquareNet, square_photo

from mpx import augmentations as augment
from mpx import config
from mpx.learning.method import GAMES, Method
from mpx.learning.objective import Objective
from mpx.models.classifier import Classifier

NET = SquareNet().eval()
PHOTOS = torch.stack([square_photo(NET, seed) for seed in range(3)])
PLAIN = [game for game in GAMES if game != "product"]  # which needs a mask of two


class InDouble(Classifier):
    """Computes in 64 bits, whatever it is given."""

    def forward(self, x):
        return self.network(x.double())


def objective(game="deletion", **options) -> Objective:
    method = Method(
        small_perturbation("blur_gaussian"),
        config.option("mask", "smooth", mask_size=6),
        config.option("score", "probability"),
        {"l1": (0.3, config.option("regularizer", "l1")), "tv": (0.2, config.option("regularizer", "tv"))},
        game=game,
        **options,
    )
    double = Classifier(SquareNet().requires_grad_(False)).double()
    return Objective(method, InDouble(double), PHOTOS[:2], torch.tensor([1, 0]), ["a", "b"])


@pytest.mark.parametrize("game", PLAIN)
def test_gradient_of_the_objective_is_that_of_finite_differences(game):
    problem = objective(game)
    problem.output = problem.classifier  # without the cast to 32 bits
    problem.perturbation.levels, problem.images = problem.perturbation.levels.double(), problem.images.double()
    problem.original_logits = problem.original_logits.double()
    problem.mask.double()
    parameter = torch.rand(2, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda p: problem.terms(p, 0)["total"], parameter.requires_grad_())


@pytest.mark.parametrize("game", PLAIN)
def test_terms_add_up_and_doing_nothing_costs_nothing(game):
    problem = objective(game)
    nothing = torch.zeros(2, 1, 6, 6) if game == "preservation" else torch.ones(2, 1, 6, 6)
    terms = problem.terms(nothing, 0)
    assert terms["l1"].tolist() == terms["tv"].tolist() == [0, 0]
    assert terms["area"].abs().max() < 1e-6  # the mask of ones is one up to rounding
    terms = problem.terms(torch.rand(2, 1, 6, 6), 0)
    torch.testing.assert_close(terms["total"], terms["score"] + terms["l1"] + terms["tv"])
    assert all(term.shape == (2,) for term in terms.values())


def test_a_dual_is_a_deletion_and_a_preservation_of_the_same_evidence():
    mask = torch.rand(2, 1, 6, 6)
    both = objective("dual").terms(mask, 0)["score"]
    apart = objective("deletion").terms(mask, 0)["score"] + objective("preservation").terms(1 - mask, 0)["score"]
    torch.testing.assert_close(both, apart)


def test_more_samples_are_averaged():
    """One sample drawn twice is that sample; the score of two draws is the mean of both."""
    noisy = dict(input_augmentations=[lambda x, context: x + 0.3 * context.rng.normal(*x.shape[1:])])
    mask = torch.full((2, 1, 6, 6), 0.5)
    two = objective(samples=2, **noisy)
    first, second = objective(**noisy), objective(**noisy)
    second.rng = type("Second", (), {"at": lambda self, i, s: two.rng.at(i, 1)})()
    mean = (first.terms(mask, 0)["score"] + second.terms(mask, 0)["score"]) / 2
    torch.testing.assert_close(two.terms(mask, 0)["score"], mean)


@pytest.mark.parametrize("top, left, center", [(12, 12, [0.5, 0.5]), (22, 2, [6 / 32, 26 / 32])])
def test_disc_is_the_smallest_around_its_center_that_takes_99_percent(top, left, center):
    net = SquareNet(top=top, left=left, gain=60.0)  # fully perturbed it gives exp(-6)
    photo = square_photo(net)[None]
    method = Method(
        small_perturbation("mean_color"),
        partial(config.option("mask", "grid", mask_size=32), init="disc", center=center),
        config.option("score", "probability"),
    )
    problem = Objective(method, Classifier(net.requires_grad_(False)), photo, torch.tensor([1]), ["a"])

    def left(parameter):  # of the score, relative to the fully perturbed photo's
        p = problem.evaluate(problem.mask(parameter))[1].softmax(1)[:, 1]
        return (p - problem.value_reference) / (problem.value_before - problem.value_reference)

    start = problem.initial()
    assert left(start) <= 0.01
    radius = ((start == 0).sum().item() / torch.pi) ** 0.5
    assert left(problem.mask.disc(radius - 5)) > 0.01


def test_a_preservation_starts_from_the_same_disc():
    method = dict(
        mask=partial(config.option("mask", "grid", mask_size=16), init="disc"), score=config.option("score", "logit")
    )
    targets = torch.tensor([1, 1, 1])
    deletion, preservation = (
        Objective(
            Method(small_perturbation("mean_color"), **method, game=game), Classifier(NET), PHOTOS, targets, ["a"] * 3
        )
        for game in ("deletion", "preservation")
    )
    assert torch.equal(deletion.evidence(deletion.initial()), preservation.evidence(preservation.initial()))


def seen_by_network(mask_value, **options):
    """The pictures that the network is shown by one evaluation of the objective under a constant mask."""
    problem, seen = objective(**options), []
    problem.classifier = lambda x: seen.append(x) or torch.zeros(len(x), 2)
    problem.terms(torch.full((2, 1, 6, 6), float(mask_value)), 0)
    return seen[0], problem.perturbation.levels


def test_jitter_moves_photo_and_perturbed_photo_alike():
    jitter = dict(image_augmentations=[partial(augment.jitter, pixels=3)])
    rng = objective(**jitter).rng.at((0, "augment"), 0)
    expected = augment.jitter(seen_by_network(1)[1].flatten(1, 2), augmentation_context(rng), 3).view(2, 2, 3, 32, 32)
    for mask_value, level in ((1, 1), (0, 0)):  # all kept: the moved photo; all perturbed: its blur, moved as far
        moved, levels = seen_by_network(mask_value, **jitter)
        torch.testing.assert_close(moved, expected[:, level], atol=1e-5, rtol=0)
        assert not torch.allclose(moved, levels[:, level], atol=1e-3)


def test_noise_is_added_to_what_the_network_sees():
    clean, noisy = (seen_by_network(0.5, **o)[0] for o in ({}, {"input_augmentations": [partial(augment.noise, sigma=0.2)]}))
    assert (noisy - clean).std().item() == pytest.approx(0.2, rel=0.05)


def test_an_augmentation_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"returned \(2, 3, 9, 32\): it must return \(B,C,H,W\) = \(2, 3, 32, 32\)"):
        seen_by_network(0.5, input_augmentations=[lambda x, context: x[:, :, :9]])


def test_fresh_noise_is_drawn_anew_each_step():
    method = Method(config.option("perturbation", "noise"), config.option("mask", "grid", mask_size=6), lambda *_: 0)
    problem = Objective(method, Classifier(NET), PHOTOS, torch.tensor([1, 1, 1]), ["a", "b", "c"])
    draw = lambda iteration: problem.perturbation.sample(problem.rng.at(iteration))  # noqa: E731
    assert not torch.equal(draw(0), draw(1)) and torch.equal(draw(1), draw(1))


def test_random_numbers_depend_on_the_seed_and_the_iteration_alone():
    def draw(photos, targets, iteration, seed=0):
        method = Method(
            config.option("perturbation", "noise"), config.option("mask", "grid", mask_size=6), lambda *_: 0, seed=seed
        )
        objective = Objective(method, Classifier(NET), photos, torch.tensor(targets), ["a", "b"])
        return objective.perturbation.sample(objective.rng.at(iteration))[:, 0]  # the image's place under the mask 0

    first = draw(PHOTOS[:2], [0, 0], 3)
    assert torch.equal(first[0], first[1]) and torch.equal(first, draw(PHOTOS[1:], [1, 0], 3))
    others = draw(PHOTOS[:2], [0, 0], 4), draw(PHOTOS[:2], [0, 0], 3, seed=1)
    assert not any(torch.equal(first, other) for other in others)
