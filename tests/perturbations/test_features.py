"""Masks of a layer's features: what replaces them, and that the network is restored."""

import pytest
import torch
from contexts import mask_context, regularizer_context
from methods.reference import NETWORK, photos
from models.layered_networks import Last, classifier, network, vit
from torch import Tensor, nn

from mpx import Classifier, config, explain, method
from mpx.data import reference_images
from mpx.learning.objective import Objective
from mpx.masks.elements import Elements
from mpx.perturbations import features as layers
from mpx.randomness import RowRandom
from mpx.regularizers import information

PHOTOS = torch.from_numpy(photos(3)).float()
PRESETS = {"iba2020": (), "channels2019": ("steps=60",)}


def problem(experiment: str, net: nn.Module, *overrides: str, x: Tensor = PHOTOS) -> Objective:
    targets = torch.arange(len(x)) % 3
    result = net if isinstance(net, Classifier) else classifier(net)
    method = config.method(experiment, *overrides)
    areas = None if method.areas == (None,) else torch.full((len(x),), method.areas[0])
    return Objective(method, result, x, targets, ["a", "b", "c"], areas)


@pytest.mark.parametrize("experiment", PRESETS)
@pytest.mark.parametrize(
    "net, layer", [(network, "1"), (lambda: network(Last()), "4"), (vit, "encoder.layers.encoder_layer_1")]
)
def test_ones_leave_the_network_unchanged_and_zeros_do_not(experiment, net, layer):
    sigma = ["mask.sigma=0"] if experiment == "iba2020" else []
    p = problem(experiment, net(), f"perturbation.layer={layer}", *sigma)
    with torch.no_grad():
        pictures, kept = p.evaluate(torch.ones(3, *p.perturbation.mask_shape))
        taken = p.evaluate(torch.zeros(3, *p.perturbation.mask_shape))[1]
        kept, taken = (p.task.value(output, p.targets) for output in (kept, taken))
    assert torch.equal(pictures, PHOTOS)  # which the network is given, whatever the mask
    torch.testing.assert_close(kept, p.value_before)
    assert (taken - p.value_before).abs().min() > 1e-4 and torch.equal(taken, p.value_reference)


def test_a_channel_of_0_is_a_channel_cut_off():
    p, net = problem("channels2019", network(), "perturbation.layer=2"), network()
    net(PHOTOS)
    mask = torch.ones(3, 6, 1, 1)
    mask[1, 2] = mask[2, :4] = 0
    cut = net[2](net[1](net[0](PHOTOS)))
    cut[1, 2] = cut[2, :4] = 0
    torch.testing.assert_close(p.evaluate(mask)[1], net[3:](cut))


def test_contributions_of_channels_add_up_to_the_logit():
    """The last map enters the logits linearly: what its channels add is the logit, but for the bias."""
    net = network()
    p = problem("channels2019", net, "perturbation.layer=3")
    logits = net(PHOTOS)[range(3), range(3)] - net[-1].bias[:3]
    torch.testing.assert_close(p.perturbation.contributions.sum((1, 2, 3)), logits)


def test_noise_has_the_mean_and_spread_of_the_features(tmp_path):
    """Mean and spread over many draws are those over the images; a row draws its own."""
    site = problem("iba2020", network(), "perturbation.layer=2").perturbation
    drawn = torch.stack([site.sample(RowRandom([1, 2, 3]).at(i)) for i in range(3000)])
    torch.testing.assert_close(drawn[:, 1].mean(0), site.mean, atol=0.08 * site.std.max().item(), rtol=0)
    torch.testing.assert_close(drawn[:, 1].std(0) / site.std, torch.ones(site.mask_shape), atol=0.08, rtol=0)
    assert not torch.equal(drawn[:, 0], drawn[:, 1])


def test_statistics_are_computed_once_until_the_weights_change(monkeypatch):
    net, asked = classifier(network()), []
    monkeypatch.setattr(reference_images, "BUNDLED", reference_images.BUNDLED[:2])
    statistics = layers._statistics
    monkeypatch.setattr(layers, "_statistics", lambda *given: asked.append(1) or statistics(*given))
    first = problem("iba2020", net, "perturbation.layer=2").perturbation
    again = problem("iba2020", net, "perturbation.layer=2").perturbation
    assert len(asked) == 1 and again.mean is first.mean
    with torch.no_grad():
        net.network[0].weight.mul_(2)
    assert not torch.equal(problem("iba2020", net, "perturbation.layer=2").perturbation.mean, first.mean) and len(asked) == 2
    problem("iba2020", net, "perturbation.layer=1", "mask.sigma=0")
    assert len(asked) == 3


def test_gradient_of_the_information_is_that_of_finite_differences():
    site = problem("iba2020", network(), "perturbation.layer=2").perturbation
    site.features, site.mean, site.std = site.features.double(), site.mean.double(), site.std.double()
    mask = torch.rand(3, 6, 8, 8, dtype=torch.float64) * 0.9 + 0.05
    check = lambda m: information(m, regularizer_context(m, images=m, perturbation=site))  # noqa: E731
    assert torch.autograd.gradcheck(check, mask.clone().requires_grad_(), fast_mode=True)
    assert check(torch.zeros_like(mask)).tolist() == [0, 0, 0] and (check(mask) > 0).all()
    assert check(torch.ones_like(mask)).isfinite().all()


@pytest.mark.parametrize("experiment", PRESETS)
def test_a_batch_of_three_is_three_single_runs(experiment):
    chosen = method(experiment, "perturbation.layer=conv", *PRESETS[experiment])
    together = explain(NETWORK, PHOTOS, 2, method=chosen)
    singles = [explain(NETWORK, photo, 2, method=chosen) for photo in PHOTOS]
    for name in ("parameter", "saliency", "value_after"):
        result = torch.cat([getattr(e, name) for e in singles])
        torch.testing.assert_close(getattr(together, name), result, atol=1e-4, rtol=0)
    assert not torch.allclose(together.parameter[0], together.parameter[1], atol=1e-2)
    assert torch.equal(together.perturbed, PHOTOS) and torch.equal(together.area, together.saliency.mean((1, 2, 3)))


FINE = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 2)  # a checkerboard of pixels, and one of pairs
COARSE = FINE[:2, :2].repeat_interleave(2, 0).repeat_interleave(2, 1)


class Corner(nn.Module):
    """Looks for two checkerboards in the upper left quarter, by channels 1 and 4 of eight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 8, 4, 4, bias=False)
        self.body.weight.data[1], self.body.weight.data[4] = FINE / 48, COARSE / 48

    def forward(self, x):
        seen = self.body(x)[:, [1, 4], :4, :4].mean((1, 2, 3))
        return torch.stack([torch.full_like(seen, 4.0), 80 * seen], 1)


def cornered(x: Tensor) -> Tensor:
    """With both checkerboards in the corner."""
    x = 0.4 + 0.2 * x
    x[..., :16, :16] += 0.15 * (FINE + COARSE).repeat(4, 4)
    return x


def test_the_bottleneck_lets_pass_what_the_class_needs():
    # a nat costs lambda/512 here, with the paper's 10 a few hundred times what it costs in a real network's layer
    e = explain(Corner(), cornered(PHOTOS), 1, method=method("iba2020", "steps=40", "lambda_information=1"))
    mask = e.parameter.sigmoid()
    needed = torch.zeros(8, 8, 8, dtype=torch.bool)
    needed[[1, 4], :4, :4] = True
    assert (mask[:, needed].mean(1) > 4 * mask[:, ~needed].mean(1)).all()
    inside, outside = e.saliency[..., :16, :16].mean((1, 2, 3)), e.saliency[..., 20:, 20:].mean((1, 2, 3))
    assert (inside > 5 * outside).all() and (e.saliency.amax((1, 2, 3)) == 1).all()
    assert (e.value_after > 0.8 * e.value_before).all() and (e.value_reference < 0.1).all() and (e.value_before > 0.9).all()


def test_the_channels_that_the_class_needs_are_kept():
    e = explain(Corner(), cornered(PHOTOS), 1, method=method("channels2019", "area=0.25", "steps=200"))
    kept = e.parameter[:, :, 0, 0] > 0.5
    assert kept.sum(1).tolist() == [2, 2, 2] and kept[:, [1, 4]].all()
    torch.testing.assert_close(e.value_after, e.value_before, atol=0.05, rtol=0)
    assert (e.saliency[..., 20:, 20:] == 0).all() and (e.saliency[..., :16, :16].mean((1, 2, 3)) > 0.5).all()


@pytest.mark.parametrize("experiment", PRESETS)
def test_a_layer_may_be_followed_by_one_that_works_in_place(experiment):
    body = nn.Conv2d(3, 4, 4, 4)
    result = []
    for inplace in (False, True):
        net = nn.Sequential(body, nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(256, 3, bias=False))
        nn.init.constant_(net[3].weight, 0.1)
        e = explain(net, PHOTOS, 1, method=method(experiment, "steps=3", "perturbation.layer=0"))
        result.append((e.parameter, e.saliency))
    assert torch.equal(result[0][0], result[1][0]) and torch.equal(result[0][1], result[1][1])


@pytest.mark.parametrize("experiment", PRESETS)
def test_hooks_are_removed_and_the_users_stay(experiment):
    net, seen = Corner(), []
    net.body.register_forward_hook(lambda module, given, out: seen.append(out))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    explain(net, PHOTOS, 1, method=method(experiment, "steps=2", "perturbation.layer=body"))
    assert len(net.body._forward_hooks) == 1 and all(not m._forward_hooks for m in net.modules() if m is not net.body)
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    with torch.no_grad():
        assert all(torch.equal(out, net.body(PHOTOS)) for out in seen[-3:-1] if len(out) == 3)  # before ours changed it


@pytest.mark.parametrize("experiment", PRESETS)
def test_hooks_are_removed_when_the_network_fails(experiment):
    p = problem(experiment, network(), "perturbation.layer=1")
    inputs = p.perturbation.network_inputs(p.perturbation.sample(p.rng), torch.ones(3, *p.perturbation.mask_shape))
    with pytest.raises(ZeroDivisionError), p.perturbation.patched_network(*inputs):
        raise ZeroDivisionError
    assert not any(m._forward_hooks for m in p.classifier.modules())


def test_elements():
    mask = Elements(mask_context((5, 9, 11)), sigmoid=True, sigma=1.0, init=5.0)
    start = mask.initial(RowRandom([1, 2]))
    assert start.shape == (2, 5, 9, 11) and (start == 5).all() and mask.shape == (5, 9, 11)
    torch.testing.assert_close(mask(start), torch.full((2, 5, 9, 11), 5.0).sigmoid())  # smoothing keeps a constant
    one = torch.full((1, 5, 9, 11), -20.0)
    one[0, 2, 4, 5] = 20
    smooth = mask(one)
    assert smooth[0, 2].sum() == pytest.approx(1) and smooth[0, 2, 4, 5] == pytest.approx(1 / (2 * torch.pi), rel=0.02)
    assert smooth[0, [0, 1, 3, 4]].abs().max() < 1e-6  # each channel by itself
    mask.project_(one)
    assert one.min() == -20  # unconstrained
    held = Elements(mask_context((5, 1, 1)))
    parameter = torch.tensor([-1.0, 0.5, 2.0])
    held.project_(parameter)
    assert parameter.tolist() == [0, 0.5, 1] and held(parameter) is parameter and (held.initial(RowRandom([1])) == 1).all()


def test_a_mask_of_pixels_may_have_one_element_for_each():
    e = explain(NETWORK, PHOTOS[:1], 2, mask="elements", perturbation="mean_color", steps=3, jitter=0, ranking="mask")
    torch.testing.assert_close(e.parameter, e.mask)  # of one shape


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["perturbation.layer=bodi"], "perturbation.layer='bodi' is not a module of model Corner; near it: body"),
        (["perturbation.layer=''"], "perturbation.layer=''"),
        (["perturbation.min_map_fraction=0"], "perturbation.min_map_fraction=0"),
        (["perturbation.reference_images.images=/nowhere/at/all"], "/nowhere/at/all"),
        (["mask.sigma=3"], "mask.sigma=3 is too wide for a map of 8x8"),
        (["mask.sigmoid=false"], "mask.init=5.0 must be from 0 to 1"),
        (["perturbation=blur_gaussian", "perturbation.sigma=2"], "regularizer=information .*perturbation=bottleneck"),
        (["augment=[jitter]"], "jitter=0"),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(ValueError, match=message):
        explain(Corner(), PHOTOS, 1, method=method("iba2020", "steps=1", *overrides))


def test_unsuitable_layers_are_named():
    class Twice(Corner):
        def __init__(self):
            super().__init__()
            self.act, self.head = nn.Tanh(), nn.Linear(2, 2)

        def forward(self, x):
            return self.head(super().forward(self.act(self.act(x))))

    for layer, message in (("act", "'act' runs 2 times"), ("head", "'head' gives neither a map")):
        with pytest.raises(ValueError, match=message):
            explain(Twice(), PHOTOS, 1, method=method("channels2019", f"perturbation.layer={layer}"))

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            return self.head(x.mean((2, 3)))

    with pytest.raises(ValueError, match="has no layer .* perturbation.layer="):
        explain(Bare(), PHOTOS, 1, method=method("channels2019"))
