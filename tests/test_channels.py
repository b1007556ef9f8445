"""Laws of images of any number of channels: grey, RGBA, multispectral."""

import re
from functools import partial

import numpy as np
import pytest
import tifffile
import torch
from choices import small_perturbation
from contexts import augmentation_context
from explainers.scene import CHEAP, EXPLAINERS, INSIDE, OPTIONS, TARGETS, Checkers, frozen
from metrics import scene
from PIL import Image
from planted import SQUARE, SquareNet, square_photo
from torch import nn
from torchvision.transforms.functional import to_pil_image

from mpx import Classifier, config, explain
from mpx.augmentations import noise
from mpx.data.preprocessing import Preprocess
from mpx.explainers.base import ExplainerContext, to_saliency
from mpx.metrics.base import as_metric
from mpx.pictures.colours import as_rgb
from mpx.randomness import RowRandom

CHANNELS = [1, 4, 6, 13]
BLUR = partial(config.option("perturbation", "blur_gaussian"), sigma=3.0)
SMALL = dict(perturbation=BLUR, mask_size=8, steps=40, jitter=0)


class MeanOfChannels(SquareNet):
    """Sees the mean of the channels."""

    def forward(self, x):
        return super().forward(x.mean(1, keepdim=True))


def photos(channels, count=2):
    return torch.stack([square_photo(SquareNet(), seed, channels) for seed in range(count)])


def contrast(saliency):
    """The mean saliency (B,) within the checkerboard, in units of that outside."""
    return saliency[:, 0, INSIDE].mean(1) / saliency[:, 0, ~INSIDE].mean(1).clamp(min=1e-6)


@pytest.mark.parametrize("game", ["deletion", "preservation", "dual"])
@pytest.mark.parametrize("channels", CHANNELS)
def test_the_evidence_is_found(channels, game):
    e = explain(SquareNet(), photos(channels), 1, game=game, **SMALL)
    assert (contrast(e.saliency) > 3).all() and (e.area < 0.3).all()
    assert e.images.shape == e.perturbed.shape == (2, channels, 32, 32) and e.panel(0).mode == "RGB"


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_batch_is_its_single_runs(channels):
    options = SMALL | dict(noise=0.1, jitter=1, flip=0.5, steps=10)
    images = photos(channels, 3)
    together = explain(SquareNet(), images, 1, **options)
    alone = explain(SquareNet(), images, 1, batch_size=1, **options)
    torch.testing.assert_close(together.saliency, alone.saliency, atol=1e-5, rtol=0)


@pytest.mark.parametrize("perturbation", ["blur_gaussian", "blur_pyramid", "mean_color", "black", "local_mean"])
@pytest.mark.parametrize("game", ["deletion", "preservation"])
def test_a_grey_photo_is_the_same_photo_three_times(game, perturbation):
    grey = photos(1)
    options = SMALL | dict(perturbation=small_perturbation(perturbation), game=game)
    one = explain(SquareNet(), grey, 1, **options)
    three = explain(MeanOfChannels(), grey.expand(-1, 3, -1, -1), 1, **options)
    torch.testing.assert_close(one.saliency, three.saliency, atol=1e-4, rtol=0)
    torch.testing.assert_close(one.perturbed.expand(-1, 3, -1, -1), three.perturbed, atol=1e-4, rtol=0)
    assert np.abs(np.asarray(one.panel(0), int) - np.asarray(three.panel(0), int)).mean() < 1


def test_a_grey_file_is_the_same_photo_three_times(tmp_path):
    to_pil_image(photos(1)[0]).resize((50, 60)).save(tmp_path / "a.png")
    options = SMALL | dict(target=1, steps=10)
    fitted = partial(Classifier, preprocess=Preprocess((32, 32), 32))
    one = explain(fitted(SquareNet(), channels=1), tmp_path / "a.png", **options)
    three = explain(fitted(MeanOfChannels()), tmp_path / "a.png", **options)
    assert torch.equal(one.images.expand(-1, 3, -1, -1), three.images)
    torch.testing.assert_close(one.saliency, three.saliency, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [name for name in EXPLAINERS if name not in ("center", "files", "legrad")])
@pytest.mark.parametrize("channels", [1, 6])
def test_explainers_find_the_evidence(name, channels):
    pytest.importorskip("captum")
    context = ExplainerContext(RowRandom([100, 101]), ["a", "b"])
    explainer = partial(OPTIONS[name], **CHEAP.get(name, {}))
    saliency = to_saliency(explainer(photos(channels), frozen(Checkers(channels=channels)), TARGETS[:2], context))
    assert saliency.shape == (2, 1, 32, 32)
    if name in ("smdl", "vps"):  # an order of regions, which lie across the border of the evidence
        assert (contrast(saliency) > 1).all()
    else:
        assert INSIDE.flatten()[saliency.flatten(1).argmax(1)].all()


def metric_columns(name, network, images):
    """The values of a metric, without noise that is drawn for each channel."""
    fast = {"road": {"noise": 0.0}, "infidelity": {"samples": 16}, "max_box_acc_v2": {"levels": 20}}
    perturbations = {name: perturb for name, perturb in scene.perturbations().items() if name != "noise"}
    context = scene.context(
        classifier=Classifier(network, mean=0.5, std=0.25, channels=images.shape[1]).eval().requires_grad_(False),
        images=images,
        annotations=[scene.annotation(points={"part": (20.0, 12.0)})] * 2,
        perturbations=perturbations,
        explain=lambda classifier, images, targets, seed: scene.random_maps(len(images), seed=seed),
    )
    metric = as_metric(partial(config.option("metric", name), **fast.get(name, {})))
    return scene.columns(metric, scene.random_maps(), context)


@pytest.mark.parametrize("name", [name for name in config.options("metric") if name != "quantus"])  # it draws pixels
def test_metrics_see_a_grey_photo_as_the_same_photo_three_times(name):
    pytest.importorskip("captum")
    one = metric_columns(name, SquareNet(), photos(1))
    three = metric_columns(name, MeanOfChannels(), photos(1).expand(-1, 3, -1, -1))
    many = metric_columns(name, SquareNet(), photos(6))
    assert one.keys() == three.keys() == many.keys()
    for suffix, values in one.items():
        np.testing.assert_allclose(values, three[suffix], atol=1e-4)
        assert (np.isfinite(many[suffix]) == np.isfinite(values)).all()


def test_noise_of_the_input_has_a_scale_for_each_channel():
    x, context = torch.zeros(1, 6, 64, 64), augmentation_context(RowRandom([0]))
    assert noise(x, context, 0.5).std((2, 3)).sub(0.5).abs().max() < 0.05
    assert noise(x, context, 0.5, [2.0, *[0.0] * 5])[0].std((1, 2)).round(decimals=1).tolist() == [1, 0, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="scale=.* 6 channels"):
        noise(x, context, 0.5, [1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    "network, options, channels",
    [
        (nn.Conv2d(5, 1, 1), {}, 5),
        (nn.Flatten(), {}, 3),
        (nn.Flatten(), {"channels": 7}, 7),
        (nn.Flatten(), {"mean": [0.0] * 4}, 4),
        (nn.Flatten(), {"std": [0.5]}, 1),
        (nn.Conv2d(5, 1, 1), {"mean": [0.1, 0.2], "std": 0.5}, 2),
        (nn.Conv2d(5, 1, 1), {"channels": 2}, 2),
    ],
)
def test_the_channels_of_a_classifier(network, options, channels):
    classifier = Classifier(network, **options)
    assert classifier.channels == channels and classifier.scale.shape[1] in (1, channels)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"mean": [0.0] * 3, "channels": 4}, "one per channel .there are 4., std"),
        ({"mean": [0.0] * 3, "channels": 1}, "one per channel .there are 1."),
        ({"mean": [0.0] * 3, "std": [1.0] * 2}, "one per channel"),
        ({"mean": []}, "one number, or one per channel"),
        ({"channels": 0}, "channels=0 must be a whole number"),
        ({"channels": 4, "bands": [1, 2]}, r"bands=\[1, 2\] must be one or three channels from 0 to 3"),
        ({"channels": 4, "bands": [1, 2, 4]}, "from 0 to 3"),
    ],
)
def test_channels_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Classifier(nn.Flatten(), **options)


def test_pictures_show_chosen_bands():
    images = torch.rand(2, 6, 4, 5)
    assert torch.equal(as_rgb(images), images[:, :3]) and torch.equal(as_rgb(images, [3, 2, 1]), images[:, [3, 2, 1]])
    assert torch.equal(as_rgb(images, [4]), images[:, [4] * 3])
    assert torch.equal(as_rgb(images[:, :2]), images[:, [0] * 3])
    e = explain(Classifier(SquareNet(), channels=6, bands=[5, 5, 0]), photos(6), 1, **SMALL | dict(steps=2))
    assert e.bands == (5, 5, 0) == e.select([1]).bands
    assert e.panel(0).tobytes() != explain(SquareNet(), photos(6), 1, **SMALL | dict(steps=2)).panel(0).tobytes()


def test_a_run_of_grey_files(folder, mpx):
    for path in (folder / "photos").iterdir():
        Image.open(path).convert("L").save(path)
    np.save(folder / "photos" / "a.npy", np.asarray(Image.open(folder / "photos" / "p0.png")))
    np.save(folder / "photos" / "rgb.npy", np.zeros((40, 40, 3), np.uint8))
    command = [*SQUARE, "model.channels=1", "images=photos", "name=run", "metric=[deletion,cross_perturbation,sanity]"]
    code, out, err = mpx(*command, "target=1", "deterministic=true")
    run = folder / "outputs" / "run"
    assert code == 3, out + err
    assert "rgb: cannot read image 'photos/rgb.npy': its shape is (40, 40, 3)" in re.sub(r"\s+", " ", out + err)
    assert len(list((run / "panels").glob("*.png"))) == len(list((run / "evolution").glob("*.webp"))) == 4
    masks = [np.load(run / "masks" / f"{name}-1-checker-board.npz")["saliency"] for name in ("a", "p0")]
    assert np.array_equal(*masks) and (run / "report.html").stat().st_size > 1000


def test_a_run_of_six_bands(folder, mpx):
    (folder / "bands").mkdir()
    for seed in range(2):
        np.save(folder / "bands" / f"{seed}.npy", square_photo(SquareNet(), seed, 6).numpy())
    pixels = (square_photo(SquareNet(), 2, 6).numpy() * 65535).astype(np.uint16)
    tifffile.imwrite(folder / "bands" / "2.tif", pixels, photometric="minisblack", planarconfig="separate")
    command = [*SQUARE, "model.channels=6", "images=bands", "name=run", "target=1", "perturbation.sigma=[3,3,3,3,3,0]"]
    code, out, err = mpx(*command, "bands=[4,2,0]", "metric=[road]")
    assert code == 0, out + err
    assert len(list((folder / "outputs" / "run" / "panels").glob("*.png"))) == 3
    code, out, err = mpx(*command, "bands=[4,2,6]", "name=other")
    assert code == 1 and "bands=[4, 2, 6] must be one or three channels from 0 to 5" in re.sub(r"\s+", " ", out + err)
