"""Generative in-filling: a function of the user's, such as an in-fill network, paints what the mask hides.

    x' = m x + (1-m) r,    r = (1-b) fill(b x, b) + b fill((1-b) x, 1-b)

Chang et al. 2019 (FIDO) fill with a generative network, so that what is hidden becomes plausible instead of blurred. The
fill sees the kept pixels only, because the others are black. For a kept pixel, r is what is painted there when the kept
pixels are hidden and the others kept: with the fill of its own pixels, x - r, a mask's gradient, would be 0 at masks of 1.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.operators import check_shape, imported
from mpx.perturbations.base import FixedPixelPerturbation, PerturbationContext

Fill = Callable[[Tensor, Tensor], Tensor]  # (images (B,C,H,W) in [0,1], mask (B,1,H,W), 1 keeps) -> painted images


def generative(
    images: Tensor, context: PerturbationContext, fill: str | Fill | None = None, through_fill: bool = False
) -> "Generative":
    """What `fill` paints where the mask is 0.

    fill: a function (images, mask) -> images, or "package.module:function" or "path/file.py:function"; None: `push_pull`.
    It is called once for each perturbed picture, with both masks, 2B rows. A row's fill depends on its image and mask only,
    and draws nothing at random.
    through_fill: False: b is 1 where the mask is above 1/2, and the mask's gradient is that of the blend, as FIDO's. True: b
    is the mask itself, and the gradient flows through the fill, too, which must take masks between 0 and 1.
    """
    function = imported(fill, "perturbation.fill") if isinstance(fill, str) else fill or push_pull
    return Generative(images, function, through_fill)


class Generative(FixedPixelPerturbation):
    """Images whose hidden pixels are filled anew under each mask."""

    def __init__(self, images: Tensor, fill: Fill, through_fill: bool):
        super().__init__(images, images)
        self.fill, self.through_fill = fill, through_fill

    def apply(self, sample: Tensor | None, mask: Tensor) -> Tensor:
        assert sample is not None
        images = sample[:, -1]
        kept = mask if self.through_fill else (mask > 0.5).to(images)
        masks = torch.cat([kept, 1 - kept])
        visible = images.repeat(2, 1, 1, 1) * masks
        with torch.set_grad_enabled(self.through_fill and torch.is_grad_enabled()):
            filled = self.fill(visible, masks)
        check_shape("fill", self.fill, filled, "(B,C,H,W)", tuple(visible.shape))
        from_kept, from_others = filled.chunk(2)
        return torch.lerp(torch.lerp(from_kept, from_others, kept), images, mask)


def push_pull(images: Tensor, mask: Tensor) -> Tensor:
    """Return kept colours spread into the hidden pixels, from the finest scale that has any; grey where nothing is kept.

    images: (B,C,H,W) in [0,1], black where hidden. mask: (B,1,H,W). Push and pull of Gortler et al. 1996 over a pyramid of
    halved images, differentiable in the mask.
    """
    h, w = images.shape[2:]
    if min(h, w) == 1:
        weight = mask.mean((2, 3), keepdim=True)
        return torch.where(weight > 0, images.mean((2, 3), keepdim=True) / weight.clamp(min=1e-6), 0.5).expand_as(images)
    padded = [F.pad(x, (0, w % 2, 0, h % 2), mode="replicate") for x in (images, mask)]
    coarse, weight = (F.avg_pool2d(x, 2) for x in padded)
    full = (4 * weight).clamp(max=1) / weight.clamp(min=1e-6)  # one kept pixel of four decides
    below = F.interpolate(push_pull(coarse * full, weight * full), size=(h, w), mode="bilinear", align_corners=False)
    return images + (1 - mask) * below
