"""What every explainer of configs/explainer must do, and each beside a second implementation or by hand."""

import copy
import inspect
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from explainers.networks import INSIDE, PHOTOS, TARGETS, Checkers, frozen
from PIL import Image
from planted import SquareNet
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from mpx import config
from mpx.explainers.base import ExplainerContext, to_saliency
from mpx.explainers.excitation_backprop import ExcitationRules, excitation_at
from mpx.explainers.layer_maps import choose_layer, upsample
from mpx.explainers.precomputed import files
from mpx.explainers.rise import shifted_masks
from mpx.randomness import RowRandom

pytest.importorskip("captum")
NAMES = ["a", "b", "c"]
CHEAP = {
    "smoothgrad": {"samples": 7},
    "integrated_gradients": {"steps": 10},
    "occlusion": {"patch": 6, "stride": 2},
    "rise": {"masks": 300},
    "group_cam": {"groups": 3, "sigma": 5.0, "kernel_size": None},
    "excitation_backprop": {"min_map_fraction": 0.5},
}
EXPLAINERS = config.options("explainer")
OPTIONS = {name: config.option("explainer", name) for name in EXPLAINERS}
NETWORKS = [name for name in EXPLAINERS if name not in ("center", "files")]
PIXELS = ["gradient", "smoothgrad", "integrated_gradients", "occlusion", "rise"]  # use no layer


@pytest.fixture
def maps(tmp_path):
    for seed, name in enumerate(NAMES):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(seed).random((32, 32), np.float32))
    return tmp_path


def explain(name, classifier, photos=PHOTOS, targets=TARGETS, rows=(0, 1, 2), folder=None, **options) -> Tensor:
    options = CHEAP.get(name, {}) | ({"folder": folder and str(folder)} if name == "files" else {}) | options
    context = ExplainerContext(RowRandom([100 + row for row in rows]), [NAMES[row] for row in rows])
    return partial(OPTIONS[name], **options)(photos, classifier, targets, context)


def found(saliency: Tensor) -> Tensor:
    """(B,): the share of the saliency in the square or a pixel from it, which is 100/1024 of the picture."""
    near = F.max_pool2d(INSIDE[None, None].float(), 3, 1, 1)
    return (saliency * near).sum((1, 2, 3)) / saliency.sum((1, 2, 3))


@pytest.mark.parametrize("name", NETWORKS)
def test_evidence_is_found_in_the_square(name):
    saliency = to_saliency(explain(name, frozen(Checkers())))
    most = saliency.flatten(1).argmax(1)
    assert saliency.shape == (3, 1, 32, 32) and INSIDE.flatten()[most].all()
    # rise: 300 masks; group_cam and gradcam: cells of two pixels with zeros around
    assert (found(saliency) > (0.1 if name == "rise" else 0.5)).all(), found(saliency)


@pytest.mark.parametrize("name", PIXELS)
def test_a_network_without_layers_can_be_asked_too(name):
    saliency = to_saliency(explain(name, frozen(SquareNet())))
    assert INSIDE.flatten()[saliency.flatten(1).argmax(1)].all() and (found(saliency) > 0.1).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_callers_gradient_mode_is_the_same_to_it(name):
    with torch.no_grad():
        without = explain(name, frozen(Checkers()))
        assert not torch.is_grad_enabled()
    assert torch.equal(without, explain(name, frozen(Checkers())))


@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_batch_gives_the_maps_of_single_runs_in_any_chunks(name, maps):
    classifier, targets = frozen(Checkers()), torch.tensor([1, 0, 2])
    together = explain(name, classifier, targets=targets, folder=maps)
    assert together.dtype == torch.float32 and not together.requires_grad and together.isfinite().all()
    singles = [explain(name, classifier, PHOTOS[i : i + 1], targets[i : i + 1], rows=(i,), folder=maps) for i in range(3)]
    scale = together.abs().max().item()
    torch.testing.assert_close(together, torch.cat(singles), atol=1e-5 * scale, rtol=1e-4)
    if name in NETWORKS:
        for max_batch in (1, 2, 4):
            torch.testing.assert_close(
                explain(name, classifier, targets=targets, max_batch=max_batch), together, atol=1e-5 * scale, rtol=1e-4
            )


@pytest.mark.parametrize("name", NETWORKS)
def test_at_most_max_batch_images_go_through_at_once(name):
    classifier, seen = frozen(Checkers()), []
    classifier.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    explain(name, classifier, max_batch=2)
    assert max(seen) <= 2


class Failing(Checkers):
    """Fails at its nth picture or later."""

    left = 10**9

    def forward(self, x):
        out = super().forward(x)
        self.left -= len(x)
        if self.left < 0:
            raise ZeroDivisionError
        return out


def state(classifier):
    kinds = ("training", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = [([copy.copy(vars(m)[kind]) for kind in kinds], "forward" in vars(m)) for m in classifier.modules()]
    flags = [(p.requires_grad, p.grad is None) for p in classifier.parameters()]
    return modules, flags, {k: v.clone() for k, v in classifier.state_dict().items()}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("left", [10**9, 4])
@pytest.mark.parametrize("folded", [False, True])
def test_the_network_is_handed_back_as_it_was(name, left, folded):
    classifier = frozen(Failing())
    photos, copied = PHOTOS.clone(), PHOTOS.clone()
    classifier.network.first.register_forward_hook(lambda *hooked: None) if not folded else None  # the user's own stays
    with classifier.frozen_and_folded((32, 32)) if folded else classifier.frozen():
        explain("gradcam", classifier)  # what a layer unfolds stays unfolded
        explain("excitation_backprop", classifier)
        before = state(classifier)
        classifier.network.left = left
        try:
            explain(name, classifier, photos)
        except ZeroDivisionError:
            assert left == 4
        after = state(classifier)
    assert after[:2] == before[:2] and all(torch.equal(value, before[2][key]) for key, value in after[2].items())
    assert torch.equal(photos, copied)


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_batch_norms_change_nothing(name):
    classifier = frozen(Checkers())
    plain = explain(name, classifier)
    with classifier.frozen_and_folded((32, 32)):
        assert classifier.folded
        folded = explain(name, classifier)
    torch.testing.assert_close(folded, plain, atol=1e-4 * plain.abs().max().item(), rtol=1e-3)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_yaml_options_are_the_functions_defaults(name):
    part = OPTIONS[name]
    parameters = inspect.signature(part.func).parameters
    assert list(parameters)[:4] == ["images", "classifier", "targets", "context"]
    assert part.keywords == {k: p.default for k, p in parameters.items() if p.default is not p.empty}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_empty_batch_is_refused(name):
    with pytest.raises(ValueError, match="explainer.max_batch=0 must be at least 1"):
        explain(name, frozen(Checkers()), max_batch=0)


# what the caller makes of it


def test_saliency():
    relevance = torch.tensor([[-2.0, 0.0, 1.0, 4.0], [-3.0, -2.0, -1.0, -5.0], [7.0] * 4, [0.0] * 4, [1e-39, 0, 0, 0]])
    saliency = to_saliency(relevance.view(5, 1, 2, 2)).flatten(1)
    assert saliency[0].tolist() == [0, 0, 0.25, 1] and not saliency[1:4].any() and saliency[4].tolist() == [1, 0, 0, 0]
    assert to_saliency(torch.tensor([[[[float("nan"), 1.0]]]])).isnan().any()


# gradients


def test_gradient_is_captums():
    from captum.attr import Saliency

    classifier = frozen(Checkers())
    theirs = Saliency(classifier).attribute(PHOTOS.clone().requires_grad_(), TARGETS).amax(1, keepdim=True)
    torch.testing.assert_close(explain("gradient", classifier), theirs)


def test_smoothgrad_is_the_mean_over_a_rows_own_noise():
    classifier = frozen(Checkers(nn.Softplus))
    torch.testing.assert_close(explain("smoothgrad", classifier, noise=0.0), explain("gradient", classifier))
    total = 0
    for k in range(7):
        noise = RowRandom([100, 101, 102]).at("smoothgrad", k).normal(3, 32, 32)
        x = (PHOTOS + 0.2 * (PHOTOS.amax((1, 2, 3)) - PHOTOS.amin((1, 2, 3)))[:, None, None, None] * noise).requires_grad_()
        total = total + torch.autograd.grad(classifier(x)[:, 1].sum(), x)[0] / 7
    torch.testing.assert_close(explain("smoothgrad", classifier, noise=0.2), total.abs().amax(1, keepdim=True))


@pytest.mark.parametrize("blur", [None, 2.0])
def test_integrated_gradients_add_up_to_the_change_of_the_logit(blur):
    from mpx.perturbations.blur import gaussian_blur

    classifier = frozen(Checkers(nn.Softplus))
    start = torch.zeros_like(PHOTOS) if blur is None else gaussian_blur(PHOTOS, blur)
    change = (classifier(PHOTOS) - classifier(start))[:, 1]
    relevance = explain("integrated_gradients", classifier, blur=blur, steps=64)
    torch.testing.assert_close(relevance.sum((1, 2, 3)), change, atol=1e-4, rtol=1e-4)


# changed backward passes


@pytest.mark.slow
def test_guided_backprop_is_captums_and_torchrays():
    from captum.attr import GuidedBackprop

    classifier = frozen(Checkers())
    ours = explain("guided_backprop", classifier)
    theirs = GuidedBackprop(classifier).attribute(PHOTOS, TARGETS).abs().amax(1, keepdim=True)
    torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(ours, explain("gradient", classifier))
    theirs = pytest.importorskip("torchray.attribution.guided_backprop").guided_backprop(classifier, PHOTOS, TARGETS)
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
def test_relus_are_known_in_every_form(name, act):
    made = act()
    network = Checkers(act) if isinstance(made, nn.Module) else Functional(made)
    options = {"layer": "norm"} if name == "excitation_backprop" else {}  # which precedes them
    torch.testing.assert_close(explain(name, frozen(network), **options), explain(name, frozen(Checkers()), **options))


@pytest.mark.parametrize("act", [nn.SiLU, nn.GELU])
def test_a_network_without_relus_cannot_be_guided(act):
    with pytest.raises(ValueError, match="model Checkers has none: choose explainer=gradient"):
        explain("guided_backprop", frozen(Checkers(act)))


def chain(*between) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), *between,
        nn.Conv2d(8, 8, 3, 1, 1, groups=4), nn.ReLU(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(),
        nn.Linear(32, 9), nn.ReLU(), nn.Linear(9, 3),
    )  # fmt: skip


@pytest.mark.slow
def test_excitation_backprop_is_torchrays():
    theirs = pytest.importorskip("torchray.attribution.excitation_backprop").excitation_backprop
    classifier = frozen(chain(nn.MaxPool2d(2)))
    classifier.network[3].running_var.uniform_(0.5, 2)
    for layer in ("1", "4", "5"):
        expected = theirs(classifier, PHOTOS, TARGETS, saliency_layer=f"network.{layer}").detach()
        ours = explain("excitation_backprop", classifier, layer=layer)
        torch.testing.assert_close(ours, upsample(expected, PHOTOS), atol=1e-7, rtol=1e-4)
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
    photos = upsample(PHOTOS, torch.zeros(1, 1, 64, 64))
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


def test_what_is_shared_out_is_kept():
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
    p = excitation_at(choose_layer(PHOTOS, classifier, "2"), PHOTOS, TARGETS)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum((1, 2, 3)), torch.ones(3))


def vit() -> nn.Module:
    torch.manual_seed(0)
    net = VisionTransformer(32, 8, 4, 2, 16, 24, num_classes=3).eval()
    nn.init.normal_(net.heads.head.weight)
    return net


@pytest.mark.parametrize("network, layer, rule", [(vit, None, "layer_norm"), (lambda: Checkers(nn.SiLU), "first", "silu")])
def test_a_layer_without_a_rule_is_named(network, layer, rule):
    with pytest.raises(ValueError, match=f"has no rule for {rule}, which model"):
        explain("excitation_backprop", frozen(network()), layer=layer)


# maps of a layer


@pytest.mark.parametrize("layer", ["second", "act1"])
def test_gradcam_is_captums(layer):
    from captum.attr import LayerGradCam

    classifier = frozen(Checkers(partial(nn.ReLU, inplace=True)))
    method = LayerGradCam(classifier, getattr(classifier.network, layer))
    theirs = method.attribute(PHOTOS, TARGETS, relu_attributions=True).detach()
    torch.testing.assert_close(explain("gradcam", classifier, layer=layer), upsample(theirs, PHOTOS))


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
    assert choose_layer(PHOTOS, frozen(network), None).name == "network.7"  # the ReLU of the last convolution
    assert choose_layer(PHOTOS, frozen(Checkers()), None).name == "network.act2"


def test_group_cam_by_hand():
    """One photo and one group at a time, in NumPy where it can be."""
    classifier = frozen(Checkers())
    from mpx.perturbations.blur import gaussian_blur

    blurred, net, groups = gaussian_blur(PHOTOS, 5.0), classifier.network, 4
    with torch.no_grad():
        features = net.act1(net.norm(net.first(PHOTOS)))
    slopes = features.clone().requires_grad_()
    logits = net.head(net.pool(net.act2(net.second(slopes) + slopes)).mean((2, 3)))
    slopes = torch.autograd.grad(logits[:, 1].sum(), slopes)[0]
    expected = []
    for x, soft, a, g in zip(PHOTOS, blurred, features, slopes):
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


# covered photos


@pytest.mark.parametrize("color", [None, [0.1, 0.5, 0.9]])
def test_occlusion_by_hand(color):
    classifier = frozen(Checkers())
    classifier.shift.fill_(-0.4)
    classifier.scale.fill_(2.0)
    fill = torch.tensor(color or [0.2] * 3).view(3, 1, 1)
    total, count = torch.zeros(3, 1, 32, 32), torch.zeros(32, 32)
    before = classifier(PHOTOS).softmax(1)[:, 1]
    for y in (0, 5, 10, 15, 20, 25):  # the last reach over the edge: 25 + 10 > 32
        for x in (0, 5, 10, 15, 20, 25):
            covered = PHOTOS.clone()
            covered[:, :, y : y + 10, x : x + 10] = fill
            drop = before - classifier(covered).softmax(1)[:, 1]
            total[:, :, y : y + 10, x : x + 10] += drop[:, None, None, None]
            count[y : y + 10, x : x + 10] += 1
    ours = explain("occlusion", classifier, patch=10, stride=5, color=color)
    torch.testing.assert_close(ours, total / count, atol=1e-6, rtol=1e-4)


def test_rise_by_hand():
    """Each row's masks drawn, upsampled by scikit-image and weighted one by one."""
    from skimage.transform import resize

    classifier, photos = frozen(Checkers()), PHOTOS[..., :27]  # 32x27 px, cells of 8x7
    rng = RowRandom([100, 101, 102]).at("rise")
    grids = (rng.uniform(50, 4, 4) < 0.3).float().numpy()
    ys, xs = rng.integers(0, 7, 50), rng.integers(0, 6, 50)
    expected = torch.zeros(3, 1, 32, 27)
    for b in range(3):
        for k in range(50):
            mask = resize(grids[b, k], (5 * 8, 5 * 7), order=1, mode="edge", anti_aliasing=False)
            mask = torch.from_numpy(mask[ys[b, k] :, xs[b, k] :][:32, :27]).float()
            p = classifier((photos[b] * mask)[None]).softmax(1)[0, 1]
            expected[b, 0] += p * mask / (50 * 0.3)
        expected[b] -= expected[b].min()
    ours = explain("rise", classifier, photos, masks=50, cells=4, keep=0.3)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_masks_of_rise_keep_each_pixel_as_often():
    rng = RowRandom([1]).at("rise")
    grids, shifts = (rng.uniform(4000, 7, 7) < 0.5).float()[0][:, None], rng.integers(0, 4, 4000, 2)[0]
    masks = shifted_masks(grids, [5, 5], shifts, (32, 32))
    assert masks.shape == (4000, 1, 32, 32) and masks.min() == 0 and masks.max() == 1
    torch.testing.assert_close(masks.mean(0), torch.full((1, 32, 32), 0.5), atol=0.04, rtol=0)


# that need no network


def test_center():
    relevance = explain("center", None, PHOTOS[..., :20], sigma=0.2)
    assert relevance.shape == (3, 1, 32, 20) and torch.allclose(relevance, relevance.flip(2, 3))
    most = relevance[0, 0] > 0.999 * relevance.max()
    assert most[15:17, 9:11].all() and most.sum() == 4
    assert relevance[0, 0, 15, 9 + 4] / relevance[0, 0, 15, 9] == pytest.approx(
        np.exp(-0.5 * (3.5**2 - 0.5**2) / 4**2), rel=1e-4
    )


def test_files_of_each_kind_are_read(tmp_path):
    cells = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    Image.fromarray(cells[0]).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", cells[1][None] / 255)
    np.savez(tmp_path / "c.npz", saliency=(cells[2] / 255).astype(np.float16), parameter=np.zeros(3))
    ours = explain("files", None, folder=tmp_path)
    torch.testing.assert_close(ours[:, 0], torch.from_numpy(cells / 255).float(), atol=1e-3, rtol=0)
    Image.fromarray(cells[0].astype(np.uint16) * 257).save(tmp_path / "a.png")
    torch.testing.assert_close(explain("files", None, folder=tmp_path)[0], ours[0])
    np.save(tmp_path / "b.npy", np.arange(4.0).reshape(2, 2))
    with pytest.raises(
        ValueError, match="b.npy' is of 2x2 px and the network's image of 32x32: set explainer.resize=true"
    ):
        explain("files", None, folder=tmp_path)
    corners = explain("files", None, folder=tmp_path, resize=True)[1, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.tolist() == [0, 1, 2, 3]


def test_files_that_cannot_be_read_are_one_sentence(maps):
    def fails(text, **options):
        with pytest.raises(ValueError, match=text) as raised:
            explain("files", None, **{"folder": maps, **options})
        assert "\n" not in str(raised.value)

    fails("explainer.folder='.*nowhere' is not a folder", folder=maps / "nowhere")
    (maps / "a.png").write_bytes(b"no picture")
    fails("has a.npy and a.png: it must hold one map for each image")
    (maps / "a.npy").unlink()
    fails("cannot read the map '.*a.png': ")
    Image.new("RGB", (32, 32)).save(maps / "a.png")
    fails("it is of mode RGB, not grey")
    (maps / "a.png").unlink()
    fails("has none of a.npz, a.npy, a.png: it must hold")
    np.save(maps / "a.npy", np.full((32, 32), np.nan))
    fails("holds NaN or infinite values")
    np.save(maps / "a.npy", np.zeros((2, 32, 32)))
    fails("is of shape \\(2, 32, 32\\): it must be finite numbers")
    np.save(maps / "a.npy", np.array([{}]), allow_pickle=True)
    fails("cannot read the map")
    (maps / "a.npy").unlink()
    np.savez(maps / "a.npz", one=np.zeros((32, 32)), two=np.zeros((32, 32)))
    fails("it has no array 'saliency', but one, two; set explainer.key=")
    assert explain("files", None, folder=maps, key="two").shape == (3, 1, 32, 32)


# errors


@pytest.mark.parametrize(
    "name, options, text",
    [
        ("smoothgrad", {"samples": 0}, "explainer.samples=0 must be at least 1"),
        ("smoothgrad", {"noise": -1.0}, "explainer.noise=-1.0 must be at least 0"),
        ("integrated_gradients", {"steps": 0}, "explainer.steps=0 must be at least 1"),
        (
            "occlusion",
            {"patch": 33},
            "explainer.patch=33 must be from explainer.stride=2 to the image's shorter side, 32 px",
        ),
        ("occlusion", {"stride": 7}, "explainer.patch=6 must be from explainer.stride=7"),
        ("occlusion", {"color": [2, 0, 0]}, "color=\\[2, 0, 0\\] must be three numbers"),
        ("rise", {"keep": 1.0}, "explainer.keep=1.0 is a probability"),
        ("rise", {"cells": 0}, "explainer.cells=0 must be at least 1"),
        ("group_cam", {"share": 1.0}, "explainer.share=1.0 must be at least 0 and below 1"),
        ("group_cam", {"groups": 0}, "explainer.groups=0 must be at least 1"),
        ("excitation_backprop", {"min_map_fraction": 0.0}, "explainer.min_map_fraction=0.0 must be above 0"),
        ("center", {"sigma": 0.0}, "explainer.sigma=0.0 must be above 0"),
        ("files", {"folder": None}, "explainer.folder=None is not a folder: give the one with <name>.npz, .npy or .png"),
    ],
)
def test_options_that_cannot_be_are_one_sentence(name, options, text):
    with pytest.raises(ValueError, match=text):
        explain(name, frozen(Checkers()), **options)


@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion"])
def test_captum_is_optional(name, monkeypatch):
    for module in [m for m in sys.modules if m.partition(".")[0] == "captum"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ValueError, match=f'explainer={name} needs Captum: pip install "mpx\\[baselines\\]"'):
        explain(name, frozen(Checkers()))


def test_files_of_a_run_are_found_by_image_and_class(tmp_path):
    for target in (0, 1):
        np.savez(tmp_path / f"a-{target}-name.npz", saliency=np.full((32, 32), target, np.float16), curves=np.zeros((2, 3)))
    photos, targets = PHOTOS[:1].repeat(2, 1, 1, 1), torch.tensor([1, 0])
    found = files(photos, None, targets, ExplainerContext(RowRandom([0, 1]), ["a", "a"]), folder=str(tmp_path))
    assert found.mean((1, 2, 3)).tolist() == [1, 0]


@pytest.mark.parametrize("inside", [True, False])
def test_files_of_an_image_whose_name_goes_on_are_not_taken(tmp_path, inside):
    """photo-1-1-board is class 1 of photo-1, and no file of photo's class 1."""

    def save(image: str, target: int, value: float) -> Path:
        path = tmp_path / f"{image}-{target}-board.npz"
        said = {"image": image, "target": target} if inside else {}
        np.savez(path, saliency=np.full((32, 32), value, np.float16), **said)
        return path

    own, _ = save("photo", 1, 0.25), save("photo-1", 1, 0.5)
    def read(*names: str) -> list[float]:
        context = ExplainerContext(RowRandom([*range(len(names))]), [*names])
        targets = torch.ones(len(names), dtype=torch.long)
        return files(PHOTOS[: len(names)], None, targets, context, str(tmp_path)).mean((1, 2, 3)).tolist()

    assert read("photo", "photo-1") == [0.25, 0.5]
    own.unlink()
    for names in [["photo"], ["photo", "photo-1"]][not inside :]:  # a file that names its image needs no other name
        with pytest.raises(ValueError, match="has none of photo.npz"):
            read(*names)
