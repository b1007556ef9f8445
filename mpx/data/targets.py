"""The classes to explain in one image: words to class indices, on the host, before anything is optimized.

A target is "top1" (the highest logit), "top2" ..., "label" (the dataset's, all of them), an index, or a class name:
the whole name, else one of its comma separated synonyms, else whole words of it, if that leaves a single class. A name may
also be an ImageNet wnid where there are 1000 classes. Digits are an index, unless a label is itself the name of a class.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import Tensor

from mpx.data.annotations import Annotation, Label, Region
from mpx.data.preprocessing import Preprocess
from mpx.errors import near_matches

ANY_CLASS = 10**9  # number of classes of a model without class names
Categories = Sequence[str] | None  # a name per class, in the order of the logits


@dataclass(frozen=True)
class TargetContext:
    """What a task may know of an image, besides the network's output, to find its targets.

    label, regions: the dataset's. file: of the image, where it is read from one. size: (width, height) of the original;
    preprocess: from it to the network's input.
    """

    categories: Categories = None
    label: Label | tuple[Label, ...] | None = None
    regions: Mapping[Label, Region] = field(default_factory=dict)
    file: Path | None = None
    size: tuple[int, int] = (1, 1)
    preprocess: Preprocess = Preprocess((1, 1))

    def annotation(self, target: int) -> Annotation | None:
        """Return where a class is in the network's input, None where the dataset does not say."""
        classes = len(self.categories) if self.categories else ANY_CLASS
        region = region_of(target, self.regions, classes, self.categories)
        return self.annotate(region) if region else None

    def annotate(self, region: Region) -> Annotation:
        """Return a region of the original as the network's input shows it."""
        return Annotation(region, self.size, self.preprocess)


@dataclass(frozen=True, eq=False)
class Target:
    """What is explained of one image.

    index: of the class. place: what `prepare` needs to know of where it is, of one shape for all images; None: nothing.
    number: of the object among those of its class in the image, from 1. region: of the object in the dataset, for metrics;
    None: that of all objects of the class.
    """

    index: int
    place: Tensor | None = None
    number: int = 1
    region: Region | None = None

    @property
    def key(self) -> str:
        """The target's name among those of its image."""
        return f"{self.index}" if self.number == 1 else f"{self.index}#{self.number}"


class NotInImageError(ValueError):
    """An image lacks the target, which other images may have: a run skips the image."""


def resolve_targets(
    targets: Any, logits: Tensor, label: Label | tuple[Label, ...] | None = None, categories: Categories = None
) -> list[int]:
    """Return the class indices of one target or a list of them, in the order given, each once.

    logits: (classes,) of the image. label: the dataset's.
    """
    target_list = list(targets) if isinstance(targets, Iterable) and not isinstance(targets, str) else [targets]
    if not target_list:
        raise ValueError('target=[] names no class: give "top1", "label", an index or a class name')
    return list(dict.fromkeys(index for target in target_list for index in _resolve(target, logits, label, categories)))


def region_of(target: int, regions: Mapping[Label, Region], classes: int, categories: Categories = None) -> Region | None:
    """Return the region of a class index among an item's, None where the class has none.

    Labels that are no class of this model are ignored: a dataset may have others.
    """
    matches = []
    for label, region in regions.items():
        with suppress(ValueError):
            if class_index(label, classes, categories, "label") == target:
                matches.append(region)
    if len(matches) > 1:
        raise ValueError(
            f"{len(matches)} of the labels {', '.join(map(repr, regions))} are class {target}: give one region each"
        )
    return matches[0] if matches else None


def _resolve(target: Any, logits: Tensor, label: Label | tuple[Label, ...] | None, categories: Categories) -> list[int]:
    top = re.fullmatch(r"top(\d+)", target) if isinstance(target, str) else None
    if top:
        rank = int(top[1])
        if not 1 <= rank <= len(logits):
            raise ValueError(f"target {target!r} is out of range: this model goes from top1 to top{len(logits)}")
        return [int(logits.topk(rank).indices[-1])]
    if target != "label":
        return [class_index(target, len(logits), categories, "target")]
    labels = label if isinstance(label, tuple) else () if label is None else (label,)
    if not labels:
        raise ValueError('target "label" needs a dataset with labels, and this image has none: use "top1" or name a class')
    return [class_index(name, len(logits), categories, "label") for name in labels]


def class_index(value: Any, classes: int, categories: Categories, kind: str) -> int:
    """Return the class index of an index, a name or a wnid. kind: what it is, e.g. "target" or "label", for messages."""
    text = str(value).strip()
    if isinstance(value, bool) or not isinstance(value, (str, Integral)):
        raise ValueError(f'{kind} {value!r} is not a class: give "top1", "label", an index or a class name')
    if re.fullmatch(r"-?\d+", text):
        return _index_of_digits(value, text, classes, categories, kind)
    if classes == 1000 and re.fullmatch(r"n\d{8}", text) and text in _imagenet_wnids():
        return _imagenet_wnids()[text]
    if categories is None:
        raise ValueError(f"{kind} {text!r} is a name, and the model has no class names: give an index{_up_to(classes)}")
    return _index_of_name(text, categories, kind)


def _index_of_digits(value: Any, text: str, classes: int, categories: Categories, kind: str) -> int:
    if isinstance(value, str):  # a folder called 10 is the class of this name
        matches = [i for i, name in enumerate(categories or ()) if str(name).strip() == text]
        if len(matches) == 1 and matches[0] != int(text):
            if kind == "label":
                return matches[0]
            raise ValueError(
                f"{kind} {value!r} is an index and the name of class {matches[0]}: give the index {matches[0]} as a number, "
                f"without quotes, for the class of this name, or {text}"
            )
    if not 0 <= int(text) < classes:
        model = "classes count" if classes == ANY_CLASS else f"the model has {classes} classes"
        raise ValueError(f"{kind} {text} is out of range: {model}{_up_to(classes)}")
    return int(text)


def _up_to(classes: int) -> str:
    """Return the range of class indices as the end of a sentence."""
    return " from 0" if classes == ANY_CLASS else f", 0 to {classes - 1}"


def _index_of_name(text: str, categories: Sequence[str], kind: str) -> int:
    query, names = _normalised(text), [_normalised(name) for name in categories]
    word = re.compile(rf"(?<!\w){re.escape(query)}(?!\w)")
    for is_match in (query.__eq__, lambda name: query in re.split(r"\s*,\s*", name), word.search):
        matches = [i for i, name in enumerate(names) if query and is_match(name)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            listed = ", ".join(f"{i} ({categories[i]})" for i in matches[:10]) + (", ..." if len(matches) > 10 else "")
            raise ValueError(f"{kind} {text!r} is ambiguous: give one of the indices {listed}")
    close = [categories[names.index(name)] for name in near_matches(query, names)]
    hint = f"its {len(categories)} classes are {categories[0]!r} to {categories[-1]!r}"
    if close:
        hint = f"near it: {', '.join(close)}"
    raise ValueError(f"{kind} {text!r} is not a class of this model; {hint}")


def _normalised(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


@cache
def _imagenet_wnids() -> dict[str, int]:
    from timm.data import ImageNetInfo  # slow to import, and rarely needed

    return {wnid: index for index, wnid in enumerate(ImageNetInfo().label_names())}
