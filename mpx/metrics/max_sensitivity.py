"""Max-sensitivity (Yeh et al. 2019), as Captum computes it."""

import torch
from torch import Tensor

from mpx.metrics.base import MetricContext, metric
from mpx.metrics.captum_metrics import CAPTUM, captum_metrics
from mpx.option_values import Count, NotNegative


@metric(direction="lower", needs=("explain",), notes={"normalisation": "by the norm of the map"}, package=CAPTUM)
def max_sensitivity(
    saliency: Tensor, context: MetricContext, radius: NotNegative = 0.02, samples: Count = 10, seed: int = 0
) -> Tensor:
    """Return the largest change (B,) of the saliency, relative to its norm, under noise on the image.

    radius: the noise is uniform in [-radius, radius], the same for every row. Each row is explained `samples` + 1 times, all
    with the same seed.
    """
    captum = captum_metrics("max_sensitivity")
    random = torch.Generator().manual_seed(seed)

    def add_noise(x: Tensor) -> Tensor:
        return (x + radius * (2 * torch.rand(x.shape[1:], generator=random) - 1).to(x)).clamp(0, 1)

    def explain(x: Tensor | tuple[Tensor], target: Tensor) -> tuple[Tensor]:
        images = x if isinstance(x, Tensor) else x[0]  # Captum passes the images in a tuple, the noisy ones without
        with torch.enable_grad():
            return (context.explain(context.classifier, images, target, seed).detach(),)

    return captum.sensitivity_max(
        explain,
        context.images,
        add_noise,
        n_perturb_samples=samples,
        max_examples_per_batch=len(context.images),
        target=context.targets,
    )
