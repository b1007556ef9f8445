"""The contract of an explainer: a method that learns no mask, to compare masks with.

An explainer is a function `(images (B,C,H,W) in [0,1], classifier, targets (B,), context: ExplainerContext, **options)` that
returns the relevance (B,1,H,W): any real numbers, higher where there is more evidence for the target. The relevance of a row
does not depend on the other rows. The classifier is frozen and stays as it was. At most `max_batch` images, an option of the
explainer, go through it at once; an explainer without this option does not run the network.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from mpx.models.classifier import Classifier
from mpx.randomness import RowRandom


@dataclass(frozen=True)
class ExplainerContext:
    """What an explainer may use besides images, classifier and targets of its B rows."""

    rng: RowRandom  # draws of these B rows
    image_names: list[str]  # of the rows


Explainer = Callable[[Tensor, Classifier, Tensor, ExplainerContext], Tensor]  # with its options bound


def to_saliency(relevance: Tensor) -> Tensor:
    """Map relevance (B,1,H,W) to saliency (B,1,H,W) in [0,1].

    Evidence against the target becomes 0, as in a mask. Relevance has no unit that two methods or images share, so
    each row is divided by its largest value, which keeps the order. A constant row has no evidence and becomes 0. NaN stays.
    """
    positive = relevance.clamp(min=0)
    largest = positive.amax((1, 2, 3), keepdim=True)
    is_constant = relevance.amax((1, 2, 3), keepdim=True) == relevance.amin((1, 2, 3), keepdim=True)
    return torch.where((largest == 0) | is_constant, 0.0, positive / largest)


def split_rows(max_batch: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield tensors of B rows in parts of at most `max_batch` rows."""
    return zip(*(tensor.split(max_batch) for tensor in tensors))


def captum_attr(explainer: str) -> ModuleType:
    """Import captum.attr, an optional dependency, for the explainer of this name."""
    try:
        import captum.attr
    except ImportError:
        raise ValueError(f'explainer={explainer} needs Captum: pip install "mpx[baselines]"') from None
    return captum.attr
