"""Infidelity and max-sensitivity (Yeh et al. 2019), as Captum computes them."""

import torch
from torch import Tensor

from mpx.metrics.batched import filled


def infidelity(
    saliency: Tensor, classifier, images: Tensor, targets: Tensor, fill: str | float = "mean", side: float = 0.25,
    samples: int = 64, seed: int = 0, pictures: int = 64,
) -> Tensor:  # fmt: skip
    """Mean squared difference of what random squares lose and the saliency in them, at its best scale: (B,), low is good.

    What is perturbed is the presence of pixels, from 1 to 0 in a square of `side` times the picture's, which is replaced by
    `fill`; f is the softmax of the row's class. The same squares for every row.
    """
    if samples < 1 or not 0 < side <= 1:
        raise ValueError(f"samples={samples}, side={side}: there must be a square, with a side above 0 and at most 1")
    captum = _captum("infidelity")
    blank = filled(images, classifier, fill)
    found = []
    for image, under, target, s in zip(images, blank, targets, saliency):
        random = torch.Generator().manual_seed(seed)

        def score(present: Tensor, image=image, under=under, target=target) -> Tensor:
            return classifier(torch.lerp(under, image, present)).float().softmax(1)[:, target]

        def remove(present: Tensor, random=random) -> tuple[Tensor, Tensor]:
            gone = squares(len(present), present.shape[-2:], side, random).to(present)
            return gone, present - gone

        ones = torch.ones_like(s)[None]
        batch = min(pictures, samples)
        with torch.no_grad():
            found.append(captum.infidelity(
                score, remove, ones, s[None], n_perturb_samples=samples, max_examples_per_batch=batch, normalize=True
            ))  # fmt: skip
    return torch.cat(found)


def max_sensitivity(
    saliency: Tensor, classifier, images: Tensor, targets: Tensor, explain, radius: float = 0.02, samples: int = 10,
    seed: int = 0,
) -> Tensor:  # fmt: skip
    """Largest change of the saliency, as a share of its norm, with uniform noise of at most `radius` on the picture.

    (B,), low is good. `samples` + 1 explanations of each row, all with the same seed; the same noise for every row.
    """
    if samples < 1:
        raise ValueError(f"samples={samples} must be 1 or larger: it is the number of noisy pictures")
    captum = _captum("max_sensitivity")
    random = torch.Generator().manual_seed(seed)

    def noisy(x: Tensor) -> Tensor:
        return (x + radius * (2 * torch.rand(x.shape[1:], generator=random) - 1).to(x)).clamp(0, 1)

    def explained(x, target: Tensor) -> tuple[Tensor]:  # Captum gives the pictures in a tuple and the noisy ones without
        with torch.enable_grad():
            return (explain(classifier, x if isinstance(x, Tensor) else x[0], target, seed).detach(),)

    return captum.sensitivity_max(
        explained, images, noisy, n_perturb_samples=samples, max_examples_per_batch=len(images), target=targets
    )


infidelity.protocol = {"class": "the row's, softmax", "normalisation": "the map's best scale, by row", "better": "lower"}
max_sensitivity.protocol = {"normalisation": "by the map's norm", "better": "lower"}


def squares(count: int, size, side: float, random: torch.Generator) -> Tensor:
    """(count,1,H,W) one random square of ones in each, wholly inside."""
    edge = [max(1, round(side * length)) for length in size]
    corner = [torch.randint(length - e + 1, (count, 1), generator=random) for length, e in zip(size, edge)]
    rows, cols = ((c <= torch.arange(n)) & (torch.arange(n) < c + e) for c, e, n in zip(corner, edge, size))
    return (rows[:, :, None] & cols[:, None, :])[:, None].float()


def _captum(metric: str):
    try:
        import captum.metrics
    except ImportError:
        raise ValueError(f"metric={metric} is Captum's: pip install captum, or leave it out") from None
    return captum.metrics
