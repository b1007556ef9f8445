"""Other explanations to compare masks with: plain functions, one YAML in configs/explainer/ each.

An explainer is a function of the photos (B,3,H,W) in [0,1], the classifier (frozen) and the targets (B,), and asks for more
by the names of its parameters:

rng      mpx.randomness.RowRandom of these B rows
names    of the rows' images, B texts

It returns the relevance (B,1,H,W): any real numbers, higher where there is more evidence for the target; a row's does not
depend on its company. The network is left as it was. At most `pictures` go through it at once.
"""

import torch
from torch import Tensor


def to_saliency(relevance: Tensor) -> Tensor:
    """Relevance (B,1,H,W) -> saliency (B,1,H,W) in [0,1].

    Evidence against the target is none for it: 0, as in a mask. What is left has no unit that two methods, or two photos,
    would share, so a row's largest becomes 1; its order is kept. A row that is the same everywhere says nothing about where
    the evidence is, so it has none.
    """
    positive = relevance.clamp(min=0)
    most = positive.amax((1, 2, 3), keepdim=True)
    nothing = (most == 0) | (relevance.amax((1, 2, 3), keepdim=True) == relevance.amin((1, 2, 3), keepdim=True))
    return torch.where(nothing, 0.0, positive / most)  # a NaN stays: metrics shall see it


def at_least(least: float, **options: float) -> None:
    for name, value in options.items():
        if not value >= least:
            raise ValueError(f"explainer.{name}={value} must be at least {least}")


def captum(explainer: str):
    """captum.attr, an optional dependency."""
    try:
        import captum.attr
    except ImportError:
        raise ValueError(f'explainer={explainer} needs Captum: pip install "mpx[baselines]"') from None
    return captum.attr
