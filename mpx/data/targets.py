"""Which class is explained: words to class indices, for one image, on the host, before anything is optimised.

A target is "top1" (the winner), "top2" (the second) ..., "label" (the dataset's, all of them), an index, or a class name:
the whole name, else one of its comma separated synonyms, else whole words of it, if that leaves a single class. A name may
also be an ImageNet wnid where there are 1000 classes. Digits are an index, but for a label that is the very name of a class.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from numbers import Integral

from torch import Tensor

from mpx.data.annotations import Region


def resolve_targets(
    spec, logits: Tensor, label: int | str | tuple | None = None, categories: Sequence[str] | None = None
) -> list[int]:
    """spec: one target or a list of them; logits: (classes,). Class indices in the order given, each once."""
    specs = list(spec) if isinstance(spec, Iterable) and not isinstance(spec, str) else [spec]
    if not specs:
        raise ValueError('target=[] names no class: give "top1", "label", an index or a class name')
    return list(dict.fromkeys(index for one in specs for index in _resolve(one, logits, label, categories)))


def region_of(target: int, regions: dict, classes: int, categories: Sequence[str] | None = None) -> Region | None:
    """The region of a class index among an item's (label -> Region): None where it has none of this class.

    A label that is no class of the model is another's.
    """
    found = []
    for label, region in regions.items():
        with suppress(ValueError):
            if _index(label, classes, categories, "label") == target:
                found.append(region)
    if len(found) > 1:
        raise ValueError(
            f"{len(found)} of the labels {', '.join(map(repr, regions))} are class {target}: give one region each"
        )
    return found[0] if found else None


def _resolve(spec, logits, label, categories) -> list[int]:
    top = re.fullmatch(r"top(\d+)", spec) if isinstance(spec, str) else None
    if top:
        rank = int(top[1])
        if not 1 <= rank <= len(logits):
            raise ValueError(f"target {spec!r} is out of range: this model goes from top1 to top{len(logits)}")
        return [int(logits.topk(rank).indices[-1])]
    if spec != "label":
        return [_index(spec, len(logits), categories, "target")]
    labels = label if isinstance(label, tuple) else () if label is None else (label,)
    if not labels:
        raise ValueError('target "label" needs a dataset with labels, and this image has none: use "top1" or name a class')
    return [_index(label, len(logits), categories, "label") for label in labels]


def _index(value, classes: int, categories, what: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not isinstance(value, (str, Integral)):
        raise ValueError(f'{what} {value!r} is not a class: give "top1", "label", an index or a class name')
    if re.fullmatch(r"-?\d+", text):
        named = _called(text, categories) if isinstance(value, str) else None
        if named not in (None, int(text)):
            if what == "label":
                return named
            raise ValueError(
                f"{what} {value!r} is an index and the name of class {named}: give the index {named} as a number, without "
                f"quotes, for the class of this name, or {text}"
            )
        if not 0 <= int(text) < classes:
            raise ValueError(f"{what} {text} is out of range: the model has {classes} classes, 0 to {classes - 1}")
        return int(text)
    if classes == 1000 and re.fullmatch(r"n\d{8}", text) and text in _wnids():
        return _wnids()[text]
    if categories is None:
        raise ValueError(f"{what} {text!r} is a name, and the model has no class names: give an index, 0 to {classes - 1}")
    return _by_name(text, categories, what)


def _called(text: str, categories: Sequence[str] | None) -> int | None:
    """The one class of this very name."""
    found = [i for i, name in enumerate(categories or ()) if str(name).strip() == text]
    return found[0] if len(found) == 1 else None


def _by_name(text: str, categories: Sequence[str], what: str) -> int:
    wanted, names = _plain(text), [_plain(name) for name in categories]
    word = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
    for match in (wanted.__eq__, lambda name: wanted in re.split(r"\s*,\s*", name), word.search):
        found = [i for i, name in enumerate(names) if wanted and match(name)]
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(f"{i} ({categories[i]})" for i in found[:10]) + (", ..." if len(found) > 10 else "")
            raise ValueError(f"{what} {text!r} is ambiguous: give one of the indices {listed}")
    near = [categories[names.index(name)] for name in get_close_matches(wanted, names, n=3, cutoff=0.5)]
    raise ValueError(
        f"{what} {text!r} is not a class of this model; "
        + (
            f"near: {', '.join(near)}"
            if near
            else f"its {len(categories)} classes are {categories[0]!r} to {categories[-1]!r}"
        )
    )


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


@cache
def _wnids() -> dict[str, int]:
    from timm.data import ImageNetInfo  # slow to import, and seldom needed

    return {wnid: index for index, wnid in enumerate(ImageNetInfo().label_names())}
