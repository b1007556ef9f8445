"""What all operators share: unwrapping of bound options, and the declaration that `area=` is needed.

An operator is a plain function, or a class, that maps tensors to tensors. mpx.config binds its options with
functools.partial. The contract of each kind, and the context object that its operators receive, stands in one module:

perturbation  mpx.perturbations.base        mask       mpx.masks.base         score      mpx.scores
regularizer   mpx.regularizers              augment    mpx.augmentations      explainer  mpx.explainers.base
optimizer     mpx.learning.optimizers       metric     mpx.metrics.base       task       mpx.tasks.base
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

Operator = TypeVar("Operator", bound=Callable)
_requiring_area: set[Callable] = set()


def unwrap(operator: Callable) -> Callable:
    """Return the function or class behind an operator whose options are bound."""
    while isinstance(operator, partial):
        operator = operator.func
    return operator


def needs_area(operator: Operator) -> Operator:
    """Declare that an operator uses the requested area (`area=`), so that a method without one is refused. A decorator."""
    _requiring_area.add(operator)
    return operator


def requires_area(operator: Callable) -> bool:
    """Return whether the operator was declared with `needs_area`."""
    return unwrap(operator) in _requiring_area
