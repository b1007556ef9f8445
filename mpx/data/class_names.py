"""What an annotated dataset calls its categories, and what the model does: the `classes=` of voc, coco, pets and cub.

None: a category's own name is the label. Else a mapping, or a JSON file of one, from each category to a label (an index, a
name or a wnid); null leaves a category out, and "*" stands for all that are not listed.
"""

import json
import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path


def naming(classes: str | os.PathLike | Mapping | None, known: Iterable[str] = ()):
    """category -> label, or None where it is left out. known: the dataset's categories, if it lists them."""
    if classes is None:
        return str
    if not isinstance(classes, Mapping):
        classes = _read(Path(str(classes)).expanduser())
    for category, label in classes.items():
        if isinstance(label, bool) or not isinstance(label, (int, str, type(None))):
            raise ValueError(f"classes: {category!r} is given the class {label!r}: give an index, a name, a wnid or null")
    known = list(known)
    for category in set(classes) - {"*"} if known else ():
        if category not in known:
            near = get_close_matches(str(category), known) or known[:5]
            raise ValueError(f"classes: {category!r} is no category of this dataset: it has {', '.join(near)}, ...")
    label_of = cache(partial(_label, dict(classes)))
    for category in known:
        label_of(category)
    return label_of


def _label(classes: dict, category: str) -> int | str | None:
    if category not in classes and "*" not in classes:
        raise ValueError(
            f"classes: category {category!r} has no class: give it one, or null to leave it out (*: null for all others)"
        )
    return classes.get(category, classes.get("*"))


def _read(file: Path) -> Mapping:
    if not file.is_file():
        raise ValueError(f"classes={str(file)!r} is no file: give a JSON file or a mapping from categories to classes")
    try:
        classes = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"classes={str(file)!r} is no JSON: {error}") from error
    if not isinstance(classes, dict):
        raise ValueError(f'classes={str(file)!r} must be one JSON object such as {{"dog": 207, "person": null}}')
    return classes
