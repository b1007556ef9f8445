"""The colours of saliency: magma, from black to pale yellow.

The scale is always 0 to 1 and never stretched to the range of one picture, so a value has the same colour in all pictures.
Magma is perceptually uniform and rises in luminance (van der Walt & Smith 2015, CC0).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# 18 anchors, linear in between: a minimax fit that stays within 2/255 of matplotlib's magma
MAGMA = """000002 08061f 191140 301066 4a107b 61187f 782281 902a80 a9327c
           c13a75 d9466a ec585e f7715b fc8d63 feaa73 fdc589 fce1a2 fbfcbe"""


def colour_table(anchors: str = MAGMA) -> Tensor:
    """Return (256,3) colours in [0,1]: hex anchors at equal distances, joined by straight lines."""
    table = torch.tensor([list(bytes.fromhex(a)) for a in anchors.split()]) / 255
    return F.interpolate(table.T[None], 256, mode="linear", align_corners=True)[0].T


COLOUR_TABLE = colour_table()


def heatmap(saliency: Tensor) -> Tensor:
    """Map saliency (...,1,H,W) in [0,1] to colours (...,3,H,W)."""
    index = (saliency.nan_to_num().clamp(0, 1) * 255).round().long()
    return COLOUR_TABLE[index.squeeze(-3)].movedim(-1, -3)


def as_rgb(images: Tensor, bands: Sequence[int] | None = None) -> Tensor:
    """Return the channels of images (...,C,H,W) that pictures show, as (...,3,H,W).

    bands: three channels, or one for grey; None: the first three, or the first where there are fewer.
    """
    rgb = range(COLOUR_TABLE.shape[-1])
    shown = list(bands or (rgb if images.shape[-3] >= len(rgb) else [0]))
    return images[..., shown * (len(rgb) // len(shown)), :, :]


def outlined(image: Tensor, region: Tensor, width: int = 2) -> Tensor:
    """Draw the inner edge of a region (1,H,W) on an image (3,H,W): yellow, `width` pixels wide, and black beside it."""
    for reach, colour in ((2 * width, (0.0, 0.0, 0.0)), (width, (1.0, 0.85, 0.1))):
        outside = F.pad((~region)[None].float(), [reach] * 4, value=1.0)  # the image's border is an edge too
        edge = region & (F.max_pool2d(outside, 2 * reach + 1, 1)[0] > 0)
        image = torch.where(edge, image.new_tensor(colour).view(-1, 1, 1), image)
    return image


def overlay(images: Tensor, saliency: Tensor) -> Tensor:
    """Blend the colours of saliency (...,1,H,W) over darkened grey images (...,3,H,W); all in [0,1].

    A screen blend, 1-(1-image)(1-light). Magma starts at black, so no light is added where the saliency is 0. The light is
    stronger on bright pixels, so that the texture of the image stays visible at the highest saliency.
    """
    return _lit(images, heatmap(saliency))


def overlay_two(images: Tensor, first: Tensor, second: Tensor, colours: tuple[str, str]) -> Tensor:
    """Blend two saliencies (...,1,H,W) over darkened grey images (...,3,H,W), each as light of its colour (#rrggbb)."""
    lights = (s.nan_to_num().clamp(0, 1) * _colour(c).to(s) for s, c in zip((first, second), colours))
    return _lit(images, sum(lights, torch.zeros_like(images)).clamp(max=1))


def _colour(code: str) -> Tensor:
    """Return #rrggbb as (3,1,1) in [0,1]."""
    return torch.tensor(list(bytes.fromhex(code.removeprefix("#")))).view(3, 1, 1) / 255


def _lit(images: Tensor, light: Tensor) -> Tensor:
    """Shed light (...,3,H,W) on darkened grey images (...,3,H,W)."""
    grey = (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(-3, keepdim=True)
    return 1 - (1 - 0.5 * grey) * (1 - light * (0.45 + 0.55 * grey))
