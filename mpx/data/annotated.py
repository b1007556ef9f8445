"""Datasets that say where their classes are, in their original layouts: ImageNet, PASCAL VOC, Oxford-IIIT Pet, CUB-200-2011.

An image without a usable annotation is an item with a problem: a run skips it and says why. (COCO: mpx.data.coco.)
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import ParseError, parse

from PIL import Image
from torchvision.datasets import OxfordIIITPet, VOCDetection

from mpx.data.annotations import Region
from mpx.data.boxes import as_box
from mpx.data.class_names import naming
from mpx.data.datasets import SUFFIXES, Item, _folder, _items, _one

SMALL = 0.25  # share of the image below which the pointing game calls a class difficult, if others are there


def regions(found: Iterable[tuple], pixels: float, others: Iterable = ()) -> dict[int | str, Region]:
    """Label -> Region of (label, box, area) of each object in an image of so many pixels; others: labels there beside these.

    Difficult as in Zhang et al. 2016 (excitation backprop): its objects cover less than a quarter and it is not alone.
    """
    boxes, areas = defaultdict(list), defaultdict(float)
    for label, box, area in found:
        boxes[label].append(box)
        areas[label] += area
    alone = len({*boxes, *others}) < 2
    return {
        label: Region(tuple(many), difficult=not alone and areas[label] < SMALL * pixels) for label, many in boxes.items()
    }


def imagenet(
    root: str | os.PathLike,
    images: str | os.PathLike = "images",
    annotations: str | os.PathLike | None = "LOC_val_solution.csv",
    exclude: str | os.PathLike | None = None,
) -> list[Item]:
    """ILSVRC validation images at any depth below root/images, boxes in Kaggle's CSV or in a folder of the devkit's XML;
    annotations=None: neither boxes nor labels.

    Labels are wnids; boxes are as they are written. exclude: a text file with an image on each line, by its name or, as in
    the devkit's list of images to leave out, its number.
    """
    root = _folder(root)
    files = sorted(path for path in _folder(root / images).rglob("[!.]*") if path.name.lower().endswith(SUFFIXES))
    source = root if annotations is None else root / Path(annotations).expanduser()
    if not source.exists():
        raise ValueError(f"annotations={str(source)!r} does not exist: give LOC_val_solution.csv or the folder of XML files")
    out = _excluded(exclude) if exclude is not None else set()
    files = [path for path in files if path.stem not in out]
    if not files:
        raise ValueError(f"images={str(root / images)!r} holds no image that is not excluded")
    if annotations is None:
        return _items(files)
    boxes = None if source.is_dir() else _solution(source)
    found, problems = [], []
    for path in files:
        objects, problem = [], f"{str(source)!r} has no box for {path.stem}: add one, or exclude the image"
        try:
            objects = boxes.get(path.stem, []) if boxes is not None else _objects(source / f"{path.stem}.xml")[1]
        except ValueError as error:
            problem = str(error)
        found.append(regions([(wnid, box, 0.0) for wnid, box, *_ in objects], 0.0))
        problems.append(None if objects else problem)
    return _items(files, [_one(region) for region in found], problems, found)


def voc(
    root: str | os.PathLike,
    year: int | str = 2007,
    split: str = "test",
    xml_difficult: bool = False,
    classes: str | os.PathLike | Mapping | None = None,
) -> list[Item]:
    """PASCAL VOC's boxes, root/VOCdevkit/VOC<year>, of a split in ImageSets/Main.

    xml_difficult: whether objects that the annotators call difficult count where their class has others (TorchRay's pointing
    game); else they are left out. A class with no other objects is left out either way.
    """
    try:
        files = VOCDetection(str(_folder(root)), str(year), split)
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"root={str(root)!r} has no split {split!r}: expected VOCdevkit/VOC{year}/ImageSets/Main/{split}.txt below it"
        ) from error
    label_of = naming(classes)
    labels, problems, found = [], [], []
    for path in files.annotations:
        region, problem = {}, None
        try:
            (width, height), objects = _objects(path)
            if not width * height:
                raise ValueError(f"annotation {path!r} does not tell the size of its image: complete it")
        except ValueError as error:
            problem = str(error)
        else:
            others = {name if label_of(name) is None else label_of(name) for name, _, _ in objects}
            objects = [(label_of(name), _voc_box(box), hard) for name, box, hard in objects]
            clear = {label for label, _, hard in objects if not hard} - {None}
            kept = [
                (label, box, (box[2] - box[0]) * (box[3] - box[1]))
                for label, box, hard in objects
                if label in clear and (xml_difficult or not hard)
            ]
            region = regions(kept, width * height, others)
            problem = None if region else f"annotation {path!r} has no object that counts: all are difficult or left out"
        found.append(region)
        problems.append(problem)
        labels.append(_one(region))
    return _items(files.images, labels, problems, found)


def pets(root: str | os.PathLike, split: str = "test", classes: str | os.PathLike | Mapping | None = None) -> list[Item]:
    """Oxford-IIIT Pet, root/oxford-iiit-pet, with its trimaps: a region is what they mark as pet, without the rim."""
    try:
        files = OxfordIIITPet(str(_folder(root)), split)
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"root={str(root)!r} has no split {split!r}: expected oxford-iiit-pet/images and oxford-iiit-pet/annotations/"
            f"{split}.txt below it"
        ) from error
    label_of = naming(classes, files.classes)
    there = set(os.listdir(files._segs_folder)) if files._segs_folder.is_dir() else set()
    rows = []
    for path, trimap, index in zip(files._images, files._segs, files._labels):
        label = label_of(files.classes[index])
        if label is None:
            continue
        problem = None if trimap.name in there else f"there is no trimap {str(trimap)!r}: fetch annotations.tar.gz"
        rows.append((path, label, problem, {} if problem else {label: Region(draw=partial(draw_trimap, trimap))}))
    return _rows(rows, root)


def draw_trimap(path: Path) -> Image.Image:
    """A trimap (1: pet, 2: background, 3: undecided) -> its pet, mode "1"."""
    try:
        with Image.open(path) as trimap:
            return trimap.convert("L").point(lambda value: 255 * (value == 1)).convert("1", dither=Image.Dither.NONE)
    except OSError as error:
        raise ValueError(f"cannot read trimap {str(path)!r}: {error}") from error


def cub(root: str | os.PathLike, split: str = "test", classes: str | os.PathLike | Mapping | None = None) -> list[Item]:
    """CUB-200-2011: root holds images.txt; a region has the bird's box and its visible parts as points, as they are written.

    split: train, test or all. A category's name is that of its folder without the number.
    """
    root = _folder(root)
    if split not in ("train", "test", "all"):
        raise ValueError(f"split={split!r} must be train, test or all")
    images, boxes, of_class, names, training, parts = (
        _lines(root / name)
        for name in ("images.txt", "bounding_boxes.txt", "image_class_labels.txt", "classes.txt", "train_test_split.txt",
                     "parts/parts.txt")
    )  # fmt: skip
    try:
        rows = _birds(root, split, classes, images, boxes, of_class, names, training, parts)
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"the lists in {str(root)!r} do not fit together ({type(error).__name__}: {error}): unpack CUB_200_2011 again"
        ) from error
    return _rows(rows, root)


def _birds(root: Path, split: str, classes, images, boxes, of_class, names, training, parts) -> list[tuple]:
    """(path, label, problem, regions) of each image of the split."""
    names = {number: name[0].partition(".")[2] for number, name in names.items()}
    label_of = naming(classes, names.values())
    points = defaultdict(dict)
    for line in _split(root / "parts" / "part_locs.txt"):
        image, part, x, y, visible = (*line, None)[:5]
        if float(visible):
            points[image][" ".join(parts[part])] = (float(x), float(y))
    rows = []
    for number, path in images.items():
        if split != "all" and (training[number] == ["1"]) != (split == "train"):
            continue
        label, path = label_of(names[of_class[number][0]]), root / "images" / path[0]
        if label is None:
            continue
        if number not in boxes:
            rows.append((path, label, f"bounding_boxes.txt has no line for image {number}, {path.name}: complete it", {}))
            continue
        x, y, width, height = map(float, boxes[number])
        box = as_box((x, y, x + width, y + height), f"bounding_boxes.txt, image {number}")
        rows.append((path, label, None, {label: Region((box,), points=points[number])}))
    return rows


def _rows(rows: list[tuple], root) -> list[Item]:
    if not rows:
        raise ValueError(f"root={str(root)!r} has no image in this split whose class is not left out")
    return _items(*map(list, zip(*rows)))


def _excluded(file) -> set[str]:
    file = Path(str(file)).expanduser()
    if not file.is_file():
        raise ValueError(f"exclude={str(file)!r} is no file: give a text file with an image on each line")
    names = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
    return {f"ILSVRC2012_val_{int(name):08d}" if name.isdigit() else Path(name).stem for name in names}


def _solution(file: Path) -> dict[str, list[tuple]]:
    """Kaggle's lines "image,wnid x0 y0 x1 y1 wnid ..." -> image -> (wnid, box) of each object."""
    found = {}
    for number, line in enumerate(file.read_text().splitlines()[1:], 2):
        image, _, text = line.partition(",")
        words, where = text.split(), f"line {number} of {str(file)!r}"
        if len(words) % 5:
            raise ValueError(f"{where} is no list of objects: expected image,wnid x0 y0 x1 y1 wnid ...")
        found[image.strip()] = [(words[i], as_box(words[i + 1 : i + 5], where)) for i in range(0, len(words), 5)]
    return found


def _objects(file: str | os.PathLike) -> tuple[tuple[int, int], list[tuple]]:
    """A PASCAL XML file -> (width, height), 0 if not told, and of each object (name, box as written, called difficult)."""
    try:
        tree = VOCDetection.parse_voc_xml(parse(file).getroot())["annotation"]
        size = tree.get("size") or {}
        objects = [
            (
                one["name"],
                as_box([one["bndbox"][key] for key in ("xmin", "ymin", "xmax", "ymax")], f"annotation {str(file)!r}"),
                one.get("difficult", "0") == "1",
            )
            for one in tree.get("object", [])
        ]
        return (int(size.get("width", 0)), int(size.get("height", 0))), objects
    except OSError as error:
        raise ValueError(f"there is no annotation {str(file)!r}: fetch it, or take the image out of the list") from error
    except (ParseError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"annotation {str(file)!r} is no PASCAL XML ({type(error).__name__}: {error}): fetch it again"
        ) from error


def _voc_box(box: tuple) -> tuple:  # VOC counts pixels from 1, and the last one belongs to the box
    return (box[0] - 1, box[1] - 1, box[2], box[3])


def _split(file: Path) -> list[list[str]]:
    if not file.is_file():
        raise ValueError(f"there is no {str(file)!r}: root must be the folder CUB_200_2011 with images.txt")
    return [line.split() for line in file.read_text().splitlines() if line.strip()]


def _lines(file: Path) -> dict[str, list[str]]:  # by their first word, a number
    return {first: rest for first, *rest in _split(file)}
