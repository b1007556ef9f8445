"""From the categories of an annotated dataset to the classes of the model: the option `classes=` of voc, coco, pets and cub.

None: a category's own name is the label. Else a mapping, or a JSON file of one, from each category to a label (an index, a
name or a wnid); null leaves a category out, and "*" stands for all that are not listed.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mpx.data.annotations import Label
from mpx.data.reading import read_json
from mpx.errors import near_matches


def label_function(
    classes: str | os.PathLike | Mapping | None, categories: Iterable[str] = ()
) -> Callable[[str], Label | None]:
    """Return the function from a category to its label, None where it is left out.

    categories: of the dataset, where it lists them; each must have an entry, and each entry must be one of them.
    """
    if classes is None:
        return str
    mapping = dict(classes if isinstance(classes, Mapping) else _read_mapping(Path(str(classes)).expanduser()))
    categories = list(categories)
    for category, label in mapping.items():
        if isinstance(label, bool) or not isinstance(label, (int, str, type(None))):
            raise ValueError(f"classes: {category!r} has the class {label!r}: give an index, a name, a wnid or null")
        if categories and category not in (*categories, "*"):
            close = near_matches(category, categories, cutoff=0.6) or categories[:5]
            raise ValueError(f"classes: {category!r} is no category of this dataset: it has {', '.join(close)}, ...")

    def label_of(category: str) -> Label | None:
        if category not in mapping and "*" not in mapping:
            raise ValueError(
                f"classes: category {category!r} has no class: give it one, or null to leave it out (*: null for all others)"
            )
        return mapping.get(category, mapping.get("*"))

    for category in categories:
        label_of(category)
    return label_of


def _read_mapping(file: Path) -> Mapping:
    if not file.is_file():
        raise ValueError(f"classes={str(file)!r} is no file: give a JSON file or a mapping from categories to classes")
    classes = read_json(file, "classes")
    if not isinstance(classes, dict):
        raise ValueError(f'classes={str(file)!r} must be one JSON object such as {{"dog": 207, "person": null}}')
    return classes
