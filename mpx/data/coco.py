"""COCO: an instances JSON beside a folder of images, read with pycocotools (pip install 'mpx[datasets]').

A region is drawn from polygons, run lengths and crowds together; its boxes and objects are those of single objects, or of
crowds where a class has nothing else. An image without any object that counts is an item with a problem.
"""

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from mpx.data.annotations import AnnotatedObject, Label, Region, regions_by_label
from mpx.data.class_names import label_function
from mpx.data.coco_outlines import draw, outline_fault
from mpx.data.items import Item, existing_folder, name_items, single_label
from mpx.data.preprocessing import Box

Json = dict[str, Any]  # an entry of the file


def coco(
    root: str | os.PathLike, annotations: str | os.PathLike, classes: str | os.PathLike | Mapping | None = None
) -> list[Item]:
    """List the images of a file. root: their folder; annotations: instances_*.json; classes: see mpx.data.class_names."""
    root, source = existing_folder(root), Path(str(annotations)).expanduser()
    parsed = _parse(source)
    number = None
    try:
        categories = {number: str(category["name"]) for number, category in parsed.cats.items()}
        label_of = label_function(classes, categories.values())
        items = []
        for number, image in sorted(parsed.imgs.items()):
            if not all(type(image[side]) is int and image[side] > 0 for side in ("width", "height")):
                raise TypeError(f"its size is {image['width']!r} x {image['height']!r}")
            regions = _regions(_objects(parsed.imgToAnns.get(number, []), categories, label_of, source), image)
            problem = None if regions else f"{str(source)!r} has no object for {image['file_name']!r}: leave the image out"
            items.append(Item(root / image["file_name"], single_label(regions), problem, regions))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"annotations={str(source)!r} is no COCO JSON, at entry {number} ({type(error).__name__}: {error}): correct it"
        ) from error
    return name_items(items)


def _objects(
    entries: list[Json], categories: dict[int, str], label_of: Callable[[str], Label | None], source: Path
) -> list[tuple[Label | None, str, Json]]:
    """Return (label, category, annotation) of each annotation of an image."""
    objects = []
    for entry in entries:
        if entry["category_id"] not in categories:
            raise ValueError(
                f"annotation {entry['id']} in {str(source)!r} is of category {entry['category_id']}, which the file "
                "does not list: add it to its categories"
            )
        if fault := outline_fault(entry):
            raise ValueError(f"annotation {entry['id']} in {str(source)!r} {fault}: correct it or leave it out")
        name = categories[entry["category_id"]]
        objects.append((label_of(name), name, entry))
    return objects


def _regions(objects: list[tuple[Label | None, str, Json]], image: Json) -> dict[Label, Region]:
    """Return label -> region of an image's (label, category, annotation); label None: left out."""
    size = image["width"], image["height"]
    all_classes = {name if label is None else label for label, name, _ in objects}
    labelled = [(label, entry) for label, _, entry in objects if label is not None]
    objects_of_labels = [
        AnnotatedObject(label, _box(entry), entry.get("area", entry["bbox"][2] * entry["bbox"][3]))
        for label, entry in labelled
    ]
    regions = {}
    for label, region in regions_by_label(objects_of_labels, size[0] * size[1], all_classes).items():
        entries = [entry for other, entry in labelled if other == label]
        single = [entry for entry in entries if not entry.get("iscrowd")] or entries
        objects_of_label = tuple(
            Region((box,), _drawing([entry], size), difficult=region.difficult)
            for entry in single
            if (box := _box(entry))[0] < box[2] and box[1] < box[3]
        )
        boxes = tuple(box for one in objects_of_label for box in one.boxes)
        regions[label] = replace(region, boxes=boxes, draw=_drawing(entries, size), objects=objects_of_label)
    return regions


def _drawing(entries: list[Json], size: tuple[int, int]) -> Callable[[], Image.Image] | None:
    """Return a function that draws the outlines of annotations, None where they have none."""
    segments = tuple(segment for segment in map(_segment, entries) if segment)
    return partial(draw, segments, size) if segments else None


def _box(entry: Json) -> Box:
    x, y, width, height = entry["bbox"]
    return (x, y, x + width, y + height)


def _segment(entry: Json) -> list | Json | None:
    """Return polygons, run lengths, or None; without polygons of four numbers, which pycocotools would read as a box."""
    segment = entry.get("segmentation")
    return [polygon for polygon in segment if len(polygon) >= 6] if isinstance(segment, list) else segment


def _parse(source: Path) -> Any:
    """Return pycocotools' COCO object."""
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise ValueError("dataset=coco needs pycocotools: pip install 'mpx[datasets]'") from error
    if not source.is_file():
        raise ValueError(f"annotations={str(source)!r} is no file: give COCO's instances_*.json")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            parsed = COCO(str(source))
    except (ValueError, AssertionError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"annotations={str(source)!r} is no COCO JSON ({type(error).__name__}): fetch it again") from error
    if not parsed.cats or not parsed.imgs:
        raise ValueError(
            f"annotations={str(source)!r} lists no {'images' if parsed.cats else 'categories'}: give instances_*.json"
        )
    return parsed
