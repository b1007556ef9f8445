"""Grad-CAM and Group-CAM against Captum and by hand, and the layer that they use."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from explainers.scene import IMAGES, TARGETS, Checkers, chain, explain, frozen, vit
from torch import nn

from mpx.explainers.layer_maps import choose_layer, upsample

pytest.importorskip("captum")


@pytest.mark.parametrize("layer", ["second", "act1"])
def test_gradcam_is_captums(layer):
    from captum.attr import LayerGradCam

    classifier = frozen(Checkers(partial(nn.ReLU, inplace=True)))
    method = LayerGradCam(classifier, getattr(classifier.network, layer))
    theirs = method.attribute(IMAGES.clone(), TARGETS, relu_attributions=True).detach()
    torch.testing.assert_close(explain("gradcam", classifier, layer=layer), upsample(theirs, IMAGES))


@pytest.mark.parametrize("name", ["gradcam", "group_cam"])
def test_transformers_have_maps_too(name):
    relevance = explain(name, frozen(vit()), targets=torch.tensor([0, 1, 2]))
    assert relevance.isfinite().all() and relevance.any()
    with pytest.raises(
        ValueError, match="explainer.layer='encode' is not a module of model VisionTransformer; near it: encoder"
    ):
        explain(name, frozen(vit()), layer="encode")


def test_the_layer_is_the_last_before_any_pooling():
    network = chain(nn.MaxPool2d(2))
    assert choose_layer(IMAGES, frozen(network), None).name == "network.7"  # the ReLU of the last convolution
    assert choose_layer(IMAGES, frozen(Checkers()), None).name == "network.act2"


def test_group_cam_by_hand():
    """One photo and one group at a time, in NumPy where it can be."""
    classifier = frozen(Checkers())
    from mpx.perturbations.blur import gaussian_blur

    blurred, net, groups = gaussian_blur(IMAGES, 5.0), classifier.network, 4
    with torch.no_grad():
        features = net.act1(net.norm(net.first(IMAGES)))
    slopes = features.clone().requires_grad_()
    logits = net.head(net.pool(net.act2(net.second(slopes) + slopes)).mean((2, 3)))
    slopes = torch.autograd.grad(logits[:, 1].sum(), slopes)[0]
    expected = []
    for x, soft, a, g in zip(IMAGES, blurred, features, slopes):
        total, base = np.zeros((32, 32)), classifier(soft[None]).softmax(1)[0, 1].item()
        weighted = (g.mean((1, 2), keepdim=True) * a).numpy()
        for group in np.array_split(weighted, 3):  # ceil(6 / 4) = 2 channels each
            cells = np.maximum(group.sum(0), 0)
            cells = np.where(cells > np.percentile(cells, 70), cells, 0)
            cells = F.interpolate(torch.from_numpy(cells)[None, None], size=(32, 32), mode="bilinear")[0, 0].numpy()
            if cells.max() == cells.min():
                continue
            mask = (cells - cells.min()) / (cells.max() - cells.min())
            shown = x * torch.from_numpy(mask) + soft * torch.from_numpy(1 - mask)
            total += (classifier(shown[None]).softmax(1)[0, 1].item() - base) * mask
        expected.append(torch.from_numpy(np.maximum(total, 0)).float()[None])
    ours = explain("group_cam", classifier, layer="act1", groups=groups)
    torch.testing.assert_close(ours, torch.stack(expected), atol=1e-5, rtol=1e-4)
    assert (ours.amax((1, 2, 3)) > 0).all()
