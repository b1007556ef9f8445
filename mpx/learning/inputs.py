"""The images and targets that a user of the library passes, as rows."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from mpx.data import datasets
from mpx.data.images import read_image, to_rgb
from mpx.learning.rows import Row
from mpx.models.classifier import Classifier


@torch.no_grad()
def make_rows(
    classifier: Classifier, images: Tensor, names: Sequence[str], target: Any, areas: Sequence[float | None]
) -> list[Row]:
    """Return a row for each image (B,C,H,W), target and area, image by image.

    target: None (the top class), an index, a name, "top2", a list of these, or a tensor or array (B,) of indices.
    """
    if isinstance(target, (Tensor, np.ndarray)):
        if tuple(target.shape) != (len(images),):
            raise ValueError(f"target of shape {tuple(target.shape)} must be ({len(images)},): one index for each image")
        targets = target.tolist()
    else:
        targets = ["top1" if target is None else target] * len(images)
    rows = []
    for image, name, image_target in zip(images, names, targets):
        output = classifier(image[None].to(classifier.device))[0]
        indices = classifier.task.resolve(image_target, output, None, classifier.categories)
        rows += [Row(image, index, name, area) for index in indices for area in areas]
    return [replace(row, image_index=position) for position, row in enumerate(rows)]


def as_images(images: Any, classifier: Classifier) -> tuple[Tensor, list[str]]:
    """Return images as (B,C,H,W) float32 in [0,1], and their names.

    images: a tensor (B,3,H,W) or (3,H,W) in [0,1]; or a file, a folder, a glob, a PIL image, or a list of these.
    """
    if isinstance(images, Tensor):
        batch = images.detach() if images.ndim == 4 else images.detach()[None]
        if batch.ndim != 4 or batch.shape[1] != 3 or not batch.numel():
            hint = "; permute(0,3,1,2) moves the channels there" if images.ndim == 4 and images.shape[-1] == 3 else ""
            raise ValueError(f"images of shape {tuple(images.shape)} must be (B,3,H,W) or (3,H,W), and not empty{hint}")
        names = [f"image{i}" for i in range(len(batch))]
    else:
        batch, names = _read(list(images) if isinstance(images, (list, tuple)) else [images], classifier)
    low, high = batch.min().item(), batch.max().item()
    if not (0 <= low and high <= 1):
        is_bytes = low >= 0 and high > 2
        normalised = "pass them unnormalised and let Classifier(network, mean, std) normalise"
        remedy = "divide them by 255" if is_bytes else normalised
        raise ValueError(f"images range from {low:.2f} to {high:.2f}, but must be in [0,1]: {remedy}")
    return batch.float(), names


def _read(sources: list, classifier: Classifier) -> tuple[Tensor, list[str]]:
    if sources and all(isinstance(source, Image.Image) for source in sources):
        pil_images, names = [to_rgb(source) for source in sources], [f"image{i}" for i in range(len(sources))]
    elif all(isinstance(source, (str, Path)) for source in sources):
        items = datasets.images(sources)
        _refuse_duplicates(sources)
        pil_images, names = [read_image(item.path) for item in items], [item.name for item in items]
    else:
        kinds = ", ".join(sorted({type(source).__name__ for source in sources}))
        raise ValueError(f"images of type {kinds} must be one tensor, or files, or PIL images")
    to_image: Callable[[Image.Image], Tensor] = classifier.preprocess or to_tensor
    tensors = [to_image(pil_image) for pil_image in pil_images]
    if len({x.shape for x in tensors}) > 1:
        raise ValueError("images differ in size: give the Classifier a preprocess, or resize them")
    return torch.stack(tensors), names


def _refuse_duplicates(sources: Iterable[str | Path]) -> None:
    """Refuse a list that names a file twice: a dataset lists it once, so rows would not match the list."""
    counts = Counter(os.path.abspath(item.path) for source in sources for item in datasets.images(source))
    duplicates = [path for path, count in counts.items() if count > 1]
    if duplicates:
        raise ValueError(f"image {duplicates[0]!r} is listed {counts[duplicates[0]]} times: list each file once")
