"""What can be chosen: plain functions on tensors, each in one room by its kind, with a small YAML in configs/.

Beyond what its kind is always given, an operator asks for more by the names of its parameters:

perturbation  rng, classifier, targets (B,)
mask          image_size, device, shape (of one row's mask, where it is not pixels), photos, area (asked of each row), game
score         original (the photo's logits), sign (1: minimised, -1: maximised)
regularizer   full (the evidence at full size), parameter, photos, area (asked), iteration, site (what was prepared),
              framed (the evidence and what mask kinds have around the image), inside (how many of its values lie within)
augment       rng, iteration
optimizer     objective (parameter -> (B,), without gradient), project (parameter, in place), area, game

`iteration` is (B,), each row's own: rows may enter a batch that is on its way. They can where the classes of the site
(perturbations.py) and the mask kind declare `per_row`, the names of all their attributes that are tensors of B rows.
"""

import inspect
from functools import lru_cache


def offer(function, *given, **available):
    """function(*given, ...) with those of the available things that its parameters name."""
    return function(*given, **{name: value for name, value in available.items() if name in names(function)})


def asks(function, name: str) -> bool:
    """Whether it cannot do without."""
    parameter = inspect.signature(function).parameters.get(name)
    return parameter is not None and parameter.default is parameter.empty


@lru_cache(maxsize=128)
def names(function) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
