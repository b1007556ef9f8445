"""The Classifier normalises, accepts common kinds of output, and never writes to the caller's tensor."""

import pickle

import pytest
import torch
from small_networks import Wrap, X

from mpx.models import Classifier
from mpx.models.checks import check_classifier


def test_normalises():
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    inputs = []
    classifier = Classifier(Wrap(), mean.tolist(), std.tolist())
    classifier.network.body.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    classifier(X)
    assert torch.allclose(inputs[0], (X - mean[:, None, None]) / std[:, None, None], atol=1e-6)


@pytest.mark.parametrize("mean, std", [((0.1, 0.2), (1.0, 1.0, 1.0)), (0.0, 0.0), (0.0, (1.0, 1.0, -1.0))])
def test_refuses_a_normalisation_that_is_none(mean, std):
    with pytest.raises(ValueError, match="std above 0"):
        Classifier(Wrap(), mean, std)


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (0.5, 0.5)])
def test_never_writes_to_the_callers_tensor(mean, std):
    x = 2 * X - 0.5  # negative values, which an in-place ReLU would overwrite
    copy = x.clone()
    Classifier(Wrap(), mean, std)(x)
    assert torch.equal(x, copy)
    check_classifier(Classifier(Wrap(), mean, std), x)
    assert torch.equal(x, copy) and x.grad is None


def test_can_be_pickled_while_frozen():
    with Classifier(Wrap(None)).frozen() as classifier:
        assert not pickle.loads(pickle.dumps(classifier)).training


def test_state_dict_is_the_networks():
    network = Wrap()
    assert {k.removeprefix("network.") for k in Classifier(network).state_dict()} == set(network.state_dict())


@pytest.mark.parametrize("output", [lambda out: (out, out), lambda out: type("Output", (), {"logits": out})()])
def test_accepts_tuples_and_named_logits(output):
    assert Classifier(Wrap(output))(X).shape == (2, 5)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda out: out[:, :, None], r"must be \(B, classes\), got \(2, 5, 1\)"),
        (lambda out: {"a": out}, "got dict"),
        (lambda out: out.mean(0, keepdim=True), r"got \(1, 5\)"),
    ],
)
def test_refuses_other_outputs(change, words):
    with pytest.raises(ValueError, match=words):
        Classifier(Wrap(change))(X)


def test_refuses_names_that_do_not_fit():
    with pytest.raises(ValueError, match="4 category names.*5 classes"):
        Classifier(Wrap(), categories="abcd")(X)
