"""Saliency that no network gave.

center  a Gaussian at the centre, as photographers aim: what any method must beat
files   maps that were computed before, with mpx or without
"""

import re
from contextlib import suppress
from glob import escape
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mpx.explainers.cam import upsample

SUFFIXES = (".npz", ".npy", ".png")


def center(photos: Tensor, classifier, targets: Tensor, sigma: float = 0.25) -> Tensor:
    """sigma: as a share of the sides."""
    if not sigma > 0:
        raise ValueError(f"explainer.sigma={sigma} must be above 0")
    h, w = photos.shape[2:]
    ys, xs = (((torch.arange(n).to(photos) + 0.5) / n - 0.5) / sigma for n in (h, w))
    return (-0.5 * (ys[:, None] ** 2 + xs**2)).exp().expand(len(photos), 1, h, w).clone()


def files(
    photos: Tensor,
    classifier,
    targets: Tensor,
    names: list[str],
    folder: str | None = None,
    key: str = "saliency",
    resize: bool = False,
) -> Tensor:
    """folder/<name>.npz, .npy or .png of each image, or of its class, <name>-<target> and maybe more, as in a run's masks/:
    (H,W), dimensions of size 1 left out; a png is grey, its white 1.

    key: which array of an npz, where it has several. resize: maps of another size than
    the photo's are interpolated.
    """
    root = Path(str(folder)).expanduser()  # a folder may be called 2012
    if folder is None or not root.is_dir():
        raise ValueError(f"explainer.folder={folder!r} is not a folder: give the one with <name>.npz, .npy or .png")
    return torch.cat([
        _read(_find(root, name, target, set(names)), key, photo[None], resize)
        for name, target, photo in zip(names, targets.tolist(), photos)
    ])  # fmt: skip


def _find(root: Path, name: str, target: int, names: set[str]) -> Path:
    patterns = (
        f"{escape(name)}-{target}-*",
        f"{escape(name)}-{target}",
        escape(name),
    )  # the later ones only where none is yet
    found = []
    for pattern in patterns:
        there = [path for suffix in SUFFIXES for path in sorted(root.glob(pattern + suffix))]
        found = found or [path for path in there if _is_of(path, name, target, names)]
    if len(found) != 1:
        there = " and ".join(path.name for path in found) or f"none of {', '.join(name + suffix for suffix in SUFFIXES)}"
        raise ValueError(f"explainer.folder={str(root)!r} has {there}: it must hold one map for each image")
    return found[0]


def _is_of(path: Path, name: str, target: int, names: set[str]) -> bool:
    """Whether it is this image's, where another may be called so that the name fits: photo-1-1 is class 1 of photo-1."""
    if path.suffix == ".npz" and path.stem not in (name, f"{name}-{target}"):
        with suppress(Exception), np.load(path) as file:  # no run's own; whether it can be read is seen when it is
            return (file["image"].item(), file["target"].item()) == (name, target)
    longer = (other for other in names if len(other) > len(name))
    return not any(re.fullmatch(rf"{re.escape(other)}(-\d+(-.*)?)?", path.stem) for other in longer)


def _read(path: Path, key: str, photo: Tensor, resize: bool) -> Tensor:
    """(1,1,H,W)."""
    try:
        cells = _png(path) if path.suffix == ".png" else _numpy(path, key)
    except Exception as error:  # zip, pickle, Pillow: many kinds
        raise ValueError(f"cannot read the map {str(path)!r}: {' '.join(str(error).split())}") from error
    cells = torch.from_numpy(np.asarray(cells, np.float32)).to(photo)
    cells = cells.reshape([n for n in cells.shape if n > 1] if cells.ndim > 2 else cells.shape)
    if cells.ndim != 2 or not cells.isfinite().all():
        what = f"is of shape {tuple(cells.shape)}" if cells.ndim != 2 else "holds NaN or infinite values"
        raise ValueError(f"the map {str(path)!r} {what}: it must be finite numbers (H,W)")
    if cells.shape != photo.shape[2:] and not resize:
        given, wanted = ("x".join(map(str, shape)) for shape in (cells.shape, photo.shape[2:]))
        raise ValueError(
            f"the map {str(path)!r} is of {given} px, and the network's picture of {wanted}: set explainer.resize=true "
            "if it shows the whole of it"
        )
    return upsample(cells[None, None], photo)


def _numpy(path: Path, key: str) -> np.ndarray:
    loaded = np.load(path)  # without pickles: they may run code
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded as file:
        if key not in file.files and len(file.files) != 1:
            raise ValueError(f"it has no array {key!r}, but {', '.join(file.files)}; set explainer.key=")
        return file[key if key in file.files else file.files[0]]


def _png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        if image.mode not in ("1", "L", "I", "I;16", "I;16B"):
            raise ValueError(f"it is of mode {image.mode}, not grey; save it with one channel")
        return np.asarray(image, np.float32) / {"1": 1, "L": 255}.get(image.mode, 65535)
