"""The gradient of a folded network is that of its function, also for a single image before a transposition.

torch's batch norm and instance norm have a wrong backward there (2.14, CPU), as for the tokens of a hybrid.
"""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn

from mpx import explain
from mpx.models import Classifier
from mpx.models.checks import check_classifier

X = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NORMS = {
    "batch": nn.BatchNorm2d,
    "without weights": partial(nn.BatchNorm2d, affine=False),
    "with activation": BatchNormAct2d,
    "of a sequence": nn.BatchNorm1d,
    "instance": nn.InstanceNorm2d,
    "instance with weights": partial(nn.InstanceNorm2d, affine=True),
    "instance with statistics": partial(nn.InstanceNorm2d, affine=True, track_running_stats=True),
}


class Hybrid(nn.Module):
    """A convolution and a norm, adjacent or not, then tokens."""

    def __init__(self, norm, adjacent):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.adjacent = nn.Conv2d(3, 8, 3, 2), norm(8), adjacent
        self.first = nn.Parameter(torch.randn(1, 1, 8))
        self.tokens = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())
        self.head = nn.Linear(8, 5)
        for name in ("running_mean", "running_var", "weight", "bias"):
            if (values := getattr(self.norm, name)) is not None:
                values.data.uniform_(0.5, 2)

    def forward(self, x):
        x = self.conv(x)
        x = x if self.adjacent else F.gelu(x)
        x = self.norm(x.flatten(2) if isinstance(self.norm, nn.BatchNorm1d) else x)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        return self.head(self.tokens(x).square().mean(1))


def slopes(classifier, x, directions, h=1e-5):
    """Return the derivatives (B,N) of the second logit in directions (N,C,H,W), by finite differences in float64."""
    exact = copy.deepcopy(classifier).double()
    ends = (exact(x.double() + sign * h * d)[:, 1] for d in directions for sign in (1, -1))
    return torch.stack([(a - b) / (2 * h) for a, b in zip(ends, ends)], 1)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("adjacent", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_gradient_equals_finite_differences(name, adjacent, order):
    classifier = Classifier(Hybrid(NORMS[name], adjacent).eval().to(memory_format=order), 0.5, 0.5)
    directions = torch.randn(6, *X.shape[1:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with classifier.frozen():
        expected = slopes(classifier, X, directions).detach()
        logits = classifier(X)
    for rows in ([0], [1], [0, 1]):
        images = X[rows]
        with classifier.frozen_and_folded(images):
            assert bool(classifier.folded) == (adjacent and name in ("batch", "without weights", "with activation"))
            x = images.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(classifier(x)[:, 1].sum(), x)
            check_classifier(classifier, images)
            torch.testing.assert_close(classifier(X), logits, atol=1e-5, rtol=1e-4)
        found = torch.einsum("bchw,nchw->bn", gradient.double(), directions)
        torch.testing.assert_close(found, expected[rows], atol=1e-4 * expected.abs().max().item(), rtol=1e-3)


@pytest.mark.parametrize("name", ["batch", "instance"])
def test_an_image_alone_has_the_mask_that_it_has_beside_another(name):
    classifier = Classifier(Hybrid(NORMS[name], False).eval(), 0.5, 0.5)
    options = dict(target=0, score="logit", steps=20, mask_size=4, lambda_l1=0.0, perturbation="mean_color", lr=0.2, prune=0)
    alone, beside = explain(classifier, X[:1], **options), explain(classifier, X, **options)
    assert alone.saliency.std() > 0.1
    torch.testing.assert_close(alone.saliency, beside.saliency[:1], atol=1e-3, rtol=0)


def test_the_norm_of_an_unfolded_convolution_has_right_gradients_too():
    """As where an explainer names this convolution as its layer."""
    network = Hybrid(nn.BatchNorm2d, True).eval()
    with Classifier(network).frozen_and_folded(X) as classifier:
        classifier.unfold([network.conv])
        assert not classifier.folded and "forward" not in vars(network.conv)
        check_classifier(classifier, X)
        with classifier.unfolded():
            assert "forward" not in vars(network.norm)
        check_classifier(classifier, X)
    assert not any("forward" in vars(module) for module in network.modules())
