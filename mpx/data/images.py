"""Image files with as many channels as the model has: photos by Pillow (torchvision.io ignores EXIF, and crashes on some
broken PNGs), arrays and TIFF files of several pages or bands by mpx.data.arrays.

For three channels a photo becomes RGB and for one channel grey; transparency is laid on white. 16-bit grey is scaled to 8
bits for RGB. An animation gives its first frame. Any other number of channels must be in the file.
"""

import warnings
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mpx.data.arrays import ARRAY_SUFFIXES, TIFF_SUFFIXES, count_channels, load_array, load_tiff, to_pixels
from mpx.data.reading import regular_file

RGB = 3  # channels of a photo
GREY = 1
BANDS_TAG = 277  # SamplesPerPixel of a TIFF file


def read_image(path: str | PathLike, channels: int = RGB) -> Image.Image | Tensor:
    """Return the image in a file, upright, as a Pillow image (RGB or grey) or as (C,H,W) in [0,1].

    Any fault of the file is a ValueError of one sentence.
    """
    path = Path(path)
    try:
        if regular_file(path).stat().st_size == 0:
            raise ValueError("it is empty (0 bytes)")
        if path.suffix.lower() in ARRAY_SUFFIXES:
            return from_array(load_array(path), channels)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _read_picture(path, channels)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        raise ValueError(f"cannot read image {str(path)!r}: {_reason(error)}") from error


def _read_picture(path: Path, channels: int) -> Image.Image | Tensor:
    """Return the image in a file of any format that Pillow or tifffile knows."""
    try:
        with Image.open(path) as image:
            if image.format == "EPS":  # decoding one runs Ghostscript
                raise ValueError("EPS is a program, not an image; save it as PNG")
            if not _lies_in_bands(image, channels):
                return to_channels(image, channels)
    except UnidentifiedImageError:
        if path.suffix.lower() not in TIFF_SUFFIXES:
            raise
    return from_array(load_tiff(path), channels)


def _lies_in_bands(image: Image.Image, channels: int) -> bool:
    """Return whether a TIFF file's pages or bands are the channels: Pillow reads one page, of at most four bands."""
    if image.format != "TIFF":
        return False
    pages = getattr(image, "n_frames", 1)  # foreign: Pillow's class of TIFF files
    bands = getattr(image, "tag_v2", {}).get(BANDS_TAG, 1)  # foreign: as above
    if channels in (GREY, RGB):
        return bands == 1 < pages == channels or bands > len("RGBA")
    return pages > 1 or bands > len("RGBA")


def to_channels(image: Image.Image, channels: int) -> Image.Image | Tensor:
    """Return any Pillow image upright: RGB, grey, or as (C,H,W) in [0,1] where it has other channels or more than 8 bits."""
    if channels == RGB:
        return to_rgb(image)
    if channels == GREY and image.mode != "F" and not _is_16_bit(image):
        return to_rgb(image).convert("L")
    bands = len(image.getbands())
    if bands != channels:
        raise ValueError(f"it has {count_channels(bands)}, but the model takes {channels}")
    array = np.asarray(ImageOps.exif_transpose(image))
    return from_array(array.astype(np.uint16) if _is_16_bit(image) else array, channels)


def from_array(array: np.ndarray, channels: int) -> Image.Image | Tensor:
    """Return an array (mpx.data.arrays) as a Pillow image, RGB or grey, where it is one of 8 bits, else as (C,H,W)."""
    pixels = to_pixels(array, channels)
    if array.dtype != np.uint8 or channels not in (GREY, RGB):
        return pixels
    values = (pixels * 255).round().byte().numpy()
    return Image.fromarray(values[0] if channels == GREY else np.ascontiguousarray(np.moveaxis(values, 0, -1)))


def image_size(image: Image.Image | Tensor) -> tuple[int, int]:
    """Return (width, height)."""
    return (image.shape[-1], image.shape[-2]) if isinstance(image, Tensor) else image.size


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded copy of any Pillow image, RGB and with its EXIF orientation applied."""
    is_16_bit = _is_16_bit(image)
    if image.mode in ("I", "F") and not is_16_bit:
        raise ValueError(
            f"its pixels are {'floats' if image.mode == 'F' else '32-bit integers'} of unknown range; "
            "save it with 8 or 16 bits"
        )
    image = ImageOps.exif_transpose(image)
    if is_16_bit:  # convert() would clip at 255; 65535 / 257 = 255
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or image.mode == "I" and image.format in ("PNG", "PPM")  # old Pillow: I


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image that Pillow knows"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"it has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller"
    return " ".join(str(error).split()) or type(error).__name__
