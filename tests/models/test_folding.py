"""Folded batch norms: equal logits and gradients, a warning where none are folded, and the network restored afterwards."""

import copy

import pytest
import torch
import torchvision.models
from timm.layers import BatchNormAct2d
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from mpx.models import Classifier
from mpx.models.folding import fold_pair
from mpx.models.layers import Layer
from mpx.models.zoo import efficientnet_lite0

X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def lived(network):
    """With statistics and weights as after training."""
    random = torch.Generator().manual_seed(0)
    for module in network.modules():
        for name in ("running_mean", "running_var", "weight", "bias"):
            if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
                getattr(module, name).data.uniform_(0.5, 1.5, generator=random)
    return Classifier(network.eval(), 0.5, 0.5)


class Net(nn.Module):
    """What passes between convolution and batch norm is the test's choice."""

    def __init__(self, norm=nn.BatchNorm2d, between=lambda x: x, beside=lambda x: 0.0, bias=True):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, bias=bias), norm(8), nn.Linear(8, 5)
        self.between, self.beside = between, beside

    def forward(self, x):
        made = self.conv(x)
        return self.head(self.norm(self.between(made)).relu().mean((2, 3)) + self.beside(made))


class Offset(nn.Module):
    def __init__(self, network, offset):
        super().__init__()
        self.network, self.offset = network, offset

    def forward(self, x):
        return self.network(x) - self.offset


def answers(classifier, x):
    x = x.clone().requires_grad_()
    logits = classifier(x)
    return logits.detach(), torch.autograd.grad(logits[:, 1].sum(), x)[0]


NETWORKS = {
    "plain": Net,
    "without bias": lambda: Net(bias=False),
    "with activation": lambda: Net(BatchNormAct2d),
    "frozen norm": lambda: Net(FrozenBatchNorm2d),
    "resnet18": torchvision.models.resnet18,
    "mobilenet": lambda: torchvision.models.mobilenet_v3_small(),
    "densenet": lambda: torchvision.models.densenet121(),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_same_logits_and_gradients(name):
    torch.manual_seed(0)
    classifier = lived(NETWORKS[name]())
    with classifier.frozen():
        before = answers(classifier, X)
    with classifier.frozen_and_folded(X):
        assert classifier.folded
        for a, b in zip(before, answers(classifier, X)):
            assert (a - b).norm() <= 2e-3 * a.norm()  # a gradient may jump where rounding moves an activation over 0


def test_every_batch_norm_of_lite0_is_folded():
    classifier = efficientnet_lite0()
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in classifier.modules())
    with classifier.frozen_and_folded(X):
        assert len(classifier.folded) == norms == 49
        with classifier.frozen():  # as check() does inside
            pass
        assert len(classifier.folded) == norms


def test_the_network_is_restored_after_an_error():
    network = Net()
    before = {name: dict(vars(module)) for name, module in network.named_modules()}
    with pytest.raises(KeyboardInterrupt), Classifier(network).frozen_and_folded(X) as classifier:
        assert "forward" in vars(network.conv) and classifier.folded
        assert list(network.state_dict()) == list(Net().state_dict())  # nothing moved in between either
        raise KeyboardInterrupt
    assert {name: dict(vars(module)) for name, module in network.named_modules()} == before


NOT_FOLDED = {
    "something in between": dict(between=torch.sin),
    "in place in between": dict(between=lambda x: x.add_(1)),
    "used elsewhere": dict(beside=lambda x: x.mean((2, 3))),
}


@pytest.mark.parametrize("why", NOT_FOLDED)
def test_not_folded_where_the_output_is_used_otherwise(why):
    classifier = lived(Net(**NOT_FOLDED[why]))
    with classifier.frozen_and_folded(X):
        assert not classifier.folded and "forward" not in vars(classifier.network.conv)


def test_a_convolution_that_is_used_elsewhere_leaves_others_folded():
    class Two(nn.Sequential):
        def forward(self, x):
            made = self[0](x)
            return self[3](self[2](self[1](made))).mean((2, 3)) + made.mean((2, 3))

    network = Two(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    with lived(network).frozen_and_folded(X) as classifier:
        assert classifier.folded == {network[2]: network[3]}


def test_a_warning_where_the_output_would_change():
    classifier = lived(Net(beside=lambda x: x.detach().mean((2, 3))))  # a use that no graph shows
    expected = classifier(X)
    words = "model Net are not folded.*changes the output .* by [0-9.]+% of"
    with pytest.warns(UserWarning, match=words), classifier.frozen_and_folded(X):
        assert not classifier.folded
        torch.testing.assert_close(classifier(X), expected)


def test_the_output_must_be_equal_for_the_given_picture():
    """For another it may be 0 up to rounding, of which everything differs."""
    network = Net()
    classifier = lived(network)
    at_first = network((X[:1] - 0.5) / 0.5).detach()
    classifier = Classifier(Offset(network, at_first).eval(), 0.5, 0.5)
    with pytest.warns(UserWarning, match="are not folded"), classifier.frozen_and_folded(X[:1]):
        assert not classifier.folded
    with classifier.frozen_and_folded(X[1:]):
        assert classifier.folded


def test_not_folded_where_a_convolution_runs_twice():
    network = Net()
    network.conv2 = network.conv  # one module, two places
    network.between = lambda x: network.conv(x[:, :3])
    with lived(network).frozen_and_folded(X) as classifier:
        assert not classifier.folded


def test_not_folded_where_a_hook_looks():
    network = Net()
    network.conv.register_forward_hook(lambda *_: None)
    with lived(network).frozen_and_folded(X) as classifier:
        assert not classifier.folded


def test_a_named_convolution_gives_its_own_output():
    classifier = lived(Net())
    with classifier.frozen():
        wanted = classifier.network.conv((X - 0.5) / 0.5)
    with classifier.frozen_and_folded(X):
        result = Layer(classifier, "conv", 0.1, X).features(X)
        torch.testing.assert_close(result, wanted)
        assert not classifier.folded  # and its batch norm works again


def test_unfolded_for_a_while():
    classifier = lived(Net())
    with classifier.frozen_and_folded(X):
        folded, logits = classifier.folded, classifier(X)
        with pytest.raises(KeyboardInterrupt), classifier.unfolded():
            assert not classifier.folded and "forward" not in vars(classifier.network.conv)
            raise KeyboardInterrupt
        assert classifier.folded == folded and torch.equal(classifier(X), logits)
        with classifier.frozen_and_folded(X):
            pass
        assert classifier.folded == folded
    assert not classifier.folded


def test_a_copy_can_be_unfolded():
    classifier = lived(Net())
    with classifier.frozen_and_folded(X):
        before, other = classifier(X), copy.deepcopy(classifier)
        other.unfold()
        other.network.conv.weight.data.zero_()
        other.network.conv.bias.data.zero_()
        assert not other.network.norm(other.network.conv(X)).var((0, 2, 3)).any() and classifier.folded
        assert torch.equal(classifier(X), before)


def test_frozen_inside_frozen():
    classifier = lived(Net())
    with classifier.frozen_and_folded(X):
        with classifier.frozen_and_folded(X):
            pass
        assert "forward" in vars(classifier.network.conv)
    assert not any("forward" in vars(module) for module in classifier.modules())


def test_a_failed_folding_is_undone(monkeypatch):
    net = Net()
    nn.utils.parametrizations.spectral_norm(net.conv)
    classifier = lived(net)
    expected = classifier(X)
    with classifier.frozen_and_folded(X):
        assert not classifier.folded
        torch.testing.assert_close(classifier(X), expected)  # the norm alone is computed otherwise

    def fails(conv, norm):  # at the second
        if classifier_of_two.network[0] is not conv:
            raise RuntimeError("out of memory")
        fold_pair(conv, norm)

    classifier_of_two = lived(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)))
    monkeypatch.setattr("mpx.models.folding.fold_pair", fails)
    classifier_of_two.network.append(nn.Flatten())
    with pytest.raises(RuntimeError), classifier_of_two.frozen_and_folded(X):
        pass
    assert not any("forward" in vars(module) for module in classifier_of_two.modules())
