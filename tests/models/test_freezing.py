"""Freezing: eval mode without parameter gradients, everything restored, one thread at a time."""

from threading import Event, Thread

import pytest
import torch
from small_networks import Wrap, X, equal_states, state
from torch import nn

from mpx.models import Classifier
from mpx.models.checks import check_classifier


@pytest.fixture
def network():
    """Train mode with an eval module, a parameter without gradient, and a gradient of the user's own."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(144, 5))
    network.train()
    network[1].eval()
    network[0].weight.requires_grad_(False)
    network[5](torch.rand(1, 144)).sum().backward()
    return network


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_restored(network, fails):
    calls = []
    network[2].register_forward_hook(lambda *_: calls.append(1))  # the user's own
    before = state(network)
    classifier = Classifier(network, 0.5, 0.5)
    assert equal_states(before, state(network))  # construction changes nothing
    try:
        with classifier.frozen() as inside:
            assert inside is classifier and not any(m.training for m in network.modules())
            assert not any(p.requires_grad for p in network.parameters())
            assert torch.equal(classifier(X)[:1], classifier(X)[:1])  # no dropout, no batch statistics
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert equal_states(before, state(network)) and len(calls) == 2
    check_classifier(classifier, X)
    assert equal_states(before, state(network))


@pytest.mark.parametrize("wrap", [lambda network: network, lambda network: nn.Sequential(nn.Identity(), network)])
def test_a_second_thread_waits_for_the_network(network, wrap):
    before, entered, leave = state(network), Event(), Event()

    def freeze():
        with Classifier(wrap(network)).frozen():
            entered.set()
            leave.wait(10)

    thread = Thread(target=freeze)
    classifier = Classifier(network)
    with classifier.frozen(), classifier.frozen():  # one inside another, as check_classifier does
        thread.start()
        assert not entered.wait(0.1)
        with Classifier(Wrap()).frozen():  # an unrelated network is free
            pass
    assert entered.wait(10) and not network.training
    leave.set()
    thread.join()
    assert equal_states(before, state(network))


def test_a_network_built_under_inference_mode_is_refused():
    with torch.inference_mode():
        network = Wrap()
    outside = Wrap()
    with torch.inference_mode():
        around = Classifier(outside)  # whose own mean and std are inference tensors
    for classifier in (Classifier(network), around):
        with pytest.raises(ValueError, match="Wrap was built under inference_mode.*build it outside, or under no_grad"):
            check_classifier(classifier, X)
    assert outside.training and all(p.requires_grad for p in outside.parameters())


@pytest.mark.slow
def test_a_compiled_network_outlives_an_inner_freezing():
    """Metrics freeze within a run's own freezing; compiling again after each batch would undo `compile=true`."""
    classifier = Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)))
    with classifier.frozen():
        classifier.compiled(len)
        compiled = classifier._compiled
        with classifier.frozen():
            pass
        assert classifier._compiled is compiled
    assert classifier._compiled == {}
