"""COCO: an instances JSON beside a folder of images, read with pycocotools (pip install 'mpx[datasets]').

A region is drawn from polygons, run lengths and crowds together; its boxes are those of single objects, or of crowds where
a class has nothing else. An image without any object that counts is an item with a problem.
"""

import contextlib
import io
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from mpx.data.annotated import regions
from mpx.data.class_names import naming
from mpx.data.datasets import Item, _folder, _items, _one


def coco(
    root: str | os.PathLike, annotations: str | os.PathLike, classes: str | os.PathLike | Mapping | None = None
) -> list[Item]:
    """root: the folder of the images; annotations: instances_*.json; classes: category -> model class (mpx.data.class_names)."""
    root, source = _folder(root), Path(str(annotations)).expanduser()
    parsed = _parse(source)
    categories = {number: one["name"] for number, one in parsed.cats.items()}
    label_of = naming(classes, categories.values())
    labels, problems, found = [], [], []
    for number, image in sorted(parsed.imgs.items()):
        objects = []
        for one in parsed.imgToAnns.get(number, []):
            if one["category_id"] not in categories:
                raise ValueError(
                    f"annotation {one['id']} in {str(source)!r} is of category {one['category_id']}, which the file does "
                    "not list: add it to its categories"
                )
            name = categories[one["category_id"]]
            objects.append((label_of(name), name, one))
        found.append(_regions(objects, image))
        labels.append(_one(found[-1]))
        missing = f"{str(source)!r} has no object for {image['file_name']!r}: leave the image out"
        problems.append(None if found[-1] else missing)
    return _items([root / image["file_name"] for _, image in sorted(parsed.imgs.items())], labels, problems, found)


def draw(segments: tuple, size: tuple[int, int]) -> Image.Image:
    """Polygons, and run lengths compressed or not, of an image of size (width, height) -> their union, mode "1"."""
    from pycocotools import mask

    width, height = size
    runs = []
    for segment in segments:
        if isinstance(segment, list):
            runs += mask.frPyObjects(segment, height, width)
        elif isinstance(segment["counts"], list):
            runs.append(mask.frPyObjects(segment, height, width))
        else:
            runs.append(segment)
    return Image.fromarray(mask.decode(mask.merge(runs)).astype(bool))


def _regions(objects: list[tuple], image: dict) -> dict:
    """Label -> Region of an image's (label, category, annotation)."""
    size = image["width"], image["height"]
    others = {name if label is None else label for label, name, _ in objects}
    objects = [(label, one) for label, _, one in objects if label is not None]
    areas = [(label, _box(one), one.get("area", one["bbox"][2] * one["bbox"][3])) for label, one in objects]
    by_area = regions(areas, size[0] * size[1], others)
    whole = {}
    for label, region in by_area.items():
        mine = [one for other, one in objects if other == label]
        single = [one for one in mine if not one.get("iscrowd")] or mine
        boxes = tuple(box for box in map(_box, single) if box[0] < box[2] and box[1] < box[3])
        segments = tuple(filter(None, map(_segment, mine)))
        whole[label] = replace(region, boxes=boxes, draw=partial(draw, segments, size) if segments else None)
    return whole


def _box(one: dict) -> tuple:
    x, y, width, height = one["bbox"]
    return (x, y, x + width, y + height)


def _segment(one: dict):
    segment = one.get("segmentation")
    # four numbers would be read as a box
    return [polygon for polygon in segment if len(polygon) >= 6] if isinstance(segment, list) else segment


def _parse(source: Path):
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise ValueError("dataset=coco needs pycocotools: pip install 'mpx[datasets]'") from error
    if not source.is_file():
        raise ValueError(f"annotations={str(source)!r} is no file: give COCO's instances_*.json")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of its progress
            parsed = COCO(str(source))
    except (ValueError, AssertionError, KeyError, TypeError) as error:
        raise ValueError(f"annotations={str(source)!r} is no COCO JSON ({type(error).__name__}): fetch it again") from error
    if not parsed.cats or not parsed.imgs:
        raise ValueError(
            f"annotations={str(source)!r} lists no {'images' if parsed.cats else 'categories'}: give instances_*.json"
        )
    return parsed
