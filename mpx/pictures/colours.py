"""How saliency is drawn over a photo: an opaque orange where it is 1, the photo in light grey where it is 0.

Orange and grey differ for every kind of colour vision, and the photo is lifted to between LIFT and white, so that the colour
is seen on dark photos as on bright ones. A white line in a black one goes round what is at least one half, for small sizes
and for print. A value has the same colour in all pictures; nothing is stretched to the range of one.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ORANGE, BLUE, BOTH = "#ff5a00", "#0072e5", "#141419"  # of saliency, of a second one, and of what is in both
LIFT = 0.3  # the grey of black pixels
OPACITY, STEEPNESS = 0.9, 0.7  # the colour's opacity is OPACITY * saliency ** STEEPNESS
SHADE, LIGHT = 0.55, 0.65  # the colour is multiplied by SHADE + LIGHT * grey, which keeps the photo's texture visible
HALF = 0.5  # where the line is
LEAST_SIDE = 128  # pixels; in smaller pictures a line would cover what it goes round
LINE_SIDE = 320  # pixels of the longer side for each of the line's width


def as_rgb(images: Tensor, bands: Sequence[int] | None = None) -> Tensor:
    """Return the channels of images (...,C,H,W) that pictures show, as (...,3,H,W).

    bands: three channels, or one for grey; None: the first three, or the first where there are fewer.
    """
    shown = list(bands or (range(3) if images.shape[-3] >= 3 else [0]))
    return images[..., shown * (3 // len(shown)), :, :]


def outlined(image: Tensor, region: Tensor, width: int = 2) -> Tensor:
    """Draw the inner edge of a region (1,H,W) on an image (3,H,W): yellow, `width` pixels wide, and black beside it."""
    for reach, colour in ((2 * width, (0.0, 0.0, 0.0)), (width, (1.0, 0.85, 0.1))):
        outside = F.pad((~region)[None].float(), [reach] * 4, value=1.0)  # the image's border is an edge too
        edge = region & (F.max_pool2d(outside, 2 * reach + 1, 1)[0] > 0)
        image = torch.where(edge, image.new_tensor(colour).view(-1, 1, 1), image)
    return image


def overlay(images: Tensor, saliency: Tensor) -> Tensor:
    """Draw saliency (...,1,H,W) over images (...,3,H,W); all in [0,1], NaN counts as 0."""
    return _coloured(images, (saliency, ORANGE))


def overlay_two(images: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Draw two saliencies (...,1,H,W) over images (...,3,H,W): orange, blue, and black where both are."""
    both = torch.minimum(first.nan_to_num(), second.nan_to_num())
    return _coloured(images, (first, ORANGE), (second, BLUE), (both, BOTH))


def _coloured(images: Tensor, *layers: tuple[Tensor, str]) -> Tensor:
    """Draw one saliency in its colour (#rrggbb) upon the other, and then the line of each."""
    grey = (images.nan_to_num() * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(-3, keepdim=True)
    grey = LIFT + (1 - LIFT) * grey
    drawn = grey.expand_as(images)
    for saliency, colour in layers:
        opacity = OPACITY * saliency.nan_to_num().clamp(0, 1) ** STEEPNESS
        shaded = images.new_tensor(list(bytes.fromhex(colour[1:]))).view(3, 1, 1) / 255 * (SHADE + LIGHT * grey)
        drawn = drawn + opacity * (shaded.clamp(max=1) - drawn)
    for saliency, _ in layers:
        drawn = _lined(drawn, saliency)
    return drawn


def _lined(images: Tensor, saliency: Tensor) -> Tensor:
    """Draw the line round what is at least HALF: white on its edge, black outside; `longer side / LINE_SIDE` pixels each."""
    longer = max(saliency.shape[-2:])
    if longer < LEAST_SIDE:
        return images
    width = max(1, round(longer / LINE_SIDE))
    region = saliency.nan_to_num() >= HALF
    for side, shade in ((region, 1.0), (~region, 0.0)):
        beside = F.max_pool2d((~side).float().view(-1, *side.shape[-3:]), 2 * width + 1, 1, width).view(side.shape) > 0
        images = torch.where(side & beside, shade, images)
    return images
