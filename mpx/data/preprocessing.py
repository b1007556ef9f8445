"""The geometry between an original image and the network's input, for images, boxes, points and masks, and back for points.

Equals torchvision's `Resize` (shorter side, antialiased, on PIL; on the tensor where the image is one) and `CenterCrop`;
`resize=None` only crops. An image that is smaller than the crop is padded with black. Values stay in [0,1]: the Classifier
normalises.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, functional

from mpx.data.images import RGB, image_size, to_channels

MAX_PIXELS = 2**27  # after resizing; a 5000x2 strip would become 640000x256
Point = tuple[float, float]  # (x,y)
Box = tuple[float, float, float, float]  # (x0,y0,x1,y1)


@dataclass(frozen=True)
class Preprocess:
    """From an image of any size to the network's input.

    crop: (H,W) of the input. resize: shorter side before the centre crop, or None. interpolation: of the resizing.
    """

    crop: tuple[int, int]
    resize: int | None = None
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        for name, sides in (("size", self.crop), ("resize", () if self.resize is None else (self.resize,))):
            if any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
                raise ValueError(f"{name}={'x'.join(map(str, sides))} must be whole numbers of pixels, at least 1")
        allowed = [mode.value for mode in InterpolationMode]
        if self.interpolation not in allowed:
            raise ValueError(f"interpolation {self.interpolation!r} is unknown: choose one of {', '.join(allowed)}")

    def __call__(self, image: Image.Image | Tensor, channels: int = RGB) -> Tensor:
        """Return the network's input (C,H,W) in [0,1] for a Pillow image or a tensor (C,H,W) in [0,1]."""
        image = image if isinstance(image, Tensor) else to_channels(image, channels)
        width, height = self._resized(image_size(image))
        if isinstance(image, Tensor):
            image = self._resized_tensor(image, [height, width])
        else:
            image = functional.resize(image, [height, width], InterpolationMode(self.interpolation))
        image = functional.center_crop(image, list(self.crop))
        return image if isinstance(image, Tensor) else functional.to_tensor(image)

    def _resized_tensor(self, image: Tensor, size: list[int]) -> Tensor:
        """Resize (C,H,W) in [0,1]; bicubic interpolation overshoots, which Pillow clips too."""
        if list(image.shape[1:]) == size:
            return image
        mode = InterpolationMode(self.interpolation)
        try:
            return functional.resize(image, size, mode, antialias=True).clamp(0, 1)
        except ValueError as error:  # Pillow knows more kinds of interpolation
            raise ValueError(f"interpolation {mode.value!r} is for 8-bit images: choose bicubic or bilinear") from error

    def box(self, box: Box, original_size: tuple[int, int]) -> Box:
        """Map a box in pixels of the upright original of size (width, height) to the crop, clipped to it."""
        (x0, y0), (x1, y1) = self.point(box[:2], original_size), self.point(box[2:], original_size)
        height, width = map(float, self.crop)
        return min(max(x0, 0.0), width), min(max(y0, 0.0), height), min(max(x1, 0.0), width), min(max(y1, 0.0), height)

    def point(self, point: Point, original_size: tuple[int, int]) -> Point:
        """Map a point of the original to the crop, or beyond its edges; the centre of pixel (i,j) is (j+0.5,i+0.5)."""
        (x_scale, x_offset), (y_scale, y_offset) = self._scales_and_offsets(original_size)
        return point[0] * x_scale - x_offset, point[1] * y_scale - y_offset

    def to_original(self, point: Point, original_size: tuple[int, int]) -> Point:
        """Map a point of the crop to the original, or beyond its edges where the crop is padded."""
        (x_scale, x_offset), (y_scale, y_offset) = self._scales_and_offsets(original_size)
        return (point[0] + x_offset) / x_scale, (point[1] + y_offset) / y_scale

    def map_to_original(self, values: Tensor, original_size: tuple[int, int]) -> Tensor:
        """Return values (H,W) of the crop's pixels for those of the original (h,w), linearly; 0 outside the crop."""
        centres = []
        for (scale, offset), side, crop in zip(self._scales_and_offsets(original_size), original_size, self.crop[::-1]):
            centres.append(((torch.arange(side) + 0.5) * scale - offset) / crop * 2 - 1)  # of pixels; the crop is -1 to 1
        columns, rows = centres
        grid = torch.stack(torch.broadcast_tensors(columns, rows[:, None]), -1)[None]
        mapped = F.grid_sample(values[None, None], grid.to(values), padding_mode="border", align_corners=False)[0, 0]
        return torch.where((grid[0].abs() <= 1).all(-1), mapped, 0.0)

    def mask(self, drawing: Image.Image) -> Tensor:
        """Map an image of the original's size, mode "1", to (H,W) bool: pixels of the crop with their centre in it."""
        width, height = self._resized(drawing.size)
        drawing = functional.resize(drawing, [height, width], InterpolationMode.NEAREST)
        return functional.pil_to_tensor(functional.center_crop(drawing, list(self.crop)))[0].bool()

    def _scales_and_offsets(self, size: tuple[int, int]) -> Iterator[tuple[float, int]]:
        """Yield, for x then y, the scale of the resizing and the number of resized pixels before the crop."""
        for full, side, crop in zip(self._resized(size), size, self.crop[::-1]):
            # torchvision's own rounding, which differs between cropping and padding
            yield full / side, -((crop - full) // 2) if full < crop else round((full - crop) / 2)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (width, height) after resizing an image of `size` (width, height)."""
        if self.resize is None:
            return size
        short = min(size)
        width, height = (self.resize if side == short else int(self.resize * side / short) for side in size)
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"an image of {size[0]}x{size[1]} pixels is too long to be resized to a shorter side of {self.resize}; "
                "crop it first"
            )
        return width, height
