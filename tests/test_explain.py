"""The library as a notebook or an evaluation harness uses it."""

import dataclasses
import math
import re
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import Attribution, NoiseTunnel
from captum.metrics import infidelity, sensitivity_max
from planted import PlaceNet, RoundingNet, SquareNet, square_photo
from torch import nn
from torchvision.transforms.functional import to_pil_image, to_tensor

from mpx import Classifier, MaskLearner, MeaningfulPerturbation, explain, method, task
from mpx.data.preprocessing import Preprocess
from mpx.masks.base import Mask
from mpx.regularizers import border
from mpx.runs.progress import Progress
from mpx.verdicts import MEANINGS

NET = SquareNet().train()
PHOTOS = torch.stack([square_photo(NET, seed) for seed in range(3)])
OPTIONS = dict(perturbation="mean_color", mask_size=8, steps=10, jitter=0)
quick = partial(explain, NET, **OPTIONS)


@pytest.mark.parametrize("network, warns", [(RoundingNet, False), (PlaceNet, True)])
def test_deterministic_rows_have_the_same_bits_in_any_company(network, warns):
    net = network().eval()
    photos = torch.stack([square_photo(net, seed) for seed in range(4)])
    options = dict(perturbation="black", mask_size=8, steps=8, noise=0.1, deterministic=True, batch_size=4)
    with pytest.warns(UserWarning, match="one by one") if warns else nullcontext():
        whole = explain(net, photos, 1, **options)
        other = explain(net, photos[[2, 0]], 1, **options)
    assert torch.equal(whole.parameter[[2, 0]], other.parameter)
    assert torch.equal(whole.value_after[[2, 0]], other.value_after)


def test_the_bar_counts_whole_rows_and_never_more_than_there_are(capsys):
    bar = Progress(3, unit="row", shown=True)
    for part in [1 / 60] * 60 + [0.5, 0.5] + [0.4] * 4:
        bar.advance(part)
    bar.close()
    counts = re.findall(r"(\S+) rows ", capsys.readouterr().err)
    assert set(counts) <= {"0/3", "1/3", "2/3", "3/3"} and counts[0] == "0/3"
    explain(NET, PHOTOS, 1, **OPTIONS | {"steps": 2, "progress": True})
    assert "0/3 rows" in capsys.readouterr().err
    explain(NET, PHOTOS, 1, **OPTIONS | {"steps": 2})
    assert "rows |" not in capsys.readouterr().err  # no terminal


def test_an_explanation_shows_and_saves_itself(tmp_path):
    e = quick(PHOTOS, target=[0, 1])
    assert len(e) == 6 and e.targets.tolist() == [0, 1] * 3 and len(set(e.names)) == 6
    assert e.saliency.shape == (6, 1, 32, 32) and e.curves["total"].shape == (10, 6) and "image2" in repr(e)
    page = e._repr_html_()  # a picture of each row and of each iteration that is recorded, of which the last is shown
    assert page.count("<img") == 6 * (1 + len(e.iterations)) and page.count("<figure hidden") == 6 * (len(e.iterations) - 1)
    assert e.verdict and e.select([1]).verdict == e.verdict[1:2] and set(e.verdict) <= set(MEANINGS)
    e.save(tmp_path)
    for kind, ending in (("masks", "npz"), ("panels", "png"), ("evolution", "webp")):
        assert {path.name for path in (tmp_path / kind).iterdir()} == {f"{name}.{ending}" for name in e.names}


def test_batches_are_joined_as_if_they_were_one():
    whole, parts = quick(PHOTOS, target=1), quick(PHOTOS, target=1, batch_size=1)
    for name in ("parameter", "saliency", "value_after", "perturbed", "frame_parameters"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name), atol=1e-4, rtol=0)
    assert whole.names == parts.names and parts.frames.shape == whole.frames.shape


@pytest.mark.parametrize("game", ["deletion", "preservation", "dual"])
def test_what_is_perturbed_and_its_complement_are_the_photo(game):
    """Black: what one leaves, the other has."""
    e = quick(PHOTOS, target=1, perturbation="black", game=game, batch_size=2)
    torch.testing.assert_close(e.perturbed + e.complement, e.images)
    assert (e.complement - e.images).abs().max() > 0.05 and torch.equal(e.select([2]).complement, e.complement[2:])


def test_what_acts_inside_the_network_has_no_complement():
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    e = explain(net, PHOTOS, 1, perturbation="channels", mask="elements", steps=3, jitter=0, batch_size=2)
    assert e.complement is None and e.select([0]).complement is None and len(e) == 3


def test_tensors_pictures_and_paths_are_the_same(tmp_path):
    pictures = [to_pil_image(photo) for photo in PHOTOS]
    exact = torch.stack([to_tensor(picture) for picture in pictures])
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
    tensors = quick(exact, target=1)
    for images in (pictures, sorted(tmp_path.glob("*.png"))):
        assert torch.equal(quick(images, target=1).parameter, tensors.parameter)
    assert torch.equal(quick(exact[1], target=1).parameter, quick(pictures[1], target=1).parameter)


def test_a_classifier_preprocesses_pictures():
    classifier = Classifier(NET, preprocess=Preprocess((32, 32), 32), categories=["nothing", "board"])
    e = explain(classifier, to_pil_image(PHOTOS[0]).resize((64, 96)), "board", **OPTIONS)
    assert e.images.shape == (1, 3, 32, 32) and e.classes == ["board"] and e.names == ["image0-1-board"]


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_one_target_for_each_image_is_a_tensor_or_an_array(kind):
    assert quick(PHOTOS, target=kind([1, 0, 1])).targets.tolist() == [1, 0, 1]
    maps = MeaningfulPerturbation(NET, **OPTIONS).attribute(PHOTOS, target=kind([1, 0, 1]))
    assert maps.shape == (3, 1, 32, 32)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, np.int64])
def test_a_scalar_of_another_library_is_one(kind):
    options = OPTIONS | dict(mask_size=kind(8), steps=kind(3), batch_size=kind(2))
    e = explain(NET, PHOTOS, kind(1), regularizers={"border": (np.float32(0.5), "border")}, **options)
    assert e.targets.tolist() == [1] * 3 and e.parameter.shape == (3, 1, 8, 8) and len(e.curves["total"]) == 3
    assert quick(PHOTOS[:1], target=[kind(1), kind(0)]).targets.tolist() == [1, 0]


def test_rows_keep_their_order_whichever_finishes_first():
    """The likely class takes longest, so that an image's second batch ends before its first."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 6))
    net[1].bias.data[5] = 3

    def uneven(means):
        return float(not means or means[0] > 0.4 and len(means) < 4)

    options = OPTIONS | {"steps": 20, "score": "probability", "game": "deletion", "lr": 0.1}
    e = explain(net, PHOTOS[:2], [5, 0, 1, 2], stop=uneven, batch_size=2, **options)
    assert e.targets.tolist() == [5, 0, 1, 2] * 2 and e.steps.tolist() == [20, 5, 5, 5] * 2


def test_a_regularizer_may_be_an_options_name():
    named = quick(PHOTOS, target=1, regularizers={"border": (0.1, "border")})
    given = quick(PHOTOS, target=1, regularizers={"border": (0.1, border)})
    assert torch.equal(named.parameter, given.parameter) and "border" in named.curves
    with pytest.raises(ValueError, match="regularizer='nosuch' is not an option"):
        quick(PHOTOS, target=1, regularizers={"mine": (0.1, "nosuch")})


@pytest.mark.parametrize(
    "options, names",
    [
        ({"lambda_l1": "0.1"}, "lambda_l1='0.1' must be a number"),
        ({"lambda_l1": None}, "lambda_l1=None must be a number"),
        ({"batch_size": "auto"}, "batch_size='auto' must be a whole number, at least 1"),
        ({"lr": "0.1"}, "lr='0.1' must be a number"),
        ({"regularizers": {"l1": "x"}}, "regularizers['l1']='x' must be a weight and a term: (0.1, "),
        ({"regularizers": {"l1": (0.1, "l1", 2)}}, "must be a weight and a term"),
        ({"regularizers": ["l1"]}, "regularizers=['l1'] must be a dict of weights and terms, e.g. {'border'"),
        ({"steps": 10**23}, "steps=100000000000000000000000 must be a whole number, 1 to 1000000"),
        ({"seed": "a"}, "seed='a' must be a whole number"),
        ({"frames": "a"}, "frames='a' must be a whole number, at least 2"),
        ({"noise": -0.5}, "noise=-0.5 must be 0 or larger"),
        ({"frames": 10**30}, "at most 10000"),
        ({"steps": torch.zeros(2)}, "steps=tensor([0., 0.]) must be a plain number"),
        ({"mask_size": True}, "mask_size=True must be one or two whole numbers"),
        ({"game": {}}, "game={} must be one of deletion"),
        ({"precision": []}, "precision=[] must be '32'"),
        ({"mask": None}, "mask=None: choose one of"),
        ({"score": {}}, "score={} is not an option"),
        ({"scheduler": torch.zeros(2)}, "is not an option"),
        ({"deterministic": 1}, "deterministic=1 must be True or False"),
        ({"area": 0.1}, 'in Python method=mpx.method("extremal2019", "area=0.1")'),
    ],
)
def test_a_wrong_option_is_one_sentence(options, names):
    with pytest.raises(ValueError, match=re.escape(names)):
        quick(PHOTOS, target=1, **options)


@pytest.mark.parametrize(
    "call, names",
    [
        (lambda: quick(PHOTOS, stepz=5), "explain() has no argument stepz; near it: steps"),
        (lambda: MaskLearner(NET, PHOTOS, snapshot=5), "MaskLearner() has no argument snapshot; near it: snapshots"),
        (lambda: method("quick", steps=5), 'method() has no argument steps: write it as on the command line, e.g. "st'),
        (lambda: task("difference", other=1), "task() has no argument other: write it as on the command line"),
    ],
)
def test_an_argument_that_does_not_exist_is_told_with_what_was_meant(call, names):
    with pytest.raises(TypeError, match=re.escape(names)):
        call()


@pytest.mark.parametrize(
    "options, names",
    [
        ({"regularizers": ["l1"]}, "regularizers=['l1'] must be a dict of weights and terms"),
        ({"perturbation": "black"}, "perturbation='black' must be a function"),
    ],
)
def test_a_method_of_the_wrong_parts_is_one_sentence(options, names):
    with pytest.raises(ValueError, match=re.escape(names)):
        dataclasses.replace(method("quick"), **options)


class Plain(Mask):
    """A parameter that is no grid, without cells, of which the tests below change one part each."""

    def __init__(self, context):
        super().__init__()
        self.shape = (4,)

    def initial(self, rng):
        return torch.ones(rng.batch_size, 4)

    def forward(self, parameter):
        return parameter.mean(1)[:, None, None, None].expand(-1, 1, 32, 32)


class Shapeless(Plain):
    def __init__(self, context):
        super(Plain, self).__init__()


class TooLarge(Plain):
    def forward(self, parameter):
        return 2 * super().forward(parameter)


class Narrow(Plain):
    def forward(self, parameter):
        return super().forward(parameter)[..., :9]


class LogOdds(Plain):
    def cells(self, parameter):
        return 5 * parameter[:, None, None]


@pytest.mark.parametrize(
    "options, names",
    [
        ({"score": lambda logits, *_: logits.max()}, "returned (): it must return (B,) = (3,)"),
        ({"score": lambda logits, *_: logits}, "returned (3, 2): it must return (B,) = (3,)"),
        ({"score": lambda logits, *_: 0.5}, "returned float: it must return (B,) = (3,)"),
        ({"regularizers": {"mine": (1.0, lambda s, _: s.mean())}}, "returned (): it must return (B,) = (3,)"),
        ({"explainer": lambda images, *_: images}, "returned (3, 3, 32, 32): it must return (B,1,H,W) = (3, 1, 32, 32)"),
        ({"perturbation": lambda images, _: None}, "returned NoneType: it must return (B,C,H,W) = (3, 3, 32, 32), a "),
        ({"perturbation": lambda x, _: lambda rng: x[:, :1]}, "returned (3, 1, 32, 32): it must return (B,C,H,W)"),
        ({"perturbation": lambda x, _: x * 5 - 3}, "they must be in [0,1]"),
        ({"perturbation": lambda images: images}, "its contract is f(images (B,C,H,W), context) -> fully perturbed images"),
        ({"perturbation": nn.Linear(2, 2)}, "its contract is f(images (B,C,H,W), context) -> fully perturbed images"),
        ({"score": lambda logits: logits[:, 0]}, "its contract is f(logits (B,K), targets (B,), context) -> numbers (B,)"),
        ({"mask": nn.Linear(2, 2)}, "mask=Linear(...) is a module: give a class, mask(context) -> its masks"),
        ({"mask": lambda: 1}, "its contract is f(context) -> an mpx.masks.base.Mask; normally it is a class"),
        ({"perturbation": "blur_medain"}, "perturbation='blur_medain' is not an option; near it: blur_median"),
        ({"mask": lambda context: nn.Identity()}, "is Identity: it must be a class that derives from Mask"),
        ({"mask": Shapeless}, "Plain.initial returned (3, 4): it must return (B,*self.shape) = (3,)"),
        ({"mask": Narrow}, "Narrow returned (3, 1, 32, 9): it must return (B,*mask_shape) = (3, 1, 32, 32)"),
        ({"mask": TooLarge}, "mask test_explain.TooLarge returned values from 2 to 2: they must be in [0,1]"),
        ({"mask": Plain}, "cells of mask test_explain.Plain returned (3, 4): regularizers need (3,1,h,w): let cells"),
        ({"mask": LogOdds}, "cells of mask test_explain.LogOdds returned values from 5 to 5: they must be in [0,1]"),
    ],
)
def test_a_part_that_breaks_its_contract_is_one_sentence(options, names):
    with pytest.raises(ValueError, match=re.escape(names)) as error:
        quick(PHOTOS, target=1, **options)
    assert "\n" not in str(error.value) and "<function" not in str(error.value)


@pytest.mark.parametrize("override", ["target=label", "batch_size=2", "deterministic=true", "model=resnet50", "~trainer"])
def test_a_preset_refuses_overrides_that_are_not_part_of_a_method(override):
    with pytest.raises(ValueError, match="not part of a method"):
        method("fong2017", override)


def test_normalised_inputs_are_undone():
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    m, s = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))

    class Normalised(torch.nn.Module):  # expects what Captum's users feed
        def forward(self, x):
            return NET(x * s + m)

    plain = MeaningfulPerturbation(NET, **OPTIONS).attribute(PHOTOS, target=1)
    undone = MeaningfulPerturbation(Normalised(), mean, std, **OPTIONS).attribute((PHOTOS - m) / s, target=1)
    assert plain.shape == (3, 1, 32, 32)
    torch.testing.assert_close(plain, undone, atol=1e-4, rtol=0)


class Mixed(torch.nn.Module):
    """Logits that depend on another argument: of which square the class is."""

    def forward(self, x, flip, name="x"):
        assert name == "named"
        return NET(torch.where(flip.view(-1, 1, 1, 1), x.flip(-1), x))


def test_captums_arguments():
    """Per input or for all: baselines are the perturbation, feature_mask the cells, further arguments reach the model."""
    flips = torch.tensor([True, False, True])
    mixed = MeaningfulPerturbation(Mixed(), **OPTIONS).attribute(PHOTOS, 1, (flips, "named"))
    plain = MeaningfulPerturbation(NET, **OPTIONS)
    expected = [plain.attribute(x[None].flip(-1) if f else x[None], 1).flip(-1 if f else ()) for x, f in zip(PHOTOS, flips)]
    for ours, alone in zip(mixed, expected):
        centres = [(m * torch.arange(32)).sum() / m.sum() for m in (ours[0], alone[0, 0])]
        assert abs(centres[0] - centres[1]) < 2
    black = MeaningfulPerturbation(NET, **OPTIONS | {"perturbation": "black"}).attribute(PHOTOS, 1)
    for zeros in (0, torch.zeros(3, 32, 32), torch.zeros(1, 3, 32, 32)):
        assert torch.equal(plain.attribute(PHOTOS, 1, baselines=zeros), black)
    torch.testing.assert_close(plain.attribute(PHOTOS, 1, baselines=torch.zeros_like(PHOTOS)), black, atol=1e-4, rtol=0)
    halves = (torch.arange(32) >= 16).long().expand(32, 32) * 7
    options = OPTIONS | {"ranking": "mask"}
    for mask in (halves, halves[None, None], halves.expand(3, 1, 32, 32)):
        maps = MeaningfulPerturbation(NET, **options).attribute(PHOTOS, 1, feature_mask=mask)
        assert all(len(m.unique()) <= 2 and (m[0, :, :16] == m[0, 0, 0]).all() for m in maps)


def test_captums_classes_take_it_for_theirs():
    attribution = MeaningfulPerturbation(NET, clip=True, **OPTIONS)
    assert isinstance(attribution, Attribution) and not attribution.has_convergence_delta()
    smooth = NoiseTunnel(attribution).attribute(PHOTOS, nt_samples=2, stdevs=0.3, target=1)
    assert smooth.shape == (3, 1, 32, 32) and smooth.isfinite().all()
    arrays = attribution.attribute(PHOTOS.numpy(), target=1)
    assert isinstance(arrays, np.ndarray) and np.array_equal(arrays, attribution.attribute(PHOTOS, target=1).numpy())


@pytest.mark.parametrize(
    "given, words",
    [
        ({"baselines": torch.zeros(3, 8, 8)}, "baselines of shape"),
        ({"feature_mask": torch.zeros(8, 8).long()}, "feature_mask .8, 8. must be integers"),
        ({"feature_mask": torch.zeros(32, 32)}, "must be integers"),
    ],
)
def test_captums_arguments_of_other_shapes(given, words):
    with pytest.raises(ValueError, match=words):
        MeaningfulPerturbation(NET, **OPTIONS).attribute(PHOTOS, 1, **given)
    with pytest.raises(ValueError, match="need the bare network"):
        MeaningfulPerturbation(Classifier(NET), **OPTIONS).attribute(PHOTOS, 1, 3)


def test_captums_metrics_accept_it():
    attribution = MeaningfulPerturbation(NET, **OPTIONS)
    maps = attribution.attribute(PHOTOS, target=[1, 1, 1])

    def shake(x):
        noise = 0.05 * torch.randn_like(x)
        return noise, x - noise

    assert infidelity(NET, shake, PHOTOS, maps.expand_as(PHOTOS), target=1).isfinite().all()
    assert sensitivity_max(attribution.attribute, PHOTOS, target=1, n_perturb_samples=2).isfinite().all()
    assert NET.training


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, partial(torch.autocast, "cpu", torch.bfloat16)])
def test_the_callers_mode_does_not_matter(mode):
    with mode():
        inside = quick(PHOTOS[:1].clone(), target=1).parameter
    assert torch.equal(inside, quick(PHOTOS[:1], target=1).parameter)


def test_the_callers_default_type_does_not_matter():
    plain = quick(PHOTOS[:1], target=1, noise=0.1)
    torch.set_default_dtype(torch.float64)
    try:
        other = quick(PHOTOS[:1], target=1, noise=0.1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(plain.parameter, other.parameter)


def test_what_is_not_a_picture_is_refused():
    with pytest.raises(ValueError, match=r"must be in \[0,1\]"):
        MeaningfulPerturbation(NET, **OPTIONS).attribute(PHOTOS * 2)
    for kind in (PHOTOS.to(torch.complex64), PHOTOS.to("meta"), PHOTOS.to_sparse()):
        with pytest.raises(ValueError, match="images are a tensor of .*: give dense real numbers"):
            quick(kind, target=1)
    with pytest.raises(ValueError, match="images differ in size"):
        quick([to_pil_image(PHOTOS[0]), to_pil_image(PHOTOS[1]).resize((40, 40))])
    with pytest.raises(ValueError, match="nowhere.png"):
        quick("nowhere.png")


def test_images_that_hold_nan_are_named():
    images = PHOTOS.clone()
    images[1, 0, 3, 3] = math.nan
    with pytest.raises(ValueError, match="images hold NaN, the first of them image1"):
        quick(images)


def test_a_dict_is_told_which_tasks_read_one():
    class Named(nn.Module):
        def forward(self, x):
            return {"scores": NET(x)}

    with pytest.raises(ValueError, match="got dict for B=1 with 'scores': task=segmentation reads the key 'out', .* tensor"):
        explain(Classifier(Named()), PHOTOS[:1], **OPTIONS)


def test_a_file_listed_twice_is_refused(tmp_path):
    """Rows are image by image: with one left out they would be another image's."""
    for name in ("a", "b"):
        to_pil_image(PHOTOS[0]).save(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match="a.png' is listed 2 times: list each file once"):
        quick([tmp_path / "a.png", tmp_path / "b.png", f"{tmp_path}/../{tmp_path.name}/a.png"])
    with pytest.raises(ValueError, match="b.png' is listed 2 times"):
        quick([tmp_path, tmp_path / "b.png"])
