"""Guided and excitation backprop against Captum and TorchRay, and by hand."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from explainers.scene import (
    IMAGES,
    TARGETS,
    Checkers,
    chain,
    explain,
    frozen,
    vit,
)
from torch import nn

from mpx.explainers.excitation_backprop import ExcitationRules, excitation_at
from mpx.explainers.layer_maps import choose_layer, upsample

pytest.importorskip("captum")


@pytest.mark.slow
def test_guided_backprop_is_captums_and_torchrays():
    from captum.attr import GuidedBackprop

    classifier = frozen(Checkers())
    ours = explain("guided_backprop", classifier)
    theirs = GuidedBackprop(classifier).attribute(IMAGES.clone(), TARGETS).abs().amax(1, keepdim=True)
    torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(ours, explain("gradient", classifier))
    theirs = pytest.importorskip("torchray.attribution.guided_backprop").guided_backprop(classifier, IMAGES.clone(), TARGETS)
    torch.testing.assert_close(ours, theirs)


class Functional(Checkers):
    def __init__(self, act):
        super().__init__(nn.Identity)
        del self.act1, self.act2
        self.act1 = self.act2 = act


ACTIVATIONS = [
    *(partial(nn.ReLU, inplace=True), nn.ReLU6, partial(nn.ReLU6, inplace=True), partial(nn.Hardtanh, 0.0, 1e9)),
    *(lambda: F.relu, lambda: F.relu6, lambda: torch.relu, lambda: torch.relu_, lambda: torch.Tensor.relu_),
]


@pytest.mark.parametrize("name", ["guided_backprop", "excitation_backprop"])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_relus_are_recognised_in_every_form(name, act):
    made = act()
    network = Checkers(act) if isinstance(made, nn.Module) else Functional(made)
    options = {"layer": "norm"} if name == "excitation_backprop" else {}  # which precedes them
    torch.testing.assert_close(explain(name, frozen(network), **options), explain(name, frozen(Checkers()), **options))


@pytest.mark.parametrize("act", [nn.SiLU, nn.GELU])
def test_networks_without_relus_are_refused(act):
    with pytest.raises(ValueError, match="model Checkers has none: choose explainer=gradient"):
        explain("guided_backprop", frozen(Checkers(act)))


@pytest.mark.slow
def test_excitation_backprop_is_torchrays():
    theirs = pytest.importorskip("torchray.attribution.excitation_backprop").excitation_backprop
    classifier = frozen(chain(nn.MaxPool2d(2)))
    classifier.network[3].running_var.uniform_(0.5, 2)
    for layer in ("1", "4", "5"):
        expected = theirs(classifier, IMAGES.clone(), TARGETS, saliency_layer=f"network.{layer}").detach()
        ours = explain("excitation_backprop", classifier, layer=layer)
        torch.testing.assert_close(ours, upsample(expected, IMAGES), atol=1e-7, rtol=1e-4)
        assert ours.max() > ours.min()


@pytest.mark.slow
def test_excitation_backprop_is_nearly_torchrays_where_branches_are_summed():
    """Its shares of a sum are negative where a branch is; after the last sum both do the same."""
    from torchvision.models.resnet import BasicBlock, ResNet

    theirs = pytest.importorskip("torchray.attribution.excitation_backprop")
    torch.manual_seed(0)
    classifier = frozen(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3))
    patched = copy.deepcopy(classifier)
    theirs.update_resnet(patched.network)
    photos = upsample(IMAGES, torch.zeros(1, 1, 64, 64))
    for layer, least in (("layer4", 0.99999), ("layer3", 0.98), ("layer1", 0.95)):
        expected = theirs.excitation_backprop(patched, photos, TARGETS, saliency_layer=f"network.{layer}").detach()
        ours = excitation_at(choose_layer(photos, classifier, layer), photos, TARGETS)
        assert np.corrcoef(ours.flatten(), expected.flatten())[0, 1] > least


def test_excitation_is_shared_out_by_positive_parts():
    """By hand: two inputs of a sum of branches, signs of weights and inputs, a bias that gets nothing."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.one, self.head = nn.Identity(), nn.Conv2d(3, 1, 1), nn.Linear(1, 2)
            self.one.weight.data = torch.tensor([2.0, -1.0, 3.0]).view(1, 3, 1, 1)
            self.one.bias.data.fill_(100.0)
            self.head.weight.data = torch.tensor([[1.0], [-1.0]])

        def forward(self, x):
            x = self.body(x)
            return self.head(self.one(x).mean((2, 3)))

    x = torch.zeros(1, 3, 2, 2)
    x[0, :, 0, 0], x[0, :, 1, 1] = torch.tensor([0.5, -0.25, -4.0]), torch.tensor([0.0, 1.0, 0.25])
    # parts: 2*0.5 + (-1)(-0.25) at (0,0), 3*0.25 at (1,1); the mean shares out by what it gets, all places
    network = frozen(Net())
    p = excitation_at(choose_layer(x, network, "body"), x, torch.tensor([0]))
    z = network.network.one(x)[0, 0].clamp(min=0)  # what the mean gets: 100 + 2*0.5 + 0.25 - 12, 100, 100, 100 - 1 + 0.75
    expected = z / z.sum() * torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # where nothing is positive, nobody gets it
    torch.testing.assert_close(p[0, 0], expected)
    x, weight = torch.tensor([[0.5, -0.25, -4.0, 1.0]]).requires_grad_(), torch.tensor([[2.0, -1.0, 3.0, 0.0]])
    bias, rules = torch.tensor([7.0]), ExcitationRules("net")
    with rules:
        rules.active = True
        out = F.linear(x, weight, bias)
    assert out.item() == 1 + 0.25 - 12 + 7
    torch.testing.assert_close(torch.autograd.grad(out.sum(), x)[0], torch.tensor([[0.8, 0.2, 0.0, 0.0]]))
    a, b = torch.tensor([[3.0, -1.0, -1.0]]).requires_grad_(), torch.tensor([[1.0, 2.0, -2.0]]).requires_grad_()
    rules = ExcitationRules("net")
    with rules:
        rules.active = True
        total = a + b
    shares = torch.autograd.grad(total.sum(), (a, b))
    assert total.tolist() == [[4, 1, -3]] and [s.tolist() for s in shares] == [[[0.75, 0, 0]], [[0.25, 1, 0]]]


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        y = self.inner(x)
        y += x
        return torch.cat([y, F.relu(y)], 1)[:, :8]


def test_excitation_conserves_probability():
    """No mass is lost on the way where some part is positive, whatever the signs of the activations."""
    inner = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU6(inplace=True), nn.Conv2d(8, 8, 1))
    classifier = frozen(chain(Residual(inner), nn.MaxPool2d(2)))
    for layer in (inner[0], inner[3], classifier.network[7], *classifier.network[13::2]):
        layer.weight[:, 0].abs_()  # the first neuron is positive everywhere, and speaks for all
        layer.weight[0].abs_()
        layer.bias[0] = 1
    classifier.network[2].weight.abs_()  # and so are all of a sum's second branch
    classifier.network[2].bias.fill_(1)
    inner[3].weight[1:].mul_(20).sub_(2)  # those of its first are not
    p = excitation_at(choose_layer(IMAGES, classifier, "2"), IMAGES, TARGETS)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum((1, 2, 3)), torch.ones(3))


@pytest.mark.parametrize("network, layer, rule", [(vit, None, "layer_norm"), (lambda: Checkers(nn.SiLU), "first", "silu")])
def test_a_layer_without_a_rule_is_named(network, layer, rule):
    with pytest.raises(ValueError, match=f"has no rule for {rule}, which model"):
        explain("excitation_backprop", frozen(network()), layer=layer)
