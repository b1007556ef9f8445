"""Image datasets of Hugging Face's datasets (pip install 'mpx[hf]'), from a folder or the hub.

Images in a table's cells are written as files once, as they are; those that are files already stay where they are.
"""

import io
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mpx.data.annotations import Label
from mpx.data.class_names import label_function
from mpx.data.items import Item, name_items, single_label
from mpx.errors import first_line, near

SAVED = ("state.json", "dataset_dict.json")  # one of them is in a folder of save_to_disk


def hf(
    name: str | os.PathLike,
    root: str | os.PathLike = "outputs/hf",
    split: str | None = None,
    config: str | None = None,
    image: str | None = None,
    label: str | None = None,
    classes: str | os.PathLike | Mapping | None = None,
    limit: int | None = None,
) -> list[Item]:
    """List the images of a dataset that save_to_disk wrote into the folder `name`, or of a hub id.

    root: folder for the images in cells. split, config: of the dataset, where it has several. image, label: names of the
    columns; None: the only ones of the type of images, and of class labels (or lists of them), of which there may be none.
    classes: see mpx.data.class_names. limit: of the images that are read.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError('dataset=hf needs datasets: pip install "mpx[hf]"') from None
    table = _load(datasets, str(name), config, split)
    image = _column(table, image, "image", lambda kind: isinstance(kind, datasets.Image))
    if image is None:
        raise ValueError(f"dataset {name} has no column of images: its columns are {_columns(table)}")
    label = _column(table, label, "label", lambda kind: _class_label(datasets, kind) is not None)
    kind = _class_label(datasets, table.features[label]) if label else None
    label_of = label_function(classes, kind.names if kind else ())
    table = table.cast_column(image, datasets.Image(decode=False))
    parts = [Path(name).name, *([config] if config else []), *([str(table.split)] if table.split else [])]
    folder = Path(str(root)).expanduser() / re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(parts))
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for number, row in enumerate(table if limit is None else table.take(min(limit, len(table)))):
        path, problem = _file(row[image], folder / f"{number:06}")
        labels = _labels(row[label], kind, label_of) if label else ()
        items.append(Item(path, single_label(labels), problem))
    return name_items(items)


def _load(datasets: Any, name: str, config: str | None, split: str | None) -> Any:
    """Return the table of one split."""
    folder = Path(name).expanduser()
    try:
        if any((folder / file).is_file() for file in SAVED):
            loaded = datasets.load_from_disk(str(folder))
        else:
            loaded = datasets.load_dataset(str(folder) if folder.is_dir() else name, config)
    except Exception as error:  # datasets, huggingface_hub and the HTTP client raise many kinds
        raise ValueError(
            f"dataset.name={name!r} cannot be loaded ({first_line(error).rstrip('.')}): give a folder that save_to_disk "
            "wrote, or a hub id and a connection"
        ) from error
    if not isinstance(loaded, datasets.DatasetDict):
        if split not in (None, str(loaded.split)):
            raise ValueError(f"dataset.split={split!r}: {name} has one split only: leave dataset.split out")
        return loaded
    if split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    if split not in loaded:
        raise ValueError(f"dataset.split={split!r} must be one of the splits of {name}: {', '.join(loaded)}")
    return loaded[split]


def _column(table: Any, name: str | None, key: str, fits: Callable[[Any], bool]) -> str | None:
    """Return the column that the user names, else the only one whose type fits, else None."""
    if name is not None:
        if name not in table.features:
            raise ValueError(f"dataset.{key}={name!r} is no column of the dataset{near(name, table.features)}")
        return name
    names = [column for column, kind in table.features.items() if fits(kind)]
    if len(names) > 1:
        raise ValueError(f"the dataset has {len(names)} columns of {key}s: set dataset.{key}= to one of {', '.join(names)}")
    return names[0] if names else None


def _columns(table: Any) -> str:
    return ", ".join(f"{column} ({type(kind).__name__})" for column, kind in table.features.items())


def _class_label(datasets: Any, kind: Any) -> Any:
    """Return the type of a column's class labels, also where a cell is a list of them; None for other columns."""
    kind = getattr(kind, "feature", kind)  # foreign: a list's type has the type of its elements
    return kind if isinstance(kind, datasets.ClassLabel) else None


def _labels(cell: Any, kind: Any, label_of: Callable[[str], Label | None]) -> list[Label]:
    """Return the labels in a cell; a dataset without labels has None or -1 there."""
    cells = cell if isinstance(cell, list) else [cell]
    present = [one for one in cells if one is not None and not (kind and one < 0)]
    named = [label_of(kind.int2str(one)) if kind else one for one in present]
    return [one for one in named if one is not None]


def _file(cell: Any, stem: Path) -> tuple[Path, str | None]:
    """Return the file of the image in a cell, and why it cannot be used; bytes are written to a file of this stem."""
    data, name = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (None, None)
    if not data:
        return (Path(name), None) if name else (stem, f"row {int(stem.name)} of the dataset has no image")
    path = stem.with_suffix(Path(name).suffix.lower() if name else _suffix(data))
    if not path.is_file() or path.read_bytes() != data:
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(data)
        os.replace(part, path)
    return path, None


def _suffix(data: bytes) -> str:
    """Return the suffix of an image file's bytes."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return f".{(image.format or 'image').lower()}"
    except OSError:  # a run skips this image, and says why
        return ".image"
