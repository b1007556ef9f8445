"""Masks of regions in files beside the photos: PNG or NumPy's .npy, of the photo's size; what is not 0 is the region."""

from pathlib import Path

import numpy as np
from PIL import Image

from mpx.data.reading import load_numpy, regular_file
from mpx.errors import first_line

MASK_SUFFIXES = (".png", ".npy")
ALPHA = {"LA": 1, "RGBA": 3}  # mode -> number of its channels before the last, which is opacity


def mask_file_of(source: Path, image: Path | None) -> Path:
    """Return the mask file of an image: `source` itself, or the file of the image's name in that folder."""
    if not source.is_dir():
        return source
    if image is None:
        raise ValueError(f"the masks in {str(source)!r} are for image files, and this image is no file: give one mask file")
    for suffix in MASK_SUFFIXES:
        if (file := source / f"{image.stem}{suffix}").is_file():
            return file
    raise ValueError(f"{str(source)!r} has no mask of {image.name}: expected {image.stem}.png or {image.stem}.npy there")


def read_mask(file: Path) -> Image.Image:
    """Return a mask as an image of mode "1", or raise ValueError where it cannot be read, has another shape or is empty."""
    try:
        if file.suffix.lower() == ".npy":
            values = np.asarray(load_numpy(file))
        else:
            with Image.open(regular_file(file)) as image:
                values = np.asarray(image)[..., : ALPHA.get(image.mode)] if image.mode in ALPHA else np.asarray(image)
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"the mask {str(file)!r} cannot be read: {first_line(error)}") from error
    if values.ndim not in (2, 3) or values.dtype.kind not in "biuf":
        raise ValueError(f"the mask {str(file)!r} of shape {values.shape} and type {values.dtype} must be numbers (H,W)")
    region = values != 0 if values.ndim == 2 else (values != 0).any(2)
    if not region.any():
        raise ValueError(f"the mask {str(file)!r} is 0 everywhere: it has no region")
    return Image.fromarray(region)
