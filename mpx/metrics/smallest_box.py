"""The smallest box: one that takes the class away (minimality), or one that is enough for it (saliency metric)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mpx.metrics.batched import ask
from mpx.metrics.boxes import scaled, tight
from mpx.metrics.drops import normalised
from mpx.perturbations.blur import blur_gaussian


def minimality(
    saliency: Tensor, classifier, images: Tensor, targets: Tensor, sigma: float = 10.0, thresholds: int = 11,
    level: int = 90, least: float = 0.01, pictures: int = 64,
) -> dict[str, Tensor]:  # fmt: skip
    """Area, as a share of the picture, of the smallest box whose blurring takes 80, 90, 95 and 99 % of the score: (B,) each.

    Fong & Vedaldi 2017, section 5.3: the map scaled to [0,1], the boxes around what is at or above `thresholds` values from
    0 (the whole picture, which takes all) to 1, evenly; score as in `normalised_drop`, p_b of the picture blurred by `sigma`
    px everywhere. `level` is the main value's. NaN where p_0 - p_b is below `least`.
    """
    levels = (80, 90, 95, 99)
    if level not in levels:
        raise ValueError(f"level={level} must be one of {', '.join(map(str, levels))}")
    if thresholds < 1:
        raise ValueError(f"thresholds={thresholds} must be 1 or larger: each gives a box")
    grid = torch.linspace(0, 1, thresholds, dtype=torch.float64).expand(len(images), -1)
    boxes = tight(scaled(saliency), grid)  # (B,A,4)
    blurred = blur_gaussian(images, sigma)
    nothing = boxes.new_zeros(len(boxes), 1, 4)
    boxes = torch.cat([nothing, boxes], 1)

    def make(row: Tensor, which: Tensor) -> Tensor:
        return torch.where(inside(boxes[row, which], images.shape[-2:]), blurred[row], images[row])

    p = ask(classifier, make, targets, boxes.shape[1], pictures)
    left = normalised(p[:, 1:], p[:, :1], p[:, 1:2], least)  # the box of threshold 0 is the whole picture
    area = share(boxes[:, 1:], images.shape[-2:])
    smallest = {
        str(percent): area.where(left <= 1 - percent / 100 + 1e-6, torch.inf).amin(1).where(left[:, 0].isfinite(), torch.nan)
        for percent in levels
    }
    return {"": smallest[str(level)], **smallest}


def saliency_metric(
    saliency: Tensor, classifier, images: Tensor, targets: Tensor, threshold: float = 0.5, pictures: int = 64
) -> dict[str, Tensor]:
    """log max(area, 0.05) - log p of the class in the tightest crop, resized to the picture's size: (B,), low is good.

    Dabkowski & Gal 2017. The crop is around all pixels at or above `threshold` of the map scaled to [0,1]; `area` is its
    share of the picture.
    """
    size = images.shape[-2:]
    boxes = tight(scaled(saliency), torch.full((len(images), 1), threshold, dtype=torch.float64))[:, 0]
    area = share(boxes, size)

    def make(row: Tensor, which: Tensor) -> Tensor:
        crops = [(images[r : r + 1], *boxes[r].int().tolist()) for r in row.tolist()]
        return torch.cat([
            F.interpolate(image[..., y0:y1, x0:x1], tuple(size), mode="bilinear", antialias=True, align_corners=False)
            for image, x0, y0, x1, y1 in crops
        ])  # fmt: skip

    p = ask(classifier, make, targets, 1, pictures)[:, 0]
    return {"": area.clamp(min=0.05).log() - p.clamp(min=torch.finfo(p.dtype).tiny).log(), "area": area}


minimality.protocol = {
    **{"class": "the row's, softmax", "normalisation": "(p_0 - p) / (p_0 - p_b)", "operator": "Gaussian blur"},
    **{"unit": "share of the picture", "better": "lower"},
}
saliency_metric.protocol = {"class": "the row's, softmax", "resize": "bilinear, antialiased", "better": "lower"}


def inside(boxes: Tensor, size) -> Tensor:
    """(N,4) -> (N,1,H,W) bool."""
    y, x = (torch.arange(side, device=boxes.device) for side in size)
    x0, y0, x1, y1 = boxes[:, :, None].unbind(1)
    return ((y0 <= y) & (y < y1))[:, None, :, None] & ((x0 <= x) & (x < x1))[:, None, None, :]


def share(boxes: Tensor, size) -> Tensor:
    """(...,4) -> (...) area as a share of the picture's."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) / (size[0] * size[1])
