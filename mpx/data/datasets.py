"""What goes in: each dataset is a function that returns a list of `Item`s. Files are listed here, never opened.

Adding one: a function here (or anywhere) and a YAML in configs/dataset/ whose `_target_` names it.
An item's name is unique in its list, ASCII and safe as a file name: the stem of the file, with parts of the parent folders
where two stems are the same, or a short hash of the path where even these are.
"""

import glob
import importlib.util
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from itertools import count
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

SUFFIXES = (*IMG_EXTENSIONS, ".gif", ".avif")


@dataclass(frozen=True)
class Item:
    name: str
    path: Path
    label: int | str | None = None  # class index, or a name or wnid that targets.py resolves


def sample() -> list[Item]:
    """Three photos that come with scikit-image, with ImageNet labels: tiger cat (a striped coat), espresso, missile."""
    root = Path(importlib.util.find_spec("skimage").submodule_search_locations[0], "data")  # no import, no pooch
    return _items([root / "chelsea.png", root / "coffee.png", root / "rocket.jpg"], [282, 967, 657])


def images(files: str | os.PathLike | Iterable) -> list[Item]:
    """One path, a glob (`photos/**/*.jpg`), a folder (its own images, not those of subfolders), or a list of these."""
    if not files:
        raise ValueError(f"images={files!r} names no image: give a file, a folder, a glob or a list of these")
    files = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    return _items([path for file in files for path in _expand(str(file))])


def folder(root: str | os.PathLike) -> list[Item]:
    """One subfolder per class, any depth below it; the label is the subfolder's name."""
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"root={str(root)!r} is not a folder{_near(root)}")
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    pairs = make_dataset(root, dict(zip(classes, count())), SUFFIXES, allow_empty=True) if classes else []
    if not pairs:
        raise ValueError(f"root={str(root)!r} has no images in {len(classes)} subfolders: expected root/<class>/<image>")
    return _items([Path(path) for path, _ in pairs], [classes[index] for _, index in pairs])


def _expand(file: str) -> list[Path]:
    path = Path(file).expanduser()
    if path.is_file():  # before globbing: a name may hold brackets
        return [path]
    if path.is_dir():
        found, where = sorted(path.iterdir()), "folder"
    elif glob.has_magic(file):
        found, where = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))], "glob"
    else:
        raise ValueError(f"image {file!r} does not exist{_near(path)}")
    chosen = [p for p in found if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith(".")]
    if not chosen:
        raise ValueError(
            f"{where} {file!r} holds no image file ({len(found)} entries, none that ends in {' '.join(SUFFIXES)})"
        )
    return chosen


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {str(path.parent)!r}"
    near = get_close_matches(path.name, os.listdir(path.parent))
    return f"; did you mean {', '.join(near)}?" if near else f": nothing of that name in {str(path.parent.resolve())!r}"


def _items(paths: list[Path], labels: list | None = None) -> list[Item]:
    unique = {}  # a file given twice counts once
    for path, label in zip(paths, labels or [None] * len(paths)):
        unique.setdefault(Path(os.path.abspath(path)), (path, label))
    names = _names(list(unique))
    return [Item(names[absolute], path, label) for absolute, (path, label) in unique.items()]


def _names(paths: list[Path]) -> dict[Path, str]:
    names = {path: _safe(path.stem) for path in paths}
    for depth in count(1):
        seen = Counter(name.lower() for name in names.values())  # some file systems ignore case
        clashes = [path for path in paths if seen[names[path].lower()] > 1]
        if not clashes:
            return names
        for path in clashes:
            if depth <= 3:
                names[path] = _safe("_".join([*path.parts[-1 - depth : -1], path.stem]))
            else:
                digest = sha256(f"{depth}{path}".encode(errors="surrogateescape")).hexdigest()
                names[path] = f"{_safe(path.stem)[-51:]}-{digest[:8]}"


def _safe(text: str) -> str:
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[-60:].strip(".-") or "image"  # the end of a long name tells more
