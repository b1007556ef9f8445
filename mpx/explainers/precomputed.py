"""Precomputed maps, made with mpx or without."""

import re
from contextlib import suppress
from glob import escape
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mpx.data.reading import load_numpy, regular_file
from mpx.explainers.base import ExplainerContext
from mpx.explainers.layer_maps import upsample
from mpx.models.classifier import Classifier

SUFFIXES = (".npz", ".npy", ".png")
WHITE = {"1": 1, "L": 255, "I": 65535, "I;16": 65535, "I;16B": 65535}  # mode of a grey image -> its white


def files(
    images: Tensor,
    classifier: Classifier,
    targets: Tensor,
    context: ExplainerContext,
    folder: str | None = None,
    key: str = "saliency",
    resize: bool = False,
) -> Tensor:
    """Read folder/<image name>.npz, .npy or .png for each row, or the files of its class, as in a run's masks/.

    The files of a class are called <image name>-<target>, with or without -<more>. A map is (H,W); dimensions of size 1 are
    dropped; a png is grey, and its white is 1. key: the array of an npz with several. resize: whether maps of another size
    than the image's are interpolated.
    """
    root = _existing_folder(folder)
    names = set(context.image_names)
    return torch.cat([
        _read_map(_find_file(root, name, target, names), key, image[None], resize)
        for name, target, image in zip(context.image_names, targets.tolist(), images)
    ])  # fmt: skip


def find_map(folder: str | None, image_name: str, target: int) -> Path:
    """Return the file that `files` reads for an image and class."""
    return _find_file(_existing_folder(folder), image_name, target, {image_name})


def _existing_folder(folder: str | None) -> Path:
    root = Path(str(folder)).expanduser()  # a folder may be called 2012
    if folder is None or not root.is_dir():
        raise ValueError(f"explainer.folder={folder!r} is not a folder: give the folder with <name>.npz, .npy or .png")
    return root


def _find_file(root: Path, name: str, target: int, names: set[str]) -> Path:
    """Return the one file of an image and class; more specific names come first."""
    matches: list[Path] = []
    for pattern in (f"{escape(name)}-{target}-*", f"{escape(name)}-{target}", escape(name)):
        paths = [path for suffix in SUFFIXES for path in sorted(root.glob(pattern + suffix))]
        matches = matches or [path for path in paths if _belongs_to(path, name, target, names)]
    if len(matches) != 1:
        listed = " and ".join(path.name for path in matches) or f"none of {', '.join(name + suffix for suffix in SUFFIXES)}"
        raise ValueError(f"explainer.folder={str(root)!r} has {listed}: it must hold one map for each image")
    return matches[0]


def _belongs_to(path: Path, name: str, target: int, names: set[str]) -> bool:
    """Return whether a matching file is this image's and not that of a longer name: photo-1-1 is class 1 of photo-1."""
    if path.suffix == ".npz" and path.stem not in (name, f"{name}-{target}") and path.is_file():  # a pipe would block
        with suppress(Exception), np.load(path) as file:  # not a run's file; reading it later reports the error
            return (file["image"].item(), file["target"].item()) == (name, target)
    longer = (other for other in names if len(other) > len(name))
    return not any(re.fullmatch(rf"{re.escape(other)}(-\d+(-.*)?)?", path.stem) for other in longer)


def _read_map(path: Path, key: str, image: Tensor, resize: bool) -> Tensor:
    """Return the map (1,1,H,W) of a file, at the size of the image (1,C,H,W)."""
    try:
        array = _read_png(path) if path.suffix == ".png" else _read_numpy(path, key)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"it holds {array.dtype}, no real numbers")
    except Exception as error:  # Pillow raises many kinds
        raise ValueError(f"cannot read the map {str(path)!r}: {' '.join(str(error).split())}") from error
    cells = torch.from_numpy(np.asarray(array, np.float32)).to(image)
    if cells.ndim > 2:
        cells = cells.reshape([n for n in cells.shape if n != 1])
    if cells.ndim != 2 or not cells.numel() or not cells.isfinite().all():
        is_map = cells.ndim == 2 and cells.numel()
        problem = "holds NaN or infinite values" if is_map else f"is of shape {tuple(cells.shape)}"
        raise ValueError(f"the map {str(path)!r} {problem}: it must be finite numbers (H,W)")
    if cells.shape != image.shape[2:] and not resize:
        size, image_size = ("x".join(map(str, shape)) for shape in (cells.shape, image.shape[2:]))
        raise ValueError(
            f"the map {str(path)!r} is of {size} px and the network's image of {image_size}: set explainer.resize=true "
            "if the map shows the whole image"
        )
    return upsample(cells[None, None], image)


def _read_numpy(path: Path, key: str) -> np.ndarray:
    loaded = load_numpy(path)
    if isinstance(loaded, np.ndarray):
        return loaded
    if key not in loaded and len(loaded) != 1:
        raise ValueError(f"it has no array {key!r}, but {', '.join(loaded)}; set explainer.key=")
    return loaded[key] if key in loaded else next(iter(loaded.values()))


def _read_png(path: Path) -> np.ndarray:
    with Image.open(regular_file(path)) as image:
        if image.mode not in WHITE:
            raise ValueError(f"it is of mode {image.mode}, not grey; save it with one channel")
        return np.asarray(image, np.float32) / WHITE[image.mode]
