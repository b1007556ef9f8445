"""A mask whose cells are squares of pixels, such as a vision transformer's patches."""

from mpx.masks.base import MaskContext
from mpx.masks.grid import Grid


class Patches(Grid):
    """One cell for each square of `patch` pixels, constant inside: 16 for a ViT-B/16. None: mask_size cells per side."""

    def __init__(
        self,
        context: MaskContext,
        mask_size: int | list[int] | None = 28,
        patch: int | None = None,
        init: str | float = "ones",
    ):
        if patch is not None:
            size = context.size
            if not 1 <= patch <= min(size) or any(side % patch for side in size):
                raise ValueError(f"mask.patch={patch} px must divide the image's sides, {size[0]}x{size[1]} px, or be null")
            mask_size = [side // patch for side in size]
        super().__init__(context, mask_size, upsample="nearest", init=init)
