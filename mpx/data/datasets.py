"""What goes in: each dataset is a function that returns a list of `Item`s. Files are listed here, never opened.

Adding one: a function here (or anywhere) and a YAML in configs/dataset/ whose `_target_` names it.
An item's name is unique in its list, ASCII and safe as a file name: the stem of the file, with parts of the parent folders
where two stems are the same, or a short hash of the path where even these are.
Whatever is named like an image is listed, be it a folder or a dead link: reading says so, and looking at 50,000 is slow.
"""

import csv
import glob
import importlib.util
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from hashlib import sha256
from itertools import count
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from mpx.data.annotations import Region
from mpx.data.boxes import as_label, read_boxes

SUFFIXES = (*IMG_EXTENSIONS, ".gif", ".avif")


@dataclass(frozen=True)
class Item:
    name: str
    path: Path
    label: int | str | tuple | None = None  # class index, or a name or wnid that targets.py resolves; a tuple of several
    problem: str | None = None  # one sentence: why there is nothing to read, as where a table's row is no good
    regions: dict[int | str, Region] = field(default_factory=dict, hash=False)  # label -> where it is


def fingerprint(items: Iterable[Item]) -> str:
    """By which a list of images is known again: their names, labels and sizes in bytes."""
    found = sha256()
    for item in items:
        try:
            size = os.stat(item.path).st_size
        except OSError:  # its image is skipped
            size = None
        found.update(repr((item.name, item.label, size)).encode("utf-8", "backslashreplace"))
    return found.hexdigest()


def sample() -> list[Item]:
    """Three photos that come with scikit-image, with ImageNet labels: tiger cat (a striped coat), espresso, missile."""
    root = Path(importlib.util.find_spec("skimage").submodule_search_locations[0], "data")  # no import, no pooch
    return _items([root / "chelsea.png", root / "coffee.png", root / "rocket.jpg"], [282, 967, 657])


def images(files: str | os.PathLike | Iterable, boxes: str | os.PathLike | None = None) -> list[Item]:
    """One path, a glob (`photos/**/*.jpg`), a folder (its own images, not those of subfolders), or a list of these.

    boxes: a CSV or JSON file of where the classes are (mpx.data.boxes), here and below; it also gives the labels.
    """
    if not files:
        raise ValueError(f"images={files!r} names no image: give a file, a folder, a glob or a list of these")
    files = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    return _boxed(_items([path for file in files for path in _expand(str(file))]), boxes)


def folder(root: str | os.PathLike, boxes: str | os.PathLike | None = None) -> list[Item]:
    """One subfolder per class, any depth below it; the label is the subfolder's name."""
    root = _folder(root)
    with os.scandir(root) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    pairs = make_dataset(root, dict(zip(classes, count())), SUFFIXES, allow_empty=True) if classes else []
    pairs = [pair for pair in pairs if not os.path.basename(pair[0]).startswith(".")]  # such as macOS's ._photo.jpg
    if not pairs:
        raise ValueError(f"root={str(root)!r} has no images in {len(classes)} subfolders: expected root/<class>/<image>")
    return _boxed(_items([path for path, _ in pairs], [classes[index] for _, index in pairs]), boxes)


def table(
    file: str | os.PathLike,
    root: str | os.PathLike | None = None,
    image: str = "image",
    label: str = "label",
    boxes: str | os.PathLike | None = None,
) -> list[Item]:
    """A CSV file with a header: a column of paths relative to `root` (default: the file's folder), and maybe one of labels.

    A row that is no good is an item with a problem, named by its line.
    """
    file = Path(str(file)).expanduser()
    if not file.is_file():
        raise ValueError(f"file={str(file)!r} {'is not a file' if file.exists() else f'does not exist{_near(file)}'}")
    root = os.path.abspath(file.parent if root is None else _folder(root))
    lines = []  # (number of its last line, cells) of each row
    try:
        # a row in another encoding is that row's trouble; a quote that is not closed would swallow the rows below it
        with open(file, newline="", encoding="utf-8-sig", errors="surrogateescape") as text:
            reader = csv.reader(text, strict=True)
            for cells in reader:
                lines.append((reader.line_num, cells))
    except csv.Error as error:
        last = lines[-1][0] if lines else 0
        raise ValueError(f"file={str(file)!r} is no CSV after line {last}, {error}: look at its quotes") from error
    lines = [(line, cells) for line, cells in lines if cells]  # without the blank ones
    if len(lines) < 2:
        raise ValueError(f"file={str(file)!r} has no rows below its header")
    header = [name.strip() for name in lines[0][1]]
    for name in [image] + [label] * (label != "label"):  # labels are optional, but not those that were asked for
        if name not in header:
            raise ValueError(f"file={str(file)!r} has no column {name!r}: its columns are {', '.join(map(repr, header))}")
    paths, labels, problems, known = [], [], [], {}
    for line, cells in lines[1:]:
        row = dict(zip(header, cells))
        given, klass = row.get(image, "").strip(), as_label(row.get(label, "")) or None
        path = os.path.abspath(os.path.join(root, given))  # links stay: a data set may be a folder of them
        problem = None
        if len(cells) != len(header):
            problem = f"{len(cells)} cells where the header has {len(header)}; quote a cell that holds a comma"
        elif not given:
            problem = f"its cell {image!r} is empty"
        elif not f"{path}/".startswith(f"{root.rstrip('/')}/"):
            problem = f"{given!r} leads outside of {root!r}; give a root that holds all images"
        elif known.setdefault(path, klass) != klass:
            problem = f"{given!r} is listed again with another label, {klass!r} after {known[path]!r}; keep one of them"
        paths.append(path if problem is None else file / f"line {line}")
        labels.append(klass)
        problems.append(problem and f"line {line} of {str(file)!r}: {problem}")
    return _boxed(_items(paths, labels, problems), boxes)


def _expand(file: str) -> list[str]:
    path = os.path.expanduser(file)
    if os.path.isfile(path):  # before globbing: a name may hold brackets
        return [path]
    if os.path.isdir(path):
        found, where = [os.path.join(path, name) for name in sorted(os.listdir(path))], "folder"
    elif glob.has_magic(file):
        found, where = sorted(glob.glob(path, recursive=True)), "glob"
    elif os.path.lexists(path):  # a dead link or a pipe
        return [path]
    else:
        raise ValueError(f"image {file!r} does not exist{_near(Path(path))}")
    names = [os.path.basename(entry) for entry in found]
    chosen = [f for f, name in zip(found, names) if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not chosen:
        raise ValueError(
            f"{where} {file!r} holds no image file ({len(found)} entries, none that ends in {' '.join(SUFFIXES)})"
        )
    return chosen


def _folder(root: str | os.PathLike) -> Path:
    root = Path(str(root)).expanduser()  # a folder may be called 2012
    if not root.is_dir():
        raise ValueError(f"root={str(root)!r} is not a folder{_near(root)}")
    return root


def _near(path: Path) -> str:
    if not os.path.isdir(path.parent):  # unlike Path's, False for a name that is too long
        return f": there is no folder {str(path.parent)!r}"
    near = get_close_matches(path.name, os.listdir(path.parent))
    return f"; did you mean {', '.join(near)}?" if near else f": nothing of that name in {str(path.parent.resolve())!r}"


def _items(paths: list, labels: list | None = None, problems: list | None = None, regions: list | None = None) -> list[Item]:
    unique, none = {}, [None] * len(paths)  # a file given twice counts once
    for path, *rest in zip(paths, labels or none, problems or none, regions or [{} for _ in paths]):
        unique.setdefault(os.path.abspath(path), (Path(path), *rest))
    return [Item(name, *rest) for name, rest in zip(_names(list(unique)), unique.values())]


def _boxed(items: list[Item], file: str | os.PathLike | None) -> list[Item]:
    """With the regions that a file of boxes has for them, and their labels where they have none."""
    if file is None:
        return items
    found = read_boxes(file)
    regions = [found.get(os.path.abspath(item.path), {}) for item in items]
    if not any(regions):
        raise ValueError(
            f"boxes={str(file)!r} has none for these {len(items)} images: its paths start from its own folder, and the "
            f"first is {next(iter(found))!r}"
        )
    return [
        replace(item, regions=region, label=_one(region) if item.label is None else item.label)
        for item, region in zip(items, regions)
    ]


def _one(labels: Iterable) -> int | str | tuple | None:
    """A label by itself where there is one, all where there are several."""
    labels = tuple(labels)
    return labels[0] if len(labels) == 1 else labels or None


def _names(paths: list[str]) -> list[str]:
    parts = [os.path.splitext(path)[0].split(os.sep) for path in paths]
    names = [_safe(part[-1]) for part in parts]
    for depth in count(1):
        seen = Counter(name.lower() for name in names)  # some file systems ignore case
        clashes = [i for i, name in enumerate(names) if seen[name.lower()] > 1]
        if not clashes:
            return names
        for i in clashes:
            if depth <= 3:
                names[i] = _safe("_".join(parts[i][-1 - depth :]))
            else:
                tail = os.sep.join(paths[i].split(os.sep)[3 - depth :])  # not all: the same in another place
                digest = sha256(f"{depth}{tail}".encode(errors="surrogateescape")).hexdigest()
                names[i] = f"{_safe(parts[i][-1])[-51:]}-{digest[:8]}"


def _safe(text: str) -> str:
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[-60:].strip(".-") or "image"  # the end of a long name tells more
