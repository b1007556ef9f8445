"""CUB-200-2011: birds with a box and their parts as points, in its original layout.

An image without a box is an item with a problem: a run skips it and reports why.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path

from mpx.data.annotations import Region, as_box
from mpx.data.class_names import label_function
from mpx.data.items import Item, existing_folder, name_items
from mpx.data.preprocessing import Point
from mpx.data.reading import read_lines

SPLITS = ("train", "test", "all")


def cub(root: str | os.PathLike, split: str = "test", classes: str | os.PathLike | Mapping | None = None) -> list[Item]:
    """List the images of root/images.txt; a region has the bird's box and its visible parts as points, as written.

    split: train, test or all. classes: see mpx.data.class_names; a category is the name of its folder without the number.
    """
    root = existing_folder(root)
    if split not in SPLITS:
        raise ValueError(f"split={split!r} must be train, test or all")
    try:
        items = list(_items(root, split, classes))
    except LookupError as error:
        raise ValueError(
            f"the lists in {str(root)!r} do not fit together ({type(error).__name__}: {error}): unpack CUB_200_2011 again"
        ) from error
    if not items:
        raise ValueError(f"root={str(root)!r} has no image in this split whose class is not left out")
    return name_items(items)


def _items(root: Path, split: str, classes: str | os.PathLike | Mapping | None) -> Iterator[Item]:
    boxes = _read_numbered(root / "bounding_boxes.txt")
    class_of_image = _read_numbered(root / "image_class_labels.txt")
    is_training = _read_numbered(root / "train_test_split.txt")
    class_names = {n: name[0].partition(".")[2] for n, name in _read_numbered(root / "classes.txt").items()}
    label_of = label_function(classes, class_names.values())
    points = _read_points(root)
    for number, (file, *_) in _read_numbered(root / "images.txt").items():
        if split != "all" and (is_training[number] == ["1"]) != (split == "train"):
            continue
        path = root / "images" / file
        label = label_of(class_names[class_of_image[number][0]])
        if label is None:
            continue
        if number not in boxes:
            yield Item(path, label, f"bounding_boxes.txt has no line for image {number}, {path.name}: complete it")
            continue
        x, y, width, height = _numbers(boxes[number], 4, f"bounding_boxes.txt, image {number}")
        box = as_box((x, y, x + width, y + height), f"bounding_boxes.txt, image {number}")
        yield Item(path, label, regions={label: Region((box,), points=points[number])})


def _read_points(root: Path) -> dict[str, dict[str, Point]]:
    """Return number of an image -> name of a visible part -> its point."""
    parts = _read_numbered(root / "parts/parts.txt")
    points: dict[str, dict[str, Point]] = defaultdict(dict)
    for line in _read_words(root / "parts/part_locs.txt"):
        image, part = line[0], line[1]
        x, y, visible = _numbers(line[2:], 3, f"part_locs.txt, image {image}")
        if visible:
            points[image][" ".join(parts[part])] = (x, y)
    return points


def _numbers(words: list[str], count: int, where: str) -> list[float]:
    """Return the words as that many finite numbers."""
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(isfinite, numbers)):
        raise ValueError(f"{where}: {' '.join(words)!r} are no {count} numbers: unpack CUB_200_2011 again")
    return numbers


def _read_words(file: Path) -> list[list[str]]:
    """Return the words of each line that is not blank."""
    if not file.is_file():
        raise ValueError(f"there is no {str(file)!r}: root must be the folder CUB_200_2011 with images.txt")
    return [line.split() for line in read_lines(file)]


def _read_numbered(file: Path) -> dict[str, list[str]]:
    """Return the first word of each line, a number -> the other words."""
    return {first: rest for first, *rest in _read_words(file)}
