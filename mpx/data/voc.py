"""PASCAL VOC with the boxes of its 20 classes, in its original layout.

An image without an object that counts is an item with a problem: a run skips it and reports why.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from torchvision.datasets import VOCDetection

from mpx.data.annotations import AnnotatedObject, Label, Region, regions_by_label
from mpx.data.class_names import label_function
from mpx.data.items import Item, existing_folder, name_items, single_label
from mpx.data.pascal_xml import PascalAnnotation, read_pascal_xml
from mpx.data.preprocessing import Box
from mpx.data.reading import regular_file


def voc(
    root: str | os.PathLike,
    year: int | str = 2007,
    split: str = "test",
    xml_difficult: bool = False,
    classes: str | os.PathLike | Mapping | None = None,
) -> list[Item]:
    """List root/VOCdevkit/VOC<year>, a split of ImageSets/Main. classes: see mpx.data.class_names.

    xml_difficult: whether objects that the annotators call difficult count where their class has others (TorchRay's pointing
    game); else they are left out. A class with no other objects is left out either way.
    """
    root = existing_folder(root)
    try:
        regular_file(root / Path("VOCdevkit", f"VOC{year}", "ImageSets", "Main", f"{split}.txt"))
        files = VOCDetection(str(root), str(year), split)
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(
            f"root={str(root)!r} has no split {split!r}: expected VOCdevkit/VOC{year}/ImageSets/Main/{split}.txt below it"
        ) from error
    label_of = label_function(classes)
    items = []
    for path, file in zip(files.images, files.annotations):
        try:
            annotation = read_pascal_xml(file)
            if not annotation.width * annotation.height:
                raise ValueError(f"annotation {file!r} does not state the size of its image: complete it")
        except ValueError as error:
            items.append(Item(Path(path), problem=str(error)))
            continue
        regions = _regions(annotation, label_of, xml_difficult)
        problem = None if regions else f"annotation {file!r} has no object that counts: all are difficult or left out"
        items.append(Item(Path(path), single_label(regions), problem, regions))
    return name_items(items)


def _regions(
    annotation: PascalAnnotation, label_of: Callable[[str], Label | None], xml_difficult: bool
) -> dict[Label, Region]:
    """Return label -> region of the objects that count."""
    width, height, pascal_objects = annotation
    labelled = [(label_of(name), name, box, difficult) for name, box, difficult in pascal_objects]
    easy_labels = {label for label, _, _, difficult in labelled if not difficult}
    objects = [
        _object(label, _from_zero(box))
        for label, _, box, difficult in labelled
        if label is not None and label in easy_labels and (xml_difficult or not difficult)
    ]
    all_classes = [name if label is None else label for label, name, _, _ in labelled]
    return regions_by_label(objects, width * height, all_classes)


def _object(label: Label, box: Box) -> AnnotatedObject:
    return AnnotatedObject(label, box, area=(box[2] - box[0]) * (box[3] - box[1]))


def _from_zero(box: Box) -> Box:
    """Return a box of VOC, which counts pixels from 1 and includes the last one, as mpx's."""
    return box[0] - 1, box[1] - 1, box[2], box[3]
