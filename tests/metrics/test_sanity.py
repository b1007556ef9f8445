"""Randomised networks, rank correlation, stability: against SciPy, scikit-image and where the answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import SquareNet
from scene import context, photos, random_maps, square
from scipy.stats import spearmanr
from torch import nn

from mpx.metrics.sanity import randomised, sanity
from mpx.metrics.similarity import spearman
from mpx.metrics.stability import stability
from mpx.models.classifier import Classifier
from mpx.tasks.difference import Difference, ModelDifference
from mpx.tasks.regression import Regression


def test_spearman_is_scipys():
    a, b = random_maps(3), random_maps(3, seed=1)
    b[1] = (b[1] * 4).round()  # ties
    b[2] = a[2] ** 3
    expected = [spearmanr(x.flatten().numpy(), y.flatten().numpy()).statistic for x, y in zip(a, b)]
    assert np.allclose(spearman(a, b).numpy(), expected, atol=1e-6)
    assert spearman(a, -a).tolist() == pytest.approx([-1] * 3)
    assert spearman(a, torch.full_like(a, 0.3)).tolist() == [0, 0, 0]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.token = nn.Parameter(torch.arange(5.0))

    def forward(self, x):
        return self.head(self.norm(self.stem(x)).relu().mean((2, 3)))


def changed(a, b):
    return {name for (name, x), (_, y) in zip(a.named_parameters(), b.named_parameters()) if not torch.equal(x, y)}


@pytest.mark.parametrize("randomisation", ["shuffle", "reset"])
def test_randomising_starts_at_the_logits_and_leaves_the_network(randomisation):
    net = Net().eval().requires_grad_(False)
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    half, whole = (randomised(net, share, randomisation, seed=3) for share in (0.3, 1.0))
    assert changed(net, half) == {"head.weight", "head.bias"}  # and the norm's, ones and zeros in any order
    assert {"stem.weight", "head.weight", "token"} <= changed(net, whole)
    assert torch.equal(half.head.weight, whole.head.weight)  # the same at every stage
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and not half.training
    if randomisation == "shuffle":
        assert torch.equal(half.head.weight.flatten().sort()[0], net.head.weight.flatten().sort()[0])


def test_a_folded_classifier_is_randomised_too():
    """A folded convolution does not use its own weights, see mpx/models/folding.py."""
    result, images = Classifier(Net()), photos()
    result.network.norm.running_var.fill_(4.0)
    with torch.no_grad():
        with result.frozen():
            plain = randomised(result, 1.0)(images)
        with result.frozen_and_folded(images):
            assert result.folded
            before = result(images)
            other = randomised(result, 1.0)
            assert torch.allclose(other(images), plain, atol=1e-5)
            assert torch.equal(result(images), before) and not torch.allclose(before, plain, atol=1e-2)


def gradient(classifier, images, targets, seed):
    x = images.clone().requires_grad_()
    logits = classifier(x).gather(1, targets[:, None]).sum()
    return torch.autograd.grad(logits, x)[0].abs().amax(1, keepdim=True)


def test_a_map_that_looks_at_the_network_is_sane_and_one_that_does_not_is_not():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 32 * 32, 5)).eval()
    images, classes = photos(), torch.tensor([0, 3])
    rows = context(classifier=net, targets=classes)
    looks = sanity(gradient(net, images, classes, 0), replace(rows, explain=gradient), stages=2)
    assert set(looks) == {"", "ssim", "other_class", "spearman@0.5", "ssim@0.5", "spearman@1", "ssim@1"}
    assert looks[""].abs().max() < 0.3 and looks["other_class"].abs().max() < 0.3
    blind = sanity(random_maps(), replace(rows, explain=lambda c, x, t, s: random_maps()), stages=2)
    for name in ("", "other_class", "ssim", "spearman@0.5"):
        assert blind[name].tolist() == pytest.approx([1, 1]), name


def test_ssim_is_scikit_images():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = random_maps(1, 64), (random_maps(1, 64) + 0.3 * random_maps(1, 64, 2)).clamp(0, 1)
    result = sanity(a, context(1, explain=lambda c, x, t, s: b), stages=1)["ssim"]
    _, theirs = metrics.structural_similarity(
        a[0, 0].numpy(), b[0, 0].numpy(), data_range=1.0, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    assert result.item() == pytest.approx(theirs.mean(), abs=5e-4)  # their edges are reflected otherwise


def test_maps_smaller_than_the_window_have_no_ssim():
    small = random_maps(2, 4)
    result = sanity(small, context(explain=lambda c, x, t, s: small), stages=1)
    assert result["ssim"].isnan().all() and result[""].tolist() == pytest.approx([1, 1])


def test_another_class_is_explained():
    asked = []

    def explain(classifier, images, targets, seed):
        asked.append(targets.tolist())
        return square().expand(len(images), -1, -1, -1)

    sanity(square().expand(2, -1, -1, -1), context(targets=torch.tensor([0, 1]), explain=explain), stages=1)
    assert asked == [[0, 1], [1, 0]]


def test_stability_by_hand():
    sets = [square(), square(), square().roll(4, 3)]  # half of it is elsewhere in the third
    result = stability(square(), context(1, explain=lambda c, x, t, seed: sets[seed - 1]))
    assert result[""].item() == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert result["agreement"].item() == pytest.approx(1 / 3)
    ranks = [spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic for a, b in [sets[:2], sets[1:], sets[::2]]]
    assert result["rank"].item() == pytest.approx(np.mean(ranks), abs=1e-6)
    blank = stability(square(), context(1, explain=lambda c, x, t, seed: torch.zeros(1, 1, 32, 32)))
    assert blank[""].item() == blank["agreement"].item() == 1  # the same each time


def test_a_model_that_the_task_compares_with_is_randomised_too():
    """The explained difference depends on both, so a map that ignores either one is not sane."""
    classifier = Classifier(Net(), task=ModelDifference(Classifier(Net())))
    (compared,) = classifier.compared
    compared.network.norm.running_var.fill_(4.0)
    states = [{k: v.clone() for k, v in one.state_dict().items()} for one in (classifier, compared)]
    with classifier.frozen_and_folded(photos()):
        other = randomised(classifier, 0.3)
    assert changed(classifier, other) == {"network.head.weight", "network.head.bias"}
    assert changed(compared, other.compared[0]) == {"network.head.weight", "network.head.bias"}
    assert not torch.equal(other.network.head.weight, other.compared[0].network.head.weight)  # drawn for each of them
    for one, state in zip((classifier, compared), states):
        assert all(torch.equal(state[k], v) for k, v in one.state_dict().items())


def test_another_class_is_never_the_one_that_a_difference_compares_with():
    drawn = set()

    def explain(classifier, images, targets, seed):
        drawn.update(targets.tolist())
        return random_maps(len(images))

    for seed in range(20):
        rows = context(classifier=Classifier(Net()), targets=torch.tensor([0, 3]), explain=explain, task=Difference(other=1))
        sanity(random_maps(), rows, stages=1, seed=seed)
    assert drawn == {0, 2, 3}


@pytest.mark.parametrize(
    "network, task, words",
    [
        (SquareNet(), Difference(other=0), "only one to explain: leave it out"),
        (nn.Sequential(SquareNet(), nn.Flatten(1), nn.Linear(2, 1)), Regression(), "only one to explain: leave it out"),
        (nn.Sequential(nn.Flatten(), nn.Softsign()), Regression(), "this network has none: leave it out"),
    ],
)
def test_a_network_that_sanity_does_not_apply_to_is_one_sentence_before_any_map_is_made(network, task, words):
    rows = context(classifier=Classifier(network, task=task), task=task, explain=lambda *_: pytest.fail("explained"))
    with pytest.raises(ValueError, match=words):
        sanity(random_maps(), rows)
