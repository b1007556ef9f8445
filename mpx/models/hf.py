"""Networks of Hugging Face's transformers: classifiers, segmenters, detectors, and those that embed images and texts (CLIP).

The config in a folder, or of a hub id, says which; its image processor says size, mean and std. No code of a folder is run.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mpx.data.preprocessing import Preprocess
from mpx.errors import first_line
from mpx.models.checkpoints import is_file, load_weights
from mpx.models.classifier import Classifier

KINDS = {  # end of an architecture's name -> the class that builds it
    "ForImageClassification": "AutoModelForImageClassification",
    "ForImageClassificationWithTeacher": "AutoModelForImageClassification",
    "ForSemanticSegmentation": "AutoModelForSemanticSegmentation",
    "ForObjectDetection": "AutoModelForObjectDetection",
    "CLIPModel": "AutoModel",
    "SiglipModel": "AutoModel",
}
DEFAULT = "DEFAULT"
TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")


@dataclass
class Embeddings:
    """The embeddings (B,D) of images."""

    image_embeds: Tensor


class ImageEmbedder(nn.Module):
    """The part of CLIP that embeds images."""

    network: Any

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Embeddings:
        return Embeddings(_features(self.network.get_image_features(pixel_values=images)))


class SigmoidDetector(nn.Module):
    """A detector whose classes have a sigmoid each, as torchvision's list of dicts."""

    network: Any

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        raw = self.network(images)
        if raw.logits.shape[2] != self.network.config.num_labels:
            return raw  # the last class is "no object", for a softmax
        (_, queries, classes), (centres, sides) = raw.logits.shape, raw.pred_boxes.split(2, 2)
        boxes = torch.cat([centres - sides / 2, centres + sides / 2], 2).repeat_interleave(classes, 1)
        labels = torch.arange(classes, device=boxes.device).repeat(queries)
        return [{"boxes": b, "labels": labels, "scores": s} for b, s in zip(boxes, raw.logits.sigmoid().flatten(1))]


def hf(name: str, weights: str | None = DEFAULT) -> Classifier:
    """Return a network of Hugging Face's transformers.

    name: a folder that save_pretrained wrote, or a hub id. weights: DEFAULT, None for random weights, or a file.
    """
    try:
        import transformers
    except ImportError:
        raise ValueError('model=hf needs transformers: pip install "mpx[hf]"') from None
    folder = Path(name).expanduser()
    source = str(folder) if folder.is_dir() else name
    file = None if weights in (None, DEFAULT) else weights
    if file is not None and not is_file(file):
        raise ValueError(f"model.weights={file!r} is no file: give DEFAULT, null for random weights, or a checkpoint")
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        builder = getattr(transformers, _kind(name, config))  # foreign: a module
        if weights == DEFAULT:
            network, report = builder.from_pretrained(source, output_loading_info=True, trust_remote_code=False)
        else:
            network, report = builder.from_config(config, trust_remote_code=False), {"missing_keys": ()}
        processor = transformers.AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # transformers, huggingface_hub and its HTTP client raise many kinds
        if isinstance(error, UnknownKindError):
            raise
        raise ValueError(
            f"model.name={name!r} cannot be loaded ({first_line(error).rstrip('.')}): give a folder that save_pretrained of "
            "the network and of its image processor wrote, or a hub id and a connection"
        ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(f"the weights of model {name} lack {len(missing)} tensors {missing[:3]}: give model.weights=a file")
    if file is not None:
        load_weights(network, file)
    return hf_classifier(network.float().eval(), processor, source, folder.name if folder.is_dir() else name)


def hf_classifier(network: nn.Module, processor: Any, source: str, name: str | None = None) -> Classifier:
    """Return a network of transformers as a Classifier.

    processor: the image processor, None where there is none; source: the folder or hub id with the tokenizer.
    """
    categories, embed = class_names(network.config), None
    if hasattr(network, "get_image_features"):  # foreign: CLIP
        categories, embed = None, partial(embed_texts, network, source)
    name = name or type(network).__name__
    if embed is not None:
        network = ImageEmbedder(network)
    elif type(network).__name__.endswith("ForObjectDetection"):
        network = SigmoidDetector(network)
    if processor is None:
        return Classifier(network, categories=categories, name=name, embed_texts=embed)
    mean, std = normalisation(processor)
    return Classifier(network, mean, std, preprocessing(processor), categories, name, embed_texts=embed)


def local_processor(network: nn.Module) -> Any:
    """Return the image processor of the folder or cached hub id that a network was loaded from; None where there is none."""
    import transformers

    if not network.name_or_path:
        return None
    try:
        return transformers.AutoImageProcessor.from_pretrained(network.name_or_path, local_files_only=True)
    except Exception:  # there is none, or it cannot be read
        return None


@torch.no_grad()
def embed_texts(network: Any, source: str, texts: list[str]) -> Tensor:
    """Return the embeddings (N,D) of texts by CLIP; source: the folder or hub id with its tokenizer."""
    import transformers

    length = network.config.text_config.max_position_embeddings
    try:
        if Path(source).is_dir() and not any(any(Path(source).glob(name)) for name in TOKENIZER_FILES):
            raise OSError("no tokenizer in the folder")  # transformers makes one without words
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        tokens = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    except Exception as error:  # as above
        raise ValueError(
            f"task.texts need the tokenizer of model {source!r}, which cannot be loaded ({first_line(error).rstrip('.')}): "
            "save it into the folder, or give task.embeddings"
        ) from error
    device = next(network.parameters()).device
    return _features(network.get_text_features(**{key: value.to(device) for key, value in tokens.items()}))


def class_names(config: Any) -> list[str] | None:
    """Return the class names of a network's config; None where they are transformers' own LABEL_0, LABEL_1, ..."""
    names = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    if not names or all(name == f"LABEL_{index}" for index, name in names.items()):
        return None
    return [names.get(index, f"class {index}") for index in range(max(names) + 1)]


def normalisation(processor: Any) -> tuple[list[float], list[float]]:
    """Return mean and std, for images in [0,1], of an image processor, which computes (255 * factor * x - mean) / std."""
    scale = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    offset = 1.0 if getattr(processor, "rescale_offset", False) else 0.0  # foreign: EfficientNet's processor
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
    means, stds = ([value] * 3 if isinstance(value, (int, float)) else list(value) for value in (mean, std))
    if getattr(processor, "include_top", False):  # foreign: EfficientNet's processor divides by std a second time
        return [(value + offset) / scale for value in means], [value**2 / scale for value in stds]
    return [(value + offset) / scale for value in means], [value / scale for value in stds]


def preprocessing(processor: Any) -> Preprocess:
    """Return the resizing and cropping of an image processor.

    A processor that squashes images to its size is treated as one that crops, because a box must map to a box, and one
    that resizes without a crop gets the square of the shorter side, because images of a batch have one size.
    """
    size = processor.size
    crop = processor.crop_size if getattr(processor, "do_center_crop", False) else None  # foreign: not all processors crop
    interpolation = Image.Resampling(processor.resample).name.lower()
    if size.get("shortest_edge"):
        side = size["shortest_edge"]
        share = getattr(processor, "crop_pct", None)  # foreign: ConvNeXt's processor
        sides = (crop["height"], crop["width"]) if crop else (side, side)
        resize = int(side / share) if share and side < 384 else side
        return Preprocess(sides, resize, interpolation)
    sides = (size["height"], size["width"])
    return Preprocess((crop["height"], crop["width"]) if crop else sides, max(sides), interpolation)


class UnknownKindError(ValueError):
    """The network is of a kind that mpx cannot explain."""


def _kind(name: str, config: Any) -> str:
    """Return the class of transformers that builds a network of this config."""
    architectures = config.architectures or ["none"]
    for end, builder in KINDS.items():
        if architectures[0].endswith(end):
            return builder
    raise UnknownKindError(
        f"the config of model {name} names the architecture {architectures[0]}: it must end in one of {', '.join(KINDS)}"
    )


def _features(features: Any) -> Tensor:
    """Return the embeddings (N,D) that transformers 4 gives as a tensor, and transformers 5 as an output."""
    return features if isinstance(features, Tensor) else features.pooler_output
