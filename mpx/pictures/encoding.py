"""Tensors to images and files: (3,H,W) in [0,1] or uint8 to PIL, PNG and JPEG; enlarging and reducing."""

import io

import torch
from PIL import Image
from torch import Tensor

TILE = 224  # pixels: least longer side of a picture in a panel


def to_uint8(x: Tensor) -> Tensor:
    """Convert [0,1] to 0..255; NaN becomes 0, uint8 is returned as it is."""
    return x if x.dtype == torch.uint8 else (x.nan_to_num().clamp(0, 1) * 255).round().byte()


def to_image(x: Tensor) -> Image.Image:
    """Convert (3,H,W) to a PIL image."""
    return Image.fromarray(to_uint8(x).movedim(0, -1).contiguous().numpy())


def to_tile(x: Tensor, max_side: int | None = None) -> Image.Image:
    """Convert (3,H,W) to an image whose longer side is at least TILE, enlarged by a whole factor without smoothing.

    max_side: a larger image is reduced to this longer side.
    """
    image = to_image(x)
    if max_side and max(image.size) > max_side:
        return reduce_image(image, max_side)
    factor = -(-TILE // max(image.size))
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)


def reduce_image(image: Image.Image, max_side: int) -> Image.Image:
    """Reduce an image to `max_side` pixels on its longer side; a smaller one keeps its size."""
    factor = min(1.0, max_side / max(image.size))
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def encode_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def encode_jpeg(image: Image.Image, quality: int = 92) -> bytes:
    """Encode as JPEG, which takes a tenth of the time and a quarter of the size of a PNG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()
