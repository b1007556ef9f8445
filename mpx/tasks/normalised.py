"""The normalised support p' of Fong & Vedaldi 2017, footnote 4."""

import math
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # tables of numbers need no torch
    from torch import Tensor

MIN_DROP = 0.01  # support that full perturbation must cost for p' to have a value
Number = TypeVar("Number", float, "Tensor")


def normalise(p: Number, p_before: Number, p_reference: Number, min_drop: float = MIN_DROP) -> Number:
    """Return (p - p_reference) / (p_before - p_reference): 1 at the image's support, 0 at the fully perturbed image's.

    Below 0 the mask takes more than full perturbation does. NaN where full perturbation costs less than `min_drop`, because
    then there is nothing to lose.
    """
    drop = p_before - p_reference
    if isinstance(drop, float):
        return (p - p_reference) / drop if drop >= min_drop else math.nan
    return ((p - p_reference) / drop).where(drop >= min_drop, math.nan)


def within_scale(p: float) -> float:
    """Return p' within [0,1]: no mask is better than perfect, and none makes up for another."""
    return min(max(p, 0.0), 1.0)  # of NaN NaN
