"""The contract of an explainer: a method that learns no mask, to compare masks with.

An explainer is a function `(images (B,C,H,W) in [0,1], classifier, targets (B,), context: ExplainerContext, **options)` that
returns the relevance (B,1,H,W): any real numbers, higher where there is more evidence for the target. The relevance of a row
does not depend on the other rows. The classifier is frozen and stays as it was. At most `max_batch` images go through it at
once.
"""

from dataclasses import dataclass

from mpx.randomness import RowRandom


@dataclass(frozen=True)
class ExplainerContext:
    """What an explainer may use besides images, classifier and targets of its B rows."""

    rng: RowRandom  # draws of these B rows
    names: list[str]  # of the rows' images
