"""What every explainer of configs/explainer/ must do."""

import copy
import inspect
import sys
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from explainers.scene import (
    EXPLAINERS,
    IMAGES,
    INSIDE,
    NAMES,
    OPTIONS,
    explain,
    frozen,
    network_for,
)
from planted import SquareNet
from torch import Tensor, nn

from mpx.explainers.base import to_saliency

pytest.importorskip("captum")

NETWORKS = [name for name in EXPLAINERS if "max_batch" in OPTIONS[name].keywords]  # the others do not run the network

PIXELS = ["gradient", "smoothgrad", "integrated_gradients", "occlusion", "rise", "smdl", "vps"]  # use no layer


@pytest.fixture
def maps(tmp_path):
    for seed, name in enumerate(NAMES):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(seed).random((32, 32), np.float32))
    return tmp_path


def share_inside(saliency: Tensor) -> Tensor:
    """Return the share (B,) of the saliency in the square or a pixel from it, 100/1024 of the image."""
    near = F.max_pool2d(INSIDE[None, None].float(), 3, 1, 1)
    return (saliency * near).sum((1, 2, 3)) / saliency.sum((1, 2, 3))


@pytest.mark.parametrize("name", NETWORKS)
def test_evidence_is_found_in_the_square(name):
    saliency = to_saliency(explain(name, frozen(network_for(name))))
    assert saliency.shape == (3, 1, 32, 32) and all(INSIDE[s[0] == s.max()].any() for s in saliency)
    # rise: 300 masks; smdl and vps: an order; group_cam and gradcam: cells of two pixels with zeros around
    assert (share_inside(saliency) > (0.1 if name in ("rise", "smdl", "vps") else 0.5)).all(), share_inside(saliency)


@pytest.mark.parametrize("name", PIXELS)
def test_networks_without_layers_have_maps_too(name):
    saliency = to_saliency(explain(name, frozen(SquareNet())))
    assert all(INSIDE[s[0] == s.max()].any() for s in saliency) and (share_inside(saliency) > 0.1).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_mode_of_the_caller_does_not_matter(name):
    with torch.no_grad():
        without = explain(name, frozen(network_for(name)))
        assert not torch.is_grad_enabled()
    assert torch.equal(without, explain(name, frozen(network_for(name))))


@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_batch_gives_the_maps_of_single_runs_in_any_chunks(name, maps):
    classifier, targets = frozen(network_for(name)), torch.tensor([1, 0, 2])
    together = explain(name, classifier, targets=targets, folder=maps)
    assert together.dtype == torch.float32 and not together.requires_grad and together.isfinite().all()
    singles = [explain(name, classifier, IMAGES[i : i + 1], targets[i : i + 1], rows=(i,), folder=maps) for i in range(3)]
    scale = together.abs().max().item()
    torch.testing.assert_close(together, torch.cat(singles), atol=1e-5 * scale, rtol=1e-4)
    if name in NETWORKS:
        for max_batch in (1, 2, 4):
            torch.testing.assert_close(
                explain(name, classifier, targets=targets, max_batch=max_batch), together, atol=1e-5 * scale, rtol=1e-4
            )


@pytest.mark.parametrize("name", NETWORKS)
def test_at_most_max_batch_images_go_through_at_once(name):
    classifier, seen = frozen(network_for(name)), []
    classifier.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    explain(name, classifier, max_batch=2)
    assert max(seen) <= 2


def fail_after(network: nn.Module, images: int) -> None:
    """Make the network fail after this many images more."""
    left = [images]

    def count(module: nn.Module, given: tuple) -> None:
        left[0] -= len(given[0])
        if left[0] < 0:
            raise ZeroDivisionError

    network.register_forward_pre_hook(count)


def state(classifier):
    kinds = ("training", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = [([copy.copy(vars(m)[kind]) for kind in kinds], "forward" in vars(m)) for m in classifier.modules()]
    flags = [(p.requires_grad, p.grad is None) for p in classifier.parameters()]
    return modules, flags, {k: v.clone() for k, v in classifier.state_dict().items()}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("left", [10**9, 4])
@pytest.mark.parametrize("folded", [False, True])
def test_the_network_stays_as_it_was(name, left, folded):
    classifier = frozen(network_for(name))
    photos, copied = IMAGES.clone(), IMAGES.clone()
    classifier.network.first.register_forward_hook(lambda *hooked: None) if not folded else None  # the user's own stays
    with classifier.frozen_and_folded(IMAGES) if folded else classifier.frozen():
        explain("gradcam", classifier)  # what a layer unfolds stays unfolded
        if name != "legrad":  # whose network has attention
            explain("excitation_backprop", classifier)
        fail_after(classifier.network, left)
        before = state(classifier)
        try:
            explain(name, classifier, photos)
        except ZeroDivisionError:
            assert left == 4
        after = state(classifier)
    assert after[:2] == before[:2] and all(torch.equal(value, before[2][key]) for key, value in after[2].items())
    assert torch.equal(photos, copied)


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_batch_norms_change_nothing(name):
    classifier = frozen(network_for(name))
    plain = explain(name, classifier)
    with classifier.frozen_and_folded(IMAGES):
        assert classifier.folded
        folded = explain(name, classifier)
    torch.testing.assert_close(folded, plain, atol=1e-4 * plain.abs().max().item(), rtol=1e-3)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_yaml_options_are_the_functions_defaults(name):
    part = OPTIONS[name]
    parameters = inspect.signature(part.func).parameters
    assert list(parameters)[:4] == ["images", "classifier", "targets", "context"]
    assert part.keywords == {k: p.default for k, p in parameters.items() if p.default is not p.empty}


@pytest.mark.parametrize("name", [name for name in EXPLAINERS if name not in NETWORKS])
def test_an_explainer_without_max_batch_does_not_run_the_network(name, maps):
    network = network_for(name)
    fail_after(network, 0)
    assert explain(name, frozen(network), folder=maps).shape == (3, 1, 32, 32)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_an_impossible_option_is_refused_by_its_name(name, maps):
    classifier = frozen(network_for(name))
    numeric = [key for key, value in OPTIONS[name].keywords.items() if isinstance(value, (int, float, type(None)))]
    for key, value in product(numeric, (-1, 0, float("nan"))):
        try:
            assert explain(name, classifier, **{"folder": maps, key: value}).shape == (3, 1, 32, 32)
        except ValueError as error:
            assert f"explainer.{key}=" in str(error)
        else:
            assert value == 0 and key != "max_batch" or value == -1 and key == "layer", f"{key}={value} is accepted"


def test_saliency():
    relevance = torch.tensor([[-2.0, 0.0, 1.0, 4.0], [-3.0, -2.0, -1.0, -5.0], [7.0] * 4, [0.0] * 4, [1e-39, 0, 0, 0]])
    saliency = to_saliency(relevance.view(5, 1, 2, 2)).flatten(1)
    assert saliency[0].tolist() == [0, 0, 0.25, 1] and not saliency[1:4].any() and saliency[4].tolist() == [1, 0, 0, 0]
    assert to_saliency(torch.tensor([[[[float("nan"), 1.0]]]])).isnan().any()


@pytest.mark.parametrize(
    "name, options, text",
    [
        ("smoothgrad", {"samples": 0}, "explainer.samples=0 must be at least 1"),
        ("smoothgrad", {"noise": -1.0}, "explainer.noise=-1.0 must be a finite number, at least 0"),
        ("integrated_gradients", {"steps": 0}, "explainer.steps=0 must be at least 1"),
        (
            "occlusion",
            {"patch": 33},
            "explainer.patch=33 must be from explainer.stride=2 to the image's shorter side, 32 px",
        ),
        ("occlusion", {"stride": 7}, "explainer.patch=6 must be from explainer.stride=7"),
        ("occlusion", {"color": [2, 0, 0]}, "color=\\[2, 0, 0\\] must be a number from 0 to 1, or one"),
        ("rise", {"keep": 1.0}, "explainer.keep=1.0 must be a probability, above 0"),
        ("rise", {"cells": 0}, "explainer.cells=0 must be at least 1"),
        ("group_cam", {"share": 1.0}, "explainer.share=1.0 must be at least 0 and below 1"),
        ("group_cam", {"groups": 0}, "explainer.groups=0 must be at least 1"),
        ("excitation_backprop", {"min_map_fraction": 0.0}, "explainer.min_map_fraction=0.0 must be above 0"),
        ("smdl", {"pending": 0}, "explainer.pending=0 must be at least 1"),
        ("vps", {"regions": 300}, "explainer.regions=300 must be from 2 to 256, a quarter of the pixels"),
        ("center", {"sigma": 0.0}, "explainer.sigma=0.0 must be a finite number above 0"),
        ("files", {"folder": None}, "explainer.folder=None is not a folder: give the folder with <name>.npz, .npy or .png"),
    ],
)
def test_invalid_options_are_one_sentence(name, options, text):
    with pytest.raises(ValueError, match=text):
        explain(name, frozen(network_for(name)), **options)


@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion"])
def test_captum_is_optional(name, monkeypatch):
    for module in [m for m in sys.modules if m.partition(".")[0] == "captum"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ValueError, match=f'explainer={name} needs Captum: pip install "mpx\\[baselines\\]"'):
        explain(name, frozen(network_for(name)))
