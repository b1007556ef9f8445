"""Where the geometry lives: a picture to the frame the network sees, boxes, points and masks along with it, points back.

As torchvision's `Resize` (shorter side, antialiased, on PIL) and `CenterCrop`; `resize=None` only crops. A picture smaller
than the crop is padded with black. Values stay in [0,1]: normalising is the Classifier's.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, functional

from mpx.data.images import to_rgb

LARGEST = 2**27  # pixels after resizing; a 5000x2 strip would become 640000x256


@dataclass(frozen=True)
class Preprocess:
    crop: tuple[int, int]  # (H, W) of the network's input
    resize: int | None = None  # the shorter side before cropping
    interpolation: str = "bicubic"

    def __post_init__(self):
        for name, sides in (("size", self.crop), ("resize", () if self.resize is None else (self.resize,))):
            if any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
                raise ValueError(f"{name}={'x'.join(map(str, sides))} must be whole numbers of pixels, at least 1")
        allowed = [mode.value for mode in InterpolationMode]
        if self.interpolation not in allowed:
            raise ValueError(f"interpolation {self.interpolation!r} is unknown: choose one of {', '.join(allowed)}")

    def __call__(self, image: Image.Image) -> Tensor:  # (3,H,W) in [0,1]
        image = to_rgb(image)
        width, height = self._resized(image.size)
        image = functional.resize(image, [height, width], InterpolationMode(self.interpolation))
        return functional.to_tensor(functional.center_crop(image, list(self.crop)))

    def box(self, box: tuple, original_size: tuple[int, int]) -> tuple[float, float, float, float]:
        """(x0,y0,x1,y1) in pixels of the upright original of size (width, height) -> the same in the crop, clipped to it."""
        corners = (*self.point(box[:2], original_size), *self.point(box[2:], original_size))
        return tuple(min(max(value, 0.0), float(self.crop[1 - i % 2])) for i, value in enumerate(corners))

    def point(self, point: tuple, original_size: tuple[int, int]) -> tuple[float, float]:
        """(x,y) in the original -> in the crop, or beyond its edges; pixel (i,j) has its centre at (j+0.5,i+0.5) in both."""
        return tuple(value * scale - offset for value, (scale, offset) in zip(point, self._steps(original_size)))

    def back(self, point: tuple, original_size: tuple[int, int]) -> tuple[float, float]:
        """(x,y) in the crop -> in the original, or beyond its edges where the crop is padded."""
        return tuple((value + offset) / scale for value, (scale, offset) in zip(point, self._steps(original_size)))

    def mask(self, drawing: Image.Image) -> Tensor:
        """A picture of the original's size, mode "1" -> (H,W) bool: which pixels of the crop have their centre in it."""
        width, height = self._resized(drawing.size)
        drawing = functional.resize(drawing, [height, width], InterpolationMode.NEAREST)
        return functional.pil_to_tensor(functional.center_crop(drawing, list(self.crop)))[0].bool()

    def _steps(self, size: tuple[int, int]) -> Iterator[tuple[float, int]]:
        """For x, then y: the scale of the resizing, and how many resized pixels lie before the crop."""
        for full, side, crop in zip(self._resized(size), size, self.crop[::-1]):
            # torchvision's own rounding, which differs between cropping and padding
            yield full / side, -((crop - full) // 2) if full < crop else round((full - crop) / 2)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:  # (width, height) -> (width, height)
        if self.resize is None:
            return size
        short = min(size)
        width, height = (self.resize if side == short else int(self.resize * side / short) for side in size)
        if width * height > LARGEST:
            raise ValueError(
                f"a picture of {size[0]}x{size[1]} pixels is too long to be resized to a shorter side of "
                f"{self.resize}; crop it first"
            )
        return width, height
