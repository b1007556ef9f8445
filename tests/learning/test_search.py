"""Laws of the search, on a network whose evidence is known by construction (tests/planted.py: SquareNet)."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from choices import GRIDS, PERTURBATIONS
from contexts import augmentation_context
from planted import SquareNet, square_photo
from trainers import cpu_trainer

from mpx import Classifier, config, explain
from mpx import augmentations as augment
from mpx.learning.batch import RowBatch, snapshot_iterations
from mpx.learning.batching import solve
from mpx.learning.fitting import fit
from mpx.learning.learner import BatchLearner
from mpx.learning.loop import optimize
from mpx.learning.method import GAMES, Method
from mpx.learning.objective import Objective
from mpx.learning.rows import Row
from mpx.perturbations.blur import gaussian_blur

NET = SquareNet().eval()
PHOTOS = torch.stack([square_photo(NET, seed) for seed in range(3)])
PLAIN = [game for game in GAMES if game != "product"]  # which needs a mask of two
INSIDE = torch.zeros(32, 32, dtype=torch.bool)
INSIDE[NET.box] = True
SMALL = {
    "blur_gaussian": {"sigma": 3.0},
    "blur_pyramid": {"sigma": 3.0},
    "blur_mean": {"sigma": 3.0},
    "inpaint": {"tile": 4},
    "local_mean": {"window": 7},
    "mix": {"sigma": 3.0},
}
# every mask with one perturbation, every perturbation with one mask
PAIRS = [(mask, "blur_gaussian") for mask in GRIDS] + [("grid", name) for name in PERTURBATIONS if name != "blur_gaussian"]


def perturbation(name):
    """The option, at a strength that fits photos of 32 pixels."""
    return partial(config.option("perturbation", name), **SMALL.get(name, {}))


quick = partial(
    explain, NET, target=1, perturbation=perturbation("blur_gaussian"), mask="grid", mask_size=8, steps=40, jitter=0
)


@pytest.mark.parametrize("game", PLAIN)
@pytest.mark.parametrize("mask, name", PAIRS)
def test_planted_answer_is_found(game, name, mask):
    """The network looks at one square: the evidence is there, and nowhere else as much."""
    kind = partial(config.option("mask", mask, mask_size=16), **({"sigma": 1.0} if mask == "smooth" else {}))
    e = explain(NET, PHOTOS[:2], 1, perturbation=perturbation(name), game=game, mask=kind, steps=60, jitter=0)
    inside, outside = e.saliency[:, 0, INSIDE].mean(1), e.saliency[:, 0, ~INSIDE].mean(1)
    assert (inside > 0.6).all() and (outside < (0.3 if mask == "smooth_max" else 0.12)).all(), (inside, outside)  # bumps
    assert torch.allclose(e.saliency[:, 0, INSIDE].amax(1), e.saliency.amax((1, 2, 3)), atol=5e-3)
    kept = game == "preservation"
    assert ((e.p_after > 0.9) if kept else (e.p_after < 0.3)).all() and (e.p_before > 0.99).all()


@pytest.mark.parametrize("score", config.options("score"))
def test_every_score_finds_it(score):
    keeps = score in ("distortion", "log_probability")  # flat where nothing is perturbed yet: made for preservations
    weights = {"lambda_l1": 0.3 if score in ("probability", "top") or keeps else 3.0}
    function = partial(config.option("score", score), **({"classes": 1} if score == "top" else {}))
    e = quick(PHOTOS[:1], score=function, steps=60, game="preservation" if keeps else "deletion", **weights)
    assert e.saliency[:, 0, INSIDE].mean() > 3 * e.saliency[:, 0, ~INSIDE].mean()
    assert e.p_after > 0.9 if keeps else e.p_after < 0.6


@pytest.mark.parametrize("name", ["blur_gaussian", "noise"])
@pytest.mark.parametrize("game", PLAIN)
def test_a_batch_of_three_is_three_single_runs_in_any_order(name, game):
    options = dict(perturbation=perturbation(name), game=game, jitter=2, noise=0.05, flip=0.3, samples=2)
    together = quick(PHOTOS, **options)
    backwards = quick(PHOTOS.flip(0), **options)
    assert torch.equal(together.parameter, backwards.parameter.flip(0))
    singles = torch.cat([quick(photo, **options).parameter for photo in PHOTOS])
    torch.testing.assert_close(together.parameter, singles, atol=1e-4, rtol=0)
    split = quick(PHOTOS, batch_size=2, **options)
    torch.testing.assert_close(together.parameter, split.parameter, atol=1e-4, rtol=0)


@pytest.mark.parametrize("optimizer, scheduler", [("adam", None), ("sgd", "cosine"), ("adam", "linear")])
def test_library_equals_trainer(optimizer, scheduler):
    """explain()'s plain loop and Lightning's fit give the same bits, curves and snapshots included."""
    options = dict(jitter=2, noise=0.05, optimizer=optimizer, scheduler=scheduler)
    library = quick(PHOTOS, **options)
    root = {"mask_size": 8, "lr": 0.1, "steps": 40, "jitter": 2, "noise": 0.05}
    option = partial(config.option, **root)
    method = Method(
        perturbation("blur_gaussian"),
        option("mask", "grid"),
        option("score", "probability"),
        {"l1": (0.3, option("regularizer", "l1")), "tv": (0.2, option("regularizer", "tv"))},
        [option("augment", "jitter")],
        [option("augment", "noise")],
        steps=40,
        optimizer=option("optimizer", optimizer),
        scheduler=scheduler and option("scheduler", scheduler),
    )
    classifier = Classifier(NET)
    with classifier.frozen():
        rows = [Row(photo, 1, f"image{i}") for i, photo in enumerate(PHOTOS)]
        trained, failures = solve(method, classifier, rows, lambda batch: fit(batch, cpu_trainer()))
    assert not failures
    assert torch.equal(library.parameter, trained.parameter)
    assert torch.equal(library.frame_parameters, trained.frame_parameters) and torch.equal(library.p_after, trained.p_after)
    for term, curve in library.curves.items():
        assert torch.equal(curve, trained.curves[term]), term


def objective(game="deletion", **options) -> Objective:
    method = Method(
        perturbation("blur_gaussian"),
        config.option("mask", "smooth", mask_size=6),
        config.option("score", "probability"),
        {"l1": (0.3, config.option("regularizer", "l1")), "tv": (0.2, config.option("regularizer", "tv"))},
        game=game,
        **options,
    )
    double = SquareNet().double().requires_grad_(False)
    return Objective(method, lambda x: double(x.double()), PHOTOS[:2], torch.tensor([1, 0]), ["a", "b"])


@pytest.mark.parametrize("game", PLAIN)
def test_gradient_of_the_objective_is_that_of_finite_differences(game):
    problem = objective(game)
    problem.logits = problem.classifier  # without the cast to 32 bits
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


def test_the_returned_mask_is_the_one_that_was_evaluated():
    e = quick(PHOTOS, jitter=2, noise=0.1)
    blurred = gaussian_blur(PHOTOS, 3.0)
    by_hand = blurred + e.mask * (PHOTOS - blurred)
    torch.testing.assert_close(e.perturbed, by_hand)
    with torch.no_grad():
        torch.testing.assert_close(e.p_after, NET(by_hand).softmax(1)[:, 1])
        torch.testing.assert_close(e.p_reference, NET(blurred).softmax(1)[:, 1])
    assert torch.equal(e.frame_p[-1], e.p_after) and torch.allclose(e.frame_p[0], e.p_before)
    assert torch.equal(e.frame_parameters[-1], e.parameter) and e.iterations[-1] == 40
    assert torch.equal(e.saliency, 1 - e.mask)


def test_the_seed_decides():
    options = dict(noise=0.2, jitter=2)
    assert torch.equal(quick(PHOTOS, **options).parameter, quick(PHOTOS, **options).parameter)
    assert not torch.equal(quick(PHOTOS, **options).parameter, quick(PHOTOS, seed=1, **options).parameter)


def test_more_samples_are_averaged():
    """One sample drawn twice is that sample; the score of two draws is the mean of both."""
    noisy = dict(input_augmentations=[lambda x, context: x + 0.3 * context.rng.normal(*x.shape[1:])])
    mask = torch.full((2, 1, 6, 6), 0.5)
    two = objective(samples=2, **noisy)
    first, second = objective(**noisy), objective(**noisy)
    second.rng = type("Second", (), {"at": lambda self, i, s: two.rng.at(i, 1)})()
    mean = (first.terms(mask, 0)["score"] + second.terms(mask, 0)["score"]) / 2
    torch.testing.assert_close(two.terms(mask, 0)["score"], mean)


@pytest.mark.parametrize("init", ["ones", "random", "disc", 0.5])
def test_every_start_reaches_the_answer(init):
    e = quick(PHOTOS, mask=partial(config.option("mask", "grid", mask_size=8), init=init), steps=80)
    assert (e.saliency[:, 0, INSIDE].mean(1) > 2 * e.saliency[:, 0, ~INSIDE].mean(1)).all() and (e.p_after < 0.3).all()


def test_disc_is_the_smallest_that_takes_99_percent():
    net = SquareNet(top=12, left=12, gain=60.0)  # centred; fully perturbed it gives exp(-6)
    photo = square_photo(net)[None]
    method = Method(
        perturbation("mean_color"),
        partial(config.option("mask", "grid", mask_size=32), init="disc"),
        config.option("score", "probability"),
    )
    problem = Objective(method, net.requires_grad_(False), photo, torch.tensor([1]), ["a"])

    def left(parameter):  # of the score, relative to the fully perturbed photo's
        p = problem.evaluate(problem.mask(parameter))[1]
        return (p - problem.p_reference) / (problem.p_before - problem.p_reference)

    start = problem.initial()
    assert left(start) <= 0.01
    radius = ((start == 0).sum().item() / torch.pi) ** 0.5
    assert left(problem.mask.disc(radius - 5)) > 0.01


def test_a_preservation_starts_from_the_same_disc():
    method = dict(
        mask=partial(config.option("mask", "grid", mask_size=16), init="disc"), score=config.option("score", "logit")
    )
    deletion, preservation = (
        Objective(Method(perturbation("mean_color"), **method, game=game), NET, PHOTOS, torch.tensor([1, 1, 1]), ["a"] * 3)
        for game in ("deletion", "preservation")
    )
    assert torch.equal(deletion.evidence(deletion.initial()), preservation.evidence(preservation.initial()))


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
    explain(net, photos, perturbation=perturbation("blur_gaussian"), mask_size=4, mask="grid", steps=3)
    assert modes == [m.training for m in net.modules()] and flags == [p.requires_grad for p in net.parameters()]
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters()) and calls and torch.equal(photos, PHOTOS)


def test_only_the_mask_is_learnt_and_stored():
    module = BatchLearner(RowBatch(objective(steps=2)))
    assert [name for name, _ in module.named_parameters()] == ["parameter"] == list(module.state_dict())


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
        assert not torch.allclose(moved, levels[:, level], atol=1e-2)


def test_noise_is_added_to_what_the_network_sees():
    clean, noisy = (seen_by_network(0.5, **o)[0] for o in ({}, {"input_augmentations": [partial(augment.noise, sigma=0.2)]}))
    assert (noisy - clean).std().item() == pytest.approx(0.2, rel=0.05)


def test_fresh_noise_is_drawn_anew_each_step():
    method = Method(config.option("perturbation", "noise"), config.option("mask", "grid", mask_size=6), lambda *_: 0)
    problem = Objective(method, NET, PHOTOS, torch.tensor([1, 1, 1]), ["a", "b", "c"])
    draw = lambda iteration: problem.perturbation.sample(problem.rng.at(iteration))  # noqa: E731
    assert not torch.equal(draw(0), draw(1)) and torch.equal(draw(1), draw(1))


def test_every_image_and_every_target_draws_its_own_numbers():
    def seeds(photos, targets, seed=0):
        method = Method(perturbation("mean_color"), config.option("mask", "grid", mask_size=6), lambda *_: 0, seed=seed)
        return Objective(method, NET, photos, torch.tensor(targets), ["a", "b"]).rng.seeds

    assert len({*seeds(PHOTOS[:2], [0, 0]), *seeds(PHOTOS[:2], [1, 1]), *seeds(PHOTOS[:2], [0, 0], seed=1)}) == 6


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


def test_stopping_early_keeps_what_was_done():
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            trainer.should_stop = batch_idx == 6
            assert module.parameter.min() >= 0 and module.parameter.max() <= 1  # projected before any callback sees it

    method = Method(
        perturbation("blur_gaussian"), config.option("mask", "grid", mask_size=8), config.option("score", "probability"),
        optimizer=partial(torch.optim.Adam, lr=0.5), steps=40,
    )  # fmt: skip
    classifier = Classifier(NET)
    with classifier.frozen():
        e, failures = solve(
            method, classifier, [Row(PHOTOS[0], 1, "a")], lambda batch: fit(batch, cpu_trainer([Stop()]))
        )
    assert not failures and e.iterations[-1] == 7 == len(e.curves["total"]) and len(e.frames) == len(e.iterations)
    assert torch.equal(e.frame_parameters[-1], e.parameter) and e.area > 0


class Breaks(SquareNet):
    """Gives NaN for photos that are bright on average, once it was asked often enough."""

    asked = 0

    def forward(self, x):
        self.asked += 1
        broken = (x.mean((1, 2, 3)) > 0.7) & (self.asked > 10)
        return super().forward(x) * torch.where(broken, float("nan"), 1.0)[:, None]  # and a NaN gradient with it


class InfiniteGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * float("inf")


@pytest.mark.parametrize("name", ["blur_gaussian", "blur_pyramid"])
def test_nan_output_names_the_image_and_the_iteration_and_spares_the_others(name):
    photos = torch.stack([PHOTOS[0], (PHOTOS[1] + 1).clamp(0, 1), PHOTOS[2]])
    with pytest.raises(ValueError, match=r"image1: the model's output is NaN or infinite at iteration \d+"):
        explain(Breaks(), photos, 1, perturbation=perturbation("black"), mask="grid", mask_size=8, steps=20, jitter=0)
    method = Method(
        perturbation(name), config.option("mask", "grid", mask_size=8), config.option("score", "logit"), steps=20
    )
    classifier = Classifier(Breaks())
    with classifier.frozen():
        sound, failures = solve(method, classifier, [Row(p, 1, f"image{i}") for i, p in enumerate(photos)], optimize, 5)
    assert list(failures) == [1] and sound.image_names == ["image0", "image2"] and sound.parameter.isfinite().all()


def test_infinite_gradient_is_named():
    class Net(SquareNet):
        asked = 0

        def forward(self, x):
            self.asked += 1
            return super().forward(InfiniteGradient.apply(x) if self.asked > 8 else x)

    with pytest.raises(ValueError, match=r"image0: the model's gradient is NaN or infinite at iteration [1-9]"):
        explain(Net(), PHOTOS[:1], 1, perturbation=perturbation("black"), mask="grid", mask_size=8, steps=20, jitter=0)


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
        quick(PHOTOS[:, :1])


@pytest.mark.parametrize("steps, frames", [(1, 24), (5, 24), (150, 24), (300, 10), (150, 2)])
def test_snapshot_iterations(steps, frames):
    found = snapshot_iterations(steps, frames)
    assert found[0] == 0 and found[-1] == steps and len(found) <= frames and found == sorted(set(found))


def test_lightning_callbacks_count_iterations():
    """One step is one iteration: what a callback sees is what a Lightning user expects."""
    seen = []

    class Spy(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.append((batch, batch_idx, trainer.global_step))

    fit(RowBatch(objective(steps=5)), cpu_trainer([Spy()]))
    assert seen == [(i, i, i + 1) for i in range(5)]


@pytest.mark.parametrize("mask", ["grid", "bernoulli"])
def test_a_product_needs_two_masks(mask):
    with pytest.raises(ValueError, match="game=product needs a mask of two: mask=pair"):
        quick(PHOTOS[:1], game="product", mask=mask)
