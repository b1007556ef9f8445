"""Datasets without annotations of their own: sample photos, image files, a folder per class, a CSV table.

A dataset is a function that returns a list of `Item`s. To add one, write such a function anywhere and a YAML in
configs/dataset/ whose `_target_` names it.
"""

import csv
import glob
import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mpx.data.box_files import clean_label
from mpx.data.items import IMAGE_SUFFIXES, Item, add_boxes, existing_folder, name_items, near_files


def sample() -> list[Item]:
    """List three photos of scikit-image with their ImageNet labels: tiger cat (a striped coat), espresso, missile."""
    spec = importlib.util.find_spec("skimage")  # not imported: slow, and it may download other photos
    assert spec is not None and spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0], "data")
    labels = {"chelsea.png": 282, "coffee.png": 967, "rocket.jpg": 657}
    return name_items(Item(root / name, label) for name, label in labels.items())


def images(files: str | os.PathLike | Iterable, boxes: str | os.PathLike | None = None) -> list[Item]:
    """List one path, a glob (`photos/**/*.jpg`), a folder (its own images, not those of subfolders), or a list of these.

    boxes: a CSV or JSON file of where the classes are (mpx.data.box_files), here and below; it also gives the labels.
    """
    if not files:
        raise ValueError(f"images={files!r} names no image: give a file, a folder, a glob or a list of these")
    sources = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    return add_boxes(name_items(Item(Path(path)) for source in sources for path in _image_files(str(source))), boxes)


def folder(root: str | os.PathLike, boxes: str | os.PathLike | None = None) -> list[Item]:
    """List one subfolder per class, at any depth below it; the label is the subfolder's name."""
    root = existing_folder(root)
    with os.scandir(root) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    pairs = [(path, name) for name in classes for path in _images_below(os.path.join(root, name), {os.path.realpath(root)})]
    if not pairs:
        raise ValueError(f"root={str(root)!r} has no images in {len(classes)} subfolders: expected root/<class>/<image>")
    return add_boxes(name_items(Item(Path(path), name) for path, name in pairs), boxes)


def _images_below(folder: str, parents: set[str]) -> Iterator[str]:
    """Yield the image files in a folder and below, sorted; a link to one of its `parents` (real paths) is left out."""
    real = os.path.realpath(folder)
    if real in parents:
        return
    with os.scandir(folder) as entries:
        visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)  # macOS has ._photo.jpg
    yield from (e.path for e in visible if e.name.lower().endswith(IMAGE_SUFFIXES) and not e.is_dir())
    for entry in visible:
        if entry.is_dir():
            yield from _images_below(entry.path, {*parents, real})


def table(
    file: str | os.PathLike,
    root: str | os.PathLike | None = None,
    image: str = "image",
    label: str = "label",
    boxes: str | os.PathLike | None = None,
) -> list[Item]:
    """List a CSV file with a header, a column of paths relative to `root`, and an optional column of labels.

    root: by default the file's folder; paths must not lead outside. image, label: names of the columns. An invalid row is an
    item with a problem, named by its line.
    """
    file = Path(str(file)).expanduser()
    header, rows = _read_table(file)
    for name in [image] + [label] * (label != "label"):  # labels are optional, unless their column is named
        if name not in header:
            raise ValueError(f"file={str(file)!r} has no column {name!r}: its columns are {', '.join(map(repr, header))}")
    root = os.path.abspath(file.parent if root is None else existing_folder(root))
    items = []
    labels: dict[str, str | None] = {}  # path -> its first label
    for line, cells in rows:
        row = dict(zip(header, cells))
        cell = row.get(image, "").strip()
        row_label = clean_label(row.get(label, "")) or None
        path = os.path.abspath(os.path.join(root, cell))  # links are not resolved: a dataset may be a folder of them
        problem = None
        if len(cells) != len(header):
            problem = f"{len(cells)} cells where the header has {len(header)}; quote a cell that holds a comma"
        elif not cell:
            problem = f"its cell {image!r} is empty"
        elif not f"{path}/".startswith(f"{root.rstrip('/')}/"):
            problem = f"{cell!r} leads outside of {root!r}; give a root that holds all images"
        elif labels.setdefault(path, row_label) != row_label:
            problem = f"{cell!r} is listed again with another label, {row_label!r} after {labels[path]!r}; keep one of them"
        if problem is None:
            items.append(Item(Path(path), row_label))
        else:
            items.append(Item(file / f"line {line}", row_label, f"line {line} of {str(file)!r}: {problem}"))
    return add_boxes(name_items(items), boxes)


def _read_table(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return a CSV file's header, and of each other row that is not blank the number of its last line and its cells."""
    if not file.is_file():
        raise ValueError(f"file={str(file)!r} {'is not a file' if file.exists() else f'does not exist{near_files(file)}'}")
    lines = []
    try:
        # a row in another encoding is that row's problem; strict, as a quote left open would swallow the rows below it
        with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as text:
            reader = csv.reader(text, strict=True)
            for cells in reader:
                lines.append((reader.line_num, cells))
    except csv.Error as error:
        last = lines[-1][0] if lines else 0
        raise ValueError(f"file={str(file)!r} is no CSV after line {last}, {error}: look at its quotes") from error
    lines = [(line, cells) for line, cells in lines if cells]
    if len(lines) < 2:
        raise ValueError(f"file={str(file)!r} has no rows below its header")
    return [name.strip() for name in lines[0][1]], lines[1:]


def _image_files(source: str) -> list[str]:
    """Return the files of a path, a folder or a glob."""
    path = os.path.expanduser(source)
    if os.path.isfile(path):  # before globbing: a name may hold brackets
        return [path]
    if os.path.isdir(path):
        entries, kind = [os.path.join(path, name) for name in sorted(os.listdir(path))], "folder"
    elif glob.has_magic(source):
        entries, kind = sorted(glob.glob(path, recursive=True)), "glob"
    elif os.path.lexists(path):  # a dead link or a pipe
        return [path]
    else:
        raise ValueError(f"image {source!r} does not exist{near_files(Path(path))}")
    names = [os.path.basename(entry) for entry in entries]
    chosen = [e for e, name in zip(entries, names) if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]
    if not chosen:
        raise ValueError(
            f"{kind} {source!r} holds no image file ({len(entries)} entries, none that ends in {' '.join(IMAGE_SUFFIXES)})"
        )
    return chosen
