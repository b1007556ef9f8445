"""Image files to RGB, by Pillow alone (torchvision.io ignores EXIF, and crashes on some broken PNGs).

Transparency is laid on white, 16-bit grey is scaled to 8 bits, and an animation gives its first frame.
"""

import warnings
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


def read_image(path: str | PathLike) -> Image.Image:
    """Return the image in a file, RGB and upright; any fault of the file is a ValueError of one sentence."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a folder, or a pipe that would block
            raise ValueError("it is not a regular file")
        if path.stat().st_size == 0:
            raise ValueError("it is empty (0 bytes)")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.format == "EPS":  # decoding one runs Ghostscript
                    raise ValueError("EPS is a program, not an image; save it as PNG")
                return to_rgb(image)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        raise ValueError(f"cannot read image {str(path)!r}: {_reason(error)}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded copy of any Pillow image, RGB and with its EXIF orientation applied."""
    is_16_bit = image.mode.startswith("I;16") or image.mode == "I" and image.format in ("PNG", "PPM")  # old Pillow: I
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
