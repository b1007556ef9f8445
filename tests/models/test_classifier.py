"""The wrapper's promises: the network and the caller's tensor stay as they were, and unfit models are refused."""

import pickle
from threading import Event, Thread

import pytest
import torch
from torch import nn

from mpx.models import Classifier
from mpx.models.checks import check_classifier

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Wrap(nn.Module):
    """A small network whose output passes through `change`."""

    def __init__(self, change=lambda out: out):
        super().__init__()
        self.body, self.change = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(192, 5)), change

    def forward(self, x):
        return self.change(self.body(x))


def state(network):
    return (
        [m.training for m in network.modules()],
        [(p.requires_grad, p.grad, p.device) for p in network.parameters()],
        [dict(m._forward_hooks) for m in network.modules()],
        {k: v.clone() for k, v in network.state_dict().items()},
    )


def same(a, b):
    return a[:3] == b[:3] and a[3].keys() == b[3].keys() and all(torch.equal(a[3][k], b[3][k]) for k in a[3])


def mixed_network():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(144, 5))
    network.train()
    network[1].eval()
    network[0].weight.requires_grad_(False)
    network[5](torch.rand(1, 144)).sum().backward()  # a gradient of the user's own
    calls = []
    network[2].register_forward_hook(lambda *_: calls.append(1))
    return network, calls


def test_normalises():
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    seen = []
    classifier = Classifier(Wrap(), mean.tolist(), std.tolist())
    classifier.network.body.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    classifier(X)
    assert torch.allclose(seen[0], (X - mean[:, None, None]) / std[:, None, None], atol=1e-6)


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (0.5, 0.5)])
def test_the_callers_tensor_is_never_written(mean, std):
    x = 2 * X - 0.5  # negative values, which an in-place ReLU would overwrite
    kept = x.clone()
    Classifier(Wrap(), mean, std)(x)
    assert torch.equal(x, kept)
    check_classifier(Classifier(Wrap(), mean, std), x)
    assert torch.equal(x, kept) and x.grad is None


@pytest.mark.parametrize("fail", [False, True])
def test_frozen_gives_everything_back(fail):
    network, calls = mixed_network()
    before = state(network)
    classifier = Classifier(network, 0.5, 0.5)
    assert same(before, state(network))  # construction changes nothing
    try:
        with classifier.frozen() as inside:
            assert inside is classifier and not any(m.training for m in network.modules())
            assert not any(p.requires_grad for p in network.parameters())
            assert torch.equal(classifier(X)[:1], classifier(X)[:1])  # no dropout, no batch statistics
            if fail:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert same(before, state(network)) and len(calls) == 2
    check_classifier(classifier, X)
    assert same(before, state(network))


@pytest.mark.parametrize("wrap", [lambda network: network, lambda network: nn.Sequential(nn.Identity(), network)])
def test_a_second_thread_waits_for_the_network(wrap):
    network, _ = mixed_network()
    before, entered, leave = state(network), Event(), Event()

    def other():
        with Classifier(wrap(network)).frozen():
            entered.set()
            leave.wait(10)

    thread = Thread(target=other)
    classifier = Classifier(network)
    with classifier.frozen(), classifier.frozen():  # one inside another, as check() is
        thread.start()
        assert not entered.wait(0.1)
        with Classifier(Wrap()).frozen():  # another network has nothing to do with it
            pass
    assert entered.wait(10) and not network.training
    leave.set()
    thread.join()
    assert same(before, state(network)) and "lock" not in str(vars(classifier))


def test_a_frozen_classifier_can_be_pickled():
    with Classifier(Wrap(None)).frozen() as classifier:
        assert not pickle.loads(pickle.dumps(classifier)).training


def test_state_dict_is_the_networks():
    network = Wrap()
    assert {k.removeprefix("network.") for k in Classifier(network).state_dict()} == set(network.state_dict())


@pytest.mark.parametrize("output", [lambda out: (out, out), lambda out: type("Output", (), {"logits": out})()])
def test_outputs_accepted(output):
    assert Classifier(Wrap(output))(X).shape == (2, 5)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda out: out[:, :, None], r"must be \(B, classes\), got \(2, 5, 1\)"),
        (lambda out: {"a": out}, "got dict"),
        (lambda out: out.mean(0, keepdim=True), r"got \(1, 5\)"),
    ],
)
def test_outputs_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Classifier(Wrap(change))(X)


class NoGrad(Wrap):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


@pytest.mark.parametrize(
    "network, words",
    [
        (Wrap(lambda out: out * float("nan")), "infinite logits"),
        (Wrap(lambda out: out / 0), "infinite logits"),
        (NoGrad(), "without gradient"),
        (Wrap(lambda out: out.detach()), "without gradient"),
        (Wrap(lambda out: out.round()), "without gradient"),
        (Wrap(lambda out: out.detach() + torch.zeros(5, requires_grad=True)), "without gradient"),
        (Wrap(lambda out: (out - out.detach()).abs().sqrt()), "gradient.*NaN"),
        (Wrap(lambda out: out[:, :1]), "a single logit y"),
        (Wrap(lambda out: out.softmax(1)), "gives probabilities"),
        (Wrap(lambda out: out - out.mean(0)[None] * (len(out) > 1)), "gives an image other logits"),
        (Wrap().double(), "weights of torch.float64"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), "3 colours and 8x8 px .*model.size="),
        (nn.Sequential(nn.Flatten(), nn.Linear(27, 5)), "3 colours and 8x8 px .*model.size="),
    ],
)
def test_check_refuses(network, words):
    before = state(network)
    with pytest.raises(ValueError, match=words):
        check_classifier(Classifier(network), X[:1])
    assert same(before, state(network))


def test_check_returns_logits_even_under_no_grad():
    classifier = Classifier(Wrap(), categories="abcde")
    with torch.no_grad():
        logits = check_classifier(classifier, X[:1])
    assert logits.shape == (1, 5) and not logits.requires_grad
    with pytest.raises(ValueError, match="4 category names.*5 classes"):
        check_classifier(Classifier(Wrap(), categories="abcd"), X[:1])


def test_bad_normalisation():
    for mean, std in [((0.1, 0.2), 1.0), (0.0, 0.0), (0.0, (1.0, 1.0, -1.0))]:
        with pytest.raises(ValueError, match="std above 0"):
            Classifier(Wrap(), mean, std)


def test_what_was_built_under_inference_mode_is_refused():
    with torch.inference_mode():
        network = Wrap()
    outside = Wrap()
    with torch.inference_mode():
        around = Classifier(outside)  # whose own mean and std are inference tensors
    for classifier in (Classifier(network), around):
        with pytest.raises(ValueError, match="Wrap was built under inference_mode.*build it outside, or under no_grad"):
            check_classifier(classifier, X)
    assert outside.training and all(p.requires_grad for p in outside.parameters())


def test_check_tells_chance_from_company():
    """A network that draws is the user's affair; one whose pictures see each other is not."""
    check_classifier(Classifier(Wrap(lambda out: out + torch.rand_like(out))), X[:1])
