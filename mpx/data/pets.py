"""Oxford-IIIT Pet: 37 breeds of cats and dogs with their outlines (trimaps), in its original layout.

An image without a trimap is an item with a problem: a run skips it and reports why.
"""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from PIL import Image
from torchvision.datasets import OxfordIIITPet

from mpx.data.annotations import Region
from mpx.data.class_names import label_function
from mpx.data.items import Item, existing_folder, name_items
from mpx.data.reading import regular_file
from mpx.errors import first_line


def pets(root: str | os.PathLike, split: str = "test", classes: str | os.PathLike | Mapping | None = None) -> list[Item]:
    """List root/oxford-iiit-pet; a region is what the trimap marks as pet, without the rim.

    split: test or trainval. classes: see mpx.data.class_names.
    """
    folder = existing_folder(root)
    lists = folder / "oxford-iiit-pet" / "annotations"
    try:
        regular_file(lists / f"{split}.txt")  # torchvision would wait for a pipe
        files = OxfordIIITPet(str(folder), split)
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"root={str(root)!r} has no split {split!r}: expected oxford-iiit-pet/images and oxford-iiit-pet/annotations/"
            f"{split}.txt below it"
        ) from error
    except ValueError as error:
        raise ValueError(f"{str(lists)!r}: {split}.txt is no list of this dataset ({first_line(error)})") from error
    if not all(0 <= index < len(files.classes) for index in files._labels):
        raise ValueError(f"{str(lists)!r}: {split}.txt has a class without an image of its own number: fetch it again")
    label_of = label_function(classes, files.classes)
    trimaps = set(os.listdir(files._segs_folder)) if files._segs_folder.is_dir() else set()
    items = []
    for path, trimap, index in zip(files._images, files._segs, files._labels):
        label = label_of(files.classes[index])
        if label is None:
            continue
        if trimap.name in trimaps:
            items.append(Item(path, label, regions={label: Region(draw=partial(draw_trimap, trimap))}))
        else:
            items.append(Item(path, label, f"there is no trimap {str(trimap)!r}: fetch annotations.tar.gz"))
    if not items:
        raise ValueError(f"root={str(root)!r} has no image in this split whose class is not left out")
    return name_items(items)


def draw_trimap(path: Path) -> Image.Image:
    """Return the pet of a trimap (1: pet, 2: background, 3: undecided), mode "1"."""
    try:
        with Image.open(path) as trimap:
            return trimap.convert("L").point(lambda value: 255 * (value == 1)).convert("1", dither=Image.Dither.NONE)
    except OSError as error:
        raise ValueError(f"cannot read trimap {str(path)!r}: {error}") from error
