"""Boxes in a file beside the images of `folder`, `images` or `table`. Paths start from the file's own folder.

CSV: a header and one box per line, in pixels of the upright image: image,label,x0,y0,x1,y1.
JSON: a list of {"file": path, "label": class, "boxes": [[x0,y0,x1,y1], ...]}; other keys are not read.
"""

import csv
import json
import math
import os
import re
from pathlib import Path

from mpx.data.annotations import Region

COLUMNS = ("image", "label", "x0", "y0", "x1", "y1")


def read_boxes(file: str | os.PathLike) -> dict[str, dict[int | str, Region]]:
    """Absolute path of an image -> label -> its region. An image without a line has no entry."""
    file = Path(str(file)).expanduser()
    if not file.is_file():
        raise ValueError(f"boxes={str(file)!r} is no file: give a CSV ({','.join(COLUMNS)}) or a JSON file")
    found: dict[str, dict] = {}
    for where, image, label, box in (_json if file.suffix.lower() == ".json" else _csv)(file):
        path = os.path.abspath(file.parent / image)
        found.setdefault(path, {}).setdefault(label, []).append(as_box(box, f"{where} of {str(file)!r}"))
    if not found:
        raise ValueError(f"boxes={str(file)!r} holds no box: give one per line ({','.join(COLUMNS)})")
    return {path: {label: Region(tuple(boxes)) for label, boxes in labels.items()} for path, labels in found.items()}


def as_box(values, where: str) -> tuple[float, float, float, float]:
    """Four finite numbers x0 < x1, y0 < y1, or what is wrong with them."""
    try:
        x0, y0, x1, y1 = (float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: {values!r} is no box: give four numbers x0,y0,x1,y1") from None
    if not (math.isfinite(x0 + y0 + x1 + y1) and x0 < x1 and y0 < y1):
        raise ValueError(f"{where}: {values!r} is no box: x1 must be beyond x0 and y1 beyond y0, in pixels")
    return x0, y0, x1, y1


def as_label(cell: str) -> str:
    """pandas writes an index as 1.0 where its column has gaps."""
    return re.sub(r"^(\d+)\.0+$", r"\1", cell.strip())


def _csv(file: Path):
    with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as text:
        reader = csv.DictReader(text, skipinitialspace=True)
        there = reader.fieldnames or []
        missing = [name for name in COLUMNS if name not in there]
        if missing:
            raise ValueError(
                f"boxes={str(file)!r} has no column {missing[0]!r}: it must have {','.join(COLUMNS)}, and its columns are "
                f"{', '.join(map(repr, there))}"
            )
        for row in reader:
            where, image, label = f"line {reader.line_num}", (row["image"] or "").strip(), as_label(row["label"] or "")
            if not image or not label:
                raise ValueError(f"{where} of {str(file)!r} has no {'label' if image else 'image'}: give both")
            yield where, image, label, [row[name] for name in COLUMNS[2:]]


def _json(file: Path):
    try:
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"boxes={str(file)!r} is no JSON: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"boxes={str(file)!r} holds a {type(entries).__name__}: it must be a list, one entry per image")
    for number, entry in enumerate(entries):
        where, keys = f"entry {number}", ("file", "label", "boxes")
        missing = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise ValueError(f"{where} of {str(file)!r} has no {missing[0]!r}: it must have {', '.join(keys)}")
        if not isinstance(entry["file"], str):
            raise ValueError(f"{where} of {str(file)!r}: file {entry['file']!r} must be a path")
        if not isinstance(entry["boxes"], list):
            raise ValueError(f"{where} of {str(file)!r}: boxes {entry['boxes']!r} must be a list of [x0,y0,x1,y1]")
        if isinstance(entry["label"], bool) or not isinstance(entry["label"], (int, str)):
            raise ValueError(f"{where} of {str(file)!r}: label {entry['label']!r} must be an index or a name")
        for box in entry["boxes"]:
            yield where, entry["file"], entry["label"], box
