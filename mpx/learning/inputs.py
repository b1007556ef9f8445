"""The images and targets that a user of the library passes, as rows."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from mpx.data import datasets
from mpx.data.images import from_array, image_size, read_image, to_channels
from mpx.data.preprocessing import Preprocess
from mpx.data.targets import TargetContext
from mpx.learning.rows import Row, rows_of_image
from mpx.models.classifier import Classifier
from mpx.tasks.base import Task
from mpx.tasks.regression import Regression


def with_task(classifier: Classifier, task: Task | None, target: Any) -> tuple[Classifier, Any]:
    """Return the classifier with the task that the user chose, and the target; a function as target is a task."""
    if callable(target):
        if task is not None:
            raise ValueError("target is a function, which is a task of its own: leave task= out")
        return classifier.with_task(Regression(function=target)), None
    if task is None:
        return classifier, target
    if not isinstance(task, Task):
        raise ValueError(f'task of type {type(task).__name__} must be an mpx.Task, e.g. mpx.task("multilabel")')
    return classifier.with_task(task), target


def make_rows(
    classifier: Classifier,
    images: Tensor,
    names: Sequence[str],
    contexts: Sequence[TargetContext],
    target: Any,
    areas: Sequence[float | None],
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
    rows = [
        row
        for image, name, context, image_target in zip(images, names, contexts, targets)
        for row in rows_of_image(classifier, image, name, image_target, areas, context)
    ]
    return [replace(row, image_index=position) for position, row in enumerate(rows)]


def as_images(images: Any, classifier: Classifier) -> tuple[Tensor, list[str], list[TargetContext]]:
    """Return images as (B,C,H,W) float32 in [0,1], their names, and what tasks may know of each.

    images: a tensor (B,C,H,W) or (C,H,W) in [0,1]; or a file, a folder, a glob, a PIL image, a numpy array, or a list of
    these. An array may be a batch (B,H,W), (B,H,W,C) or (B,C,H,W) too.
    """
    if isinstance(images, Tensor):
        batch = _checked(images.detach(), classifier)
        names = [f"image{i}" for i in range(len(batch))]
        contexts = [_context(classifier, None, image) for image in batch]
    else:
        batch, names, contexts = _read(_sources(images, classifier.channels), classifier)
    if unknown := [name for name, image in zip(names, batch) if image.isnan().any()]:
        raise ValueError(f"images hold NaN, the first of them {unknown[0]}: images are numbers in [0,1]")
    low, high = batch.min().item(), batch.max().item()
    if not (0 <= low and high <= 1):
        is_bytes = low >= 0 and high > 2
        normalised = "pass them unnormalised and let Classifier(network, mean, std) normalise"
        remedy = "divide them by 255" if is_bytes else normalised
        raise ValueError(f"images range from {low:.2f} to {high:.2f}, but must be in [0,1]: {remedy}")
    return batch.float(), names, contexts


def _checked(images: Tensor, classifier: Classifier) -> Tensor:
    """Return (B,C,H,W), or raise ValueError where the shape is not that of images of the classifier's channels."""
    if images.is_complex() or images.is_meta or images.layout is not torch.strided:
        kind = "meta" if images.is_meta else images.dtype if images.is_complex() else images.layout
        raise ValueError(f"images are a tensor of {kind}: give dense real numbers in [0,1]")
    batch = images if images.ndim == 4 else images[None]
    declared, channels = classifier.scale.shape[1], classifier.channels
    fits = batch.ndim == 4 and batch.numel() and declared in (1, batch.shape[1])
    is_moved = batch.ndim == 4 and batch.shape[1] != channels == batch.shape[-1]
    if not fits or is_moved:
        hint = "; permute(0,3,1,2) moves the channels there" if is_moved and images.ndim == 4 else ""
        raise ValueError(
            f"images of shape {tuple(images.shape)} must be (B,{channels},H,W) or ({channels},H,W), and not empty{hint}"
        )
    return batch


def _sources(images: Any, channels: int) -> list:
    """Return the images one by one: of a batch as an array, each of its images."""
    if isinstance(images, np.ndarray):
        is_one = images.ndim <= 2 or images.ndim == 3 and channels in (images.shape[0], images.shape[-1])
        return [images] if is_one else list(images)
    return list(images) if isinstance(images, (list, tuple)) else [images]


def _context(classifier: Classifier, file: Path | None, image: Image.Image | Tensor, resized: bool = False) -> TargetContext:
    """Return what tasks may know of an original image; resized: whether the classifier preprocesses it."""
    width, height = image_size(image)
    preprocess = classifier.preprocess if resized and classifier.preprocess else Preprocess((height, width))
    return TargetContext(classifier.categories, file=file, size=(width, height), preprocess=preprocess)


def _read(sources: list, classifier: Classifier) -> tuple[Tensor, list[str], list[TargetContext]]:
    channels = classifier.channels
    names = [f"image{i}" for i in range(len(sources))]
    files: list[Path | None] = [None] * len(sources)
    if sources and all(isinstance(source, Image.Image) for source in sources):
        loaded = [to_channels(source, channels) for source in sources]
    elif sources and all(isinstance(source, np.ndarray) for source in sources):
        loaded = [_array_image(source, name, channels) for source, name in zip(sources, names)]
    elif all(isinstance(source, (str, Path)) for source in sources):
        items = datasets.images(sources)
        _refuse_duplicates(sources)
        loaded, names = [read_image(item.path, channels) for item in items], [item.name for item in items]
        files = [item.path for item in items]
    else:
        kinds = ", ".join(sorted({type(source).__name__ for source in sources}))
        raise ValueError(f"images of type {kinds} must be one tensor, or files, or PIL images, or numpy arrays")
    tensors = [_input(image, classifier) for image in loaded]
    if len({x.shape for x in tensors}) > 1:
        raise ValueError("images differ in size: give the Classifier a preprocess, or resize them")
    contexts = [_context(classifier, file, image, resized=True) for file, image in zip(files, loaded)]
    return torch.stack(tensors), names, contexts


def _array_image(array: np.ndarray, name: str, channels: int) -> Image.Image | Tensor:
    """Return an array as an image, or raise ValueError that names it."""
    try:
        return from_array(array, channels)
    except ValueError as error:
        raise ValueError(f"images: the array {name} cannot be used: {error}") from error


def _input(image: Image.Image | Tensor, classifier: Classifier) -> Tensor:
    """Return the network's input (C,H,W) in [0,1]."""
    if classifier.preprocess:
        return classifier.preprocess(image, classifier.channels)
    return image if isinstance(image, Tensor) else to_tensor(image)


def _refuse_duplicates(sources: Iterable[str | Path]) -> None:
    """Refuse a list that names a file twice: a dataset lists it once, so rows would not match the list."""
    counts = Counter(os.path.abspath(item.path) for source in sources for item in datasets.images(source))
    duplicates = [path for path, count in counts.items() if count > 1]
    if duplicates:
        raise ValueError(f"image {duplicates[0]!r} is listed {counts[duplicates[0]]} times: list each file once")
