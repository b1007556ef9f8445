"""Where the geometry lives: a picture to the frame the network sees, and boxes along with it.

As torchvision's `Resize` (shorter side, antialiased, on PIL) and `CenterCrop`; `resize=None` only crops. A picture smaller
than the crop is padded with black. Values stay in [0,1]: normalising is the Classifier's.
"""

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
        size = self._resized(original_size)
        mapped = []
        for i, value in enumerate(box):
            axis = i % 2  # 0: x, 1: y
            crop, full = self.crop[1 - axis], size[axis]
            # torchvision's own rounding, which differs between cropping and padding
            offset = -((crop - full) // 2) if full < crop else round((full - crop) / 2)
            mapped.append(min(max(value * full / original_size[axis] - offset, 0.0), float(crop)))
        return tuple(mapped)

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
