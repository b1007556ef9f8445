"""Networks through which no mask can be learnt are refused with one sentence; all others pass."""

import pytest
import torch
from small_networks import Wrap, X, equal_states, state
from torch import nn

from mpx.models import Classifier
from mpx.models.checks import check_classifier
from mpx.models.synthetic import Synthetic
from mpx.tasks.similarity import Similarity


class NoGrad(Wrap):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class WrongAlone(torch.autograd.Function):
    """The identity, whose gradient is wrong for one image, as that of torch's batch_norm may be."""

    @staticmethod
    def forward(ctx, out):
        return out.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.flip(1) if len(gradient) == 1 else gradient


def zero_head():
    network = Wrap()
    nn.init.zeros_(network.body[2].weight)
    return network


@pytest.mark.parametrize(
    "network, words",
    [
        (Wrap(WrongAlone.apply), "another gradient for an image alone than beside another image .*differ by [0-9]+%"),
        (Wrap(lambda out: out * float("nan")), "infinite output"),
        (Wrap(lambda out: out / 0), "infinite output"),
        (NoGrad(), "without gradient"),
        (Wrap(lambda out: out.detach()), "without gradient"),
        (Wrap(lambda out: out.round()), "zero at every pixel of this image.*look for round"),
        (zero_head(), "zero at every pixel.*the weights of body.2 are all zero"),
        (Wrap(lambda out: out.detach() + torch.zeros(5, requires_grad=True)), "without gradient"),
        (Wrap(lambda out: (out - out.detach()).abs().sqrt()), "gradient.*NaN"),
        (Wrap(lambda out: out[:, :1]), "a single number.*task=multilabel.*task=regression"),
        (Wrap(lambda out: out.softmax(1)), "gives probabilities"),
        (Wrap(lambda out: out.sigmoid()), "gives sigmoids.*task=multilabel"),
        (Wrap(lambda out: out[:, :2].sigmoid().view(-1, 2)), "gives sigmoids.*task=multilabel"),
        (Wrap(lambda out: out - out.mean(0)[None] * (len(out) > 1)), "gives an image another output"),
        (Wrap(lambda out: out + torch.rand_like(out)), "another output when it is asked twice about an image .by [0-9.]+%"),
        (Wrap(lambda out: nn.functional.dropout(out)), "another output when it is asked twice.*F.dropout"),
        (Wrap(lambda out: out.view(1, 5)), r"takes one image and fails for two at once \(.*at .*test_checks.py:[0-9]+"),
        (Wrap().double(), "weights of torch.float64"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), "3 channels and 8x8 px .*model.channels="),
        (nn.Sequential(nn.Flatten(), nn.Linear(27, 5)), "3 channels and 8x8 px .*model.size="),
    ],
)
def test_refuses(network, words):
    before = state(network)
    with pytest.raises(ValueError, match=words) as error:
        check_classifier(Classifier(network), X[:1])
    assert equal_states(before, state(network)) and "\n" not in str(error.value)


def test_the_synthetic_network_says_which_images_it_is_for():
    with pytest.raises(ValueError, match="finds none of its textures in cat: explain dataset=synthetic with it"):
        check_classifier(Synthetic(64), torch.rand(1, 3, 64, 64) * 0.1 + 0.4, "cat")


def test_a_photo_that_is_compared_with_itself_is_no_wrong_gradient():
    """Its similarity is the largest there is, and what remains of the gradient is rounding."""
    classifier = Classifier(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 32)))
    itself = Similarity(classifier.network(X[1:]))
    output = check_classifier(classifier.with_task(itself), X[1:])
    torch.testing.assert_close(output, torch.ones(1, 1))


def test_returns_logits_even_under_no_grad():
    with torch.no_grad():
        logits = check_classifier(Classifier(Wrap(), categories="abcde"), X[:1])
    assert logits.shape == (1, 5) and not logits.requires_grad
