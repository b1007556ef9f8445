"""Gradient, SmoothGrad and integrated gradients against Captum and by their definitions."""

import pytest
import torch
from explainers.scene import IMAGES, TARGETS, Checkers, explain, frozen
from torch import nn

from mpx.randomness import RowRandom

pytest.importorskip("captum")


def test_gradient_is_captums():
    from captum.attr import Saliency

    classifier = frozen(Checkers())
    theirs = Saliency(classifier).attribute(IMAGES.clone().requires_grad_(), TARGETS).amax(1, keepdim=True)
    torch.testing.assert_close(explain("gradient", classifier), theirs)


def test_smoothgrad_is_the_mean_over_a_rows_own_noise():
    classifier = frozen(Checkers(nn.Softplus))
    torch.testing.assert_close(explain("smoothgrad", classifier, noise=0.0), explain("gradient", classifier))
    total = 0
    for k in range(7):
        noise = RowRandom([100, 101, 102]).at("smoothgrad", k).normal(3, 32, 32)
        x = (IMAGES + 0.2 * (IMAGES.amax((1, 2, 3)) - IMAGES.amin((1, 2, 3)))[:, None, None, None] * noise).requires_grad_()
        total = total + torch.autograd.grad(classifier(x)[:, 1].sum(), x)[0] / 7
    torch.testing.assert_close(explain("smoothgrad", classifier, noise=0.2), total.abs().amax(1, keepdim=True))


@pytest.mark.parametrize("blur", [None, 2.0])
def test_integrated_gradients_add_up_to_the_change_of_the_logit(blur):
    from mpx.perturbations.blur import gaussian_blur

    classifier = frozen(Checkers(nn.Softplus))
    start = torch.zeros_like(IMAGES) if blur is None else gaussian_blur(IMAGES, blur)
    change = (classifier(IMAGES) - classifier(start))[:, 1]
    relevance = explain("integrated_gradients", classifier, blur=blur, steps=64)
    torch.testing.assert_close(relevance.sum((1, 2, 3)), change, atol=1e-4, rtol=1e-4)
