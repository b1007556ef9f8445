"""Any model that a user passes in Python as a Classifier: a name, or a bare network with what it says about itself.

timm's networks carry mean, std and size, torchvision's detectors normalise inside, and those of Hugging Face name the folder
that holds their image processor. All others say nothing: mpx warns that it leaves images in [0,1] as they are.
"""

import warnings

from torch import nn

from mpx.models.classifier import Classifier


def as_classifier(model: nn.Module | str) -> Classifier:
    """Return a Classifier as it is, a network of torchvision by its name, or a bare network with its preprocessing."""
    if isinstance(model, Classifier):
        return model
    if isinstance(model, str):
        return _named(model)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model of type {type(model).__name__} must be a torch.nn.Module, or a torchvision model's name")
    library = type(model).__module__.partition(".")[0]
    config = getattr(model, "pretrained_cfg", None)  # foreign: timm's networks
    if library == "timm" and config:
        from mpx.models.zoo import timm_classifier

        return timm_classifier(model)
    if hasattr(model, "name_or_path") and hasattr(model, "config"):  # foreign: networks of Hugging Face
        from mpx.models.hf import hf_classifier, local_processor

        processor = local_processor(model)
        if processor is None:
            _warn(model, "")
        return hf_classifier(model, processor, str(model.name_or_path))
    if library == "torchvision":
        from mpx.models.zoo import IMAGENET_MEAN, IMAGENET_STD, is_torchvision_detector, torchvision_detector

        if is_torchvision_detector(model):
            return torchvision_detector(model)
        _warn(model, f"; torchvision's weights need mean={IMAGENET_MEAN}, std={IMAGENET_STD}")
    else:
        _warn(model, "")
    return Classifier(model)


def _named(name: str) -> Classifier:
    from mpx.models import zoo

    if name == "efficientnet_lite0":
        return zoo.efficientnet_lite0()
    try:
        return zoo.torchvision(name)
    except ValueError as error:
        raise ValueError(
            f"model={name!r} must be a torch.nn.Module, efficientnet_lite0 or a torchvision model's name: {error}; "
            "mpx.models.zoo.timm and mpx.models.hf.hf build others"
        ) from error


def _warn(network: nn.Module, hint: str) -> None:
    name = type(network).__name__
    warnings.warn(
        f"{name} does not say which mean and std its input needs, so it gets images in [0,1] as they are: pass "
        f"mpx.Classifier(network, mean, std), with mean=0, std=1 if that is right{hint}",
        stacklevel=2,
    )
