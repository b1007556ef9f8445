"""Item: the path of an image, with its label and regions; and the unique names of a dataset's items.

Files are listed here, never opened. Everything named like an image is listed, also a folder or a dead link: reading reports
it, and checking 50,000 files would be slow.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from itertools import count
from operator import itemgetter
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from mpx.data.annotations import Label, Region
from mpx.data.arrays import ARRAY_SUFFIXES
from mpx.data.box_files import read_boxes
from mpx.errors import near_matches

IMAGE_SUFFIXES = (*IMG_EXTENSIONS, ".gif", ".avif", *ARRAY_SUFFIXES)


NO_REGIONS: dict[Label, Region] = {}  # one for all: 50,000 take 3 MB


@dataclass(frozen=True, slots=True)
class Item:
    """An image of a dataset.

    label: a class index, or a name or wnid that mpx.data.targets resolves; a tuple of several. problem: one sentence, where
    the image cannot be used, as for an invalid row of a table; a run skips it. name: unique in its list, ASCII and safe as a
    file name.
    """

    path: Path
    label: Label | tuple[Label, ...] | None = None
    problem: str | None = None
    regions: dict[Label, Region] = field(default_factory=lambda: NO_REGIONS, hash=False)
    name: str = ""


def name_items(items: Iterable[Item]) -> list[Item]:
    """Return the items with a unique name each; a file listed twice, also through a link to its folder, counts once.

    A name is the stem of the file, with parts of the parent folders where two stems are equal, or with a short hash of the
    path where even these are.
    """
    folder = cache(os.path.realpath)
    shortest: dict[tuple[str, str], tuple[int, Item]] = {}  # a link to a parent folder leads to each file many times
    for item in map(_without_nul, items):
        path = Path(os.path.abspath(item.path))
        key = (folder(path.parent), path.name)
        shortest[key] = min(shortest.get(key, (len(path.parts), item)), (len(path.parts), item), key=itemgetter(0))
    unique = {os.path.abspath(item.path): item for _, item in shortest.values()}
    return [replace(item, name=name) for item, name in zip(unique.values(), unique_names(list(unique)))]


def _without_nul(item: Item) -> Item:
    """Return the item; one whose path holds a NUL, which no system call takes, with a problem instead."""
    if "\0" not in str(item.path):
        return item
    path = str(item.path).replace("\0", "\\0")
    return replace(item, path=Path(path), problem=item.problem or f"the path {path!r} holds a NUL byte: correct it")


def named_items(items: list[Item]) -> list[Item]:
    """Return the items of any dataset, named where it did not name them.

    Raises ValueError where there are none, where they are no items, or where two have one name.
    """
    if not isinstance(items, list) or (others := [item for item in items if not isinstance(item, Item)]):
        kind = f"a list with {others[0]!r}" if isinstance(items, list) else type(items).__name__
        raise ValueError(f"the dataset's function returned {kind}: it must return a list of Item(path, label)")
    if not items:
        raise ValueError("the dataset's function returned no images: check its folder and its options")
    if not all(item.name for item in items):
        return name_items(items)
    names = Counter(item.name.lower() for item in items)  # file systems may ignore case
    repeated = [item.name for item in items if names[item.name.lower()] > 1]
    if repeated:
        raise ValueError(f"two images of the dataset are named {repeated[0]!r}: let name_items(items) name them")
    return items


def single_label(labels: Iterable[Label]) -> Label | tuple[Label, ...] | None:
    """Return the label where there is one, a tuple where there are several, None where there is none."""
    labels = tuple(labels)
    return labels[0] if len(labels) == 1 else labels or None


def add_boxes(items: list[Item], file: str | os.PathLike | None) -> list[Item]:
    """Return the items with their regions from a file of boxes, which also labels items without a label."""
    if file is None:
        return items
    regions_of_path = read_boxes(file)
    regions_of_item = [regions_of_path.get(os.path.abspath(item.path), {}) for item in items]
    if not any(regions_of_item):
        raise ValueError(
            f"boxes={str(file)!r} has none for these {len(items)} images: its paths start from its own folder, and the "
            f"first is {next(iter(regions_of_path))!r}"
        )
    return [
        replace(item, regions=regions, label=single_label(regions) if item.label is None else item.label)
        for item, regions in zip(items, regions_of_item)
    ]


def fingerprint(items: Iterable[Item], files: Iterable[Path] = ()) -> str:
    """Return a hash that identifies images and other files by names, labels, sizes in bytes and times of change."""
    digest = sha256()
    for item in (*items, *(Item(file, name=str(file)) for file in files)):
        try:
            stat = os.stat(item.path)
            state = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        except OSError:  # a run skips this image
            state = None
        digest.update(repr((item.name, item.label, state)).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def existing_folder(root: str | os.PathLike) -> Path:
    """Return the path of a folder that exists, or raise ValueError with the nearest names."""
    path = Path(str(root)).expanduser()  # YAML reads a folder named 2012 as a number
    if not path.is_dir():
        raise ValueError(f"root={str(path)!r} is not a folder{near_files(path)}")
    return path


def near_files(path: Path) -> str:
    """Return the end of a sentence about a missing path: similar names in its folder."""
    if not os.path.isdir(path.parent):  # unlike Path's, False for a name that is too long
        return f": there is no folder {str(path.parent)!r}"
    close = near_matches(path.name, os.listdir(path.parent), cutoff=0.6)
    return f"; did you mean {', '.join(close)}?" if close else f": nothing of that name in {str(path.parent.resolve())!r}"


def unique_names(paths: list[str]) -> list[str]:
    """Return a name per absolute path: see `name_items`."""

    def parts(i: int) -> list[str]:
        return os.path.splitext(paths[i])[0].split(os.sep)

    names = [_safe_name(parts(i)[-1]) for i in range(len(paths))]
    for depth in count(1):
        counts = Counter(name.lower() for name in names)  # some file systems ignore case
        clashes = [i for i, name in enumerate(names) if counts[name.lower()] > 1]
        if not clashes:
            break
        for i in clashes:
            if depth <= 3:
                names[i] = _safe_name("_".join(parts(i)[-1 - depth :]))
            else:
                tail = os.sep.join(paths[i].split(os.sep)[3 - depth :])  # short, so that a moved dataset keeps its names
                digest = sha256(f"{depth}{tail}".encode(errors="surrogateescape")).hexdigest()
                names[i] = f"{_safe_name(parts(i)[-1])[-51:]}-{digest[:8]}"
    return names


def _safe_name(text: str) -> str:
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[-60:].strip(".-") or "image"  # the end of a long name tells more
