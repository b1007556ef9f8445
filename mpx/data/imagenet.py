"""ImageNet's validation images (ILSVRC 2012) with their boxes, from Kaggle's CSV or the devkit's XML.

An image without a box is an item with a problem: a run skips it and reports why.
"""

import os
from pathlib import Path

from mpx.data.annotations import AnnotatedObject, as_box, regions_by_label
from mpx.data.items import IMAGE_SUFFIXES, Item, existing_folder, name_items, single_label
from mpx.data.pascal_xml import read_pascal_xml
from mpx.data.reading import read_lines


def imagenet(
    root: str | os.PathLike,
    images: str | os.PathLike = "images",
    annotations: str | os.PathLike | None = "LOC_val_solution.csv",
    exclude: str | os.PathLike | None = None,
) -> list[Item]:
    """List the images at any depth below root/images; labels are wnids, and boxes are as written.

    annotations: Kaggle's CSV or the folder of the devkit's XML, below root; None: neither boxes nor labels. exclude: a text
    file with an image on each line, by its name or, as in the devkit's list of images to leave out, its number.
    """
    root = existing_folder(root)
    folder = existing_folder(root / images)
    files = sorted(path for path in folder.rglob("[!.]*") if path.name.lower().endswith(IMAGE_SUFFIXES))
    source = None if annotations is None else root / Path(annotations).expanduser()
    if source is not None and not source.exists():
        raise ValueError(f"annotations={str(source)!r} does not exist: give LOC_val_solution.csv or the folder of XML files")
    excluded = set() if exclude is None else _read_excluded(exclude)
    files = [path for path in files if path.stem not in excluded]
    if not files:
        raise ValueError(f"images={str(folder)!r} holds no image that is not excluded")
    if source is None:
        return name_items(Item(path) for path in files)
    objects = None if source.is_dir() else _read_solution(source)
    return name_items(_item(path, source, objects) for path in files)


def _item(path: Path, source: Path, objects_of_image: dict[str, list[AnnotatedObject]] | None) -> Item:
    """Return an image with its objects from Kaggle's CSV or, where these are None, from its XML file in `source`."""
    problem = f"{str(source)!r} has no box for {path.stem}: add one, or exclude the image"
    objects: list[AnnotatedObject] = []
    try:
        if objects_of_image is None:
            pascal = read_pascal_xml(source / f"{path.stem}.xml").objects
            objects = [AnnotatedObject(name, box, 0.0) for name, box, _ in pascal]
        else:
            objects = objects_of_image.get(path.stem, [])
    except ValueError as error:
        problem = str(error)
    regions = regions_by_label(objects, pixels=0.0)  # ImageNet has no difficult part
    return Item(path, single_label(regions), None if objects else problem, regions)


def _read_excluded(exclude: str | os.PathLike) -> set[str]:
    """Return the stems of the images in a text file."""
    file = Path(str(exclude)).expanduser()
    if not file.is_file():
        raise ValueError(f"exclude={str(file)!r} is no file: give a text file with an image on each line")
    names = [line.split()[0] for line in read_lines(file)]
    return {f"ILSVRC2012_val_{name:>08}" if name.isdecimal() else Path(name).stem for name in names}


def _read_solution(file: Path) -> dict[str, list[AnnotatedObject]]:
    """Read Kaggle's lines "image,wnid x0 y0 x1 y1 wnid ..."; return stem of the image -> its objects."""
    objects = {}
    for number, line in enumerate(read_lines(file)[1:], 2):
        image, _, text = line.partition(",")
        words, where = text.split(), f"line {number} of {str(file)!r}"
        if len(words) % 5:
            raise ValueError(f"{where} is no list of objects: expected image,wnid x0 y0 x1 y1 wnid ...")
        objects[image.strip()] = [
            AnnotatedObject(words[i], as_box(words[i + 1 : i + 5], where), 0.0) for i in range(0, len(words), 5)
        ]
    return objects
