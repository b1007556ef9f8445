"""Infidelity (Yeh et al. 2019), as Captum computes it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.baseline import Baseline
from mpx.metrics.baseline import baseline as baseline_images
from mpx.metrics.captum_metrics import CAPTUM, captum_metrics
from mpx.option_values import Count, ShareAboveZero


@metric(
    direction="lower",
    notes={"normalisation": "the best scale of each row's map"},
    package=CAPTUM,
)
def infidelity(
    saliency: Tensor, context: MetricContext, baseline: Baseline = "mean", side: ShareAboveZero = 0.25,
    samples: Count = 64, seed: int = 0, max_batch: Count = 64,
) -> Tensor:  # fmt: skip
    """Return the mean squared difference (B,) of what random squares lose and the saliency in them, at its best scale.

    The perturbed variable is the presence of pixels, from 1 to 0 in a square of `side` times the image's side, which the
    `baseline` replaces; the function is the support of the row's target. The squares are the same for every row.
    """
    captum = captum_metrics("infidelity")
    rows = zip(context.images, baseline_images(context, baseline), saliency)
    values = []
    for row, (image, reference, row_saliency) in enumerate(rows):
        random = torch.Generator().manual_seed(seed)

        def score(present: Tensor, image: Tensor = image, reference: Tensor = reference, row: int = row) -> Tensor:
            rows = torch.full((len(present),), row, device=image.device)
            return context.support(torch.lerp(reference, image, present), rows)

        def remove_square(present: Tensor, random: torch.Generator = random) -> tuple[Tensor, Tensor]:
            square = random_squares(len(present), present.shape[-2:], side, random).to(present)
            return square, present - square

        ones = torch.ones_like(row_saliency)[None]
        options = {"n_perturb_samples": samples, "max_examples_per_batch": min(max_batch, samples), "normalize": True}
        with torch.no_grad():
            values.append(captum.infidelity(score, remove_square, ones, row_saliency[None], **options))
    return torch.cat(values)


def random_squares(count: int, size: Sequence[int], side: float, random: torch.Generator) -> Tensor:
    """Return masks (count,1,H,W) with one random square of ones each, wholly inside; side: share of the image's side."""
    height, width = size
    h, w = max(1, round(side * height)), max(1, round(side * width))
    y = torch.randint(height - h + 1, (count, 1), generator=random)
    x = torch.randint(width - w + 1, (count, 1), generator=random)
    rows = (y <= torch.arange(height)) & (torch.arange(height) < y + h)
    columns = (x <= torch.arange(width)) & (torch.arange(width) < x + w)
    return (rows[:, :, None] & columns[:, None, :])[:, None].float()
