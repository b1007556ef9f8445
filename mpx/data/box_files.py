"""Files of boxes beside the images of `folder`, `images` or `table`. Paths in them start from the file's own folder.

CSV: a header and one box per line, in pixels of the upright image: image,label,x0,y0,x1,y1.
JSON: a list of {"file": path, "label": class, "boxes": [[x0,y0,x1,y1], ...]}; other keys are ignored.
"""

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpx.data.annotations import Label, Region, as_box
from mpx.data.reading import read_json

COLUMNS = ("image", "label", "x0", "y0", "x1", "y1")
KEYS = ("file", "label", "boxes")
Entry = tuple[str, str, Label, Any]  # where it stands in the file, image path, label, box


def read_boxes(file: str | os.PathLike) -> dict[str, dict[Label, Region]]:
    """Return absolute path of an image -> label -> its region; an image without a line has no entry."""
    file = Path(str(file)).expanduser()
    if not file.is_file():
        raise ValueError(f"boxes={str(file)!r} is no file: give a CSV ({','.join(COLUMNS)}) or a JSON file")
    boxes: dict[str, dict[Label, list]] = {}
    for where, image, label, box in (_read_json if file.suffix.lower() == ".json" else _read_csv)(file):
        path = os.path.abspath(file.parent / image)
        boxes.setdefault(path, {}).setdefault(label, []).append(as_box(box, f"{where} of {str(file)!r}"))
    if not boxes:
        raise ValueError(f"boxes={str(file)!r} holds no box: give one per line ({','.join(COLUMNS)})")
    return {
        path: {label: Region(tuple(label_boxes)) for label, label_boxes in labels.items()} for path, labels in boxes.items()
    }


def clean_label(cell: str) -> str:
    """Return a table's cell as a label: pandas writes an index as 1.0 where its column has gaps."""
    return re.sub(r"^(\d+)\.0+$", r"\1", cell.strip())


def _read_csv(file: Path) -> Iterator[Entry]:
    with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as text:
        reader = csv.DictReader(text, skipinitialspace=True)
        header = reader.fieldnames or []
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise ValueError(
                f"boxes={str(file)!r} has no column {missing[0]!r}: it must have {','.join(COLUMNS)}, and its columns are "
                f"{', '.join(map(repr, header))}"
            )
        for row in reader:
            where = f"line {reader.line_num}"
            image, label = (row["image"] or "").strip(), clean_label(row["label"] or "")
            if not image or not label:
                raise ValueError(f"{where} of {str(file)!r} has no {'label' if image else 'image'}: give both")
            yield where, image, label, [row[name] for name in COLUMNS[2:]]


def _read_json(file: Path) -> Iterator[Entry]:
    entries = read_json(file, "boxes")
    if not isinstance(entries, list):
        raise ValueError(f"boxes={str(file)!r} holds a {type(entries).__name__}: it must be a list, one entry per image")
    for number, entry in enumerate(entries):
        where = f"entry {number}"
        missing = [key for key in KEYS if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise ValueError(f"{where} of {str(file)!r} has no {missing[0]!r}: it must have {', '.join(KEYS)}")
        path, label, boxes = (entry[key] for key in KEYS)
        if not isinstance(path, str):
            raise ValueError(f"{where} of {str(file)!r}: file {path!r} must be a path")
        if not isinstance(boxes, list):
            raise ValueError(f"{where} of {str(file)!r}: boxes {boxes!r} must be a list of [x0,y0,x1,y1]")
        if isinstance(label, bool) or not isinstance(label, (int, str)):
            raise ValueError(f"{where} of {str(file)!r}: label {label!r} must be an index or a name")
        for box in boxes:
            yield where, path, label, box
