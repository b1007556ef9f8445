"""Regression: a network that predicts numbers (B,) or (B,K); people read the predicted value of output `target`."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpx.data.targets import Target, TargetContext
from mpx.operators import unwrap
from mpx.tasks.base import Task, first_tensor

DIRECTIONS = ("up", "down", "stay")
LEAST_CHANGE = 1e-4  # of a value by full perturbation, as a share of the value: below it, rounding would be explained


def first_name(function: Callable) -> str:
    """Return the name of a function; a lambda has none."""
    name = unwrap(function).__name__
    return "value" if name == "<lambda>" else name


class Regression(Task):
    """The task of a network with K predicted values y of any range.

    direction: what the evidence does to the value. up: it raises the value. down: it lowers it. stay: it holds the value
    where it is. The support is in units of what full perturbation changes, d = |y(image) - y(perturbed)|:

        up  (y - y(perturbed)) / d      down  (y(perturbed) - y) / d      stay  1 - |y - y(image)| / d

    function: maps whatever the network returns for B images to the value (B,); None: the output is the values (B,) or (B,K).
    """

    quantity = "predicted value"
    low = -math.inf
    high = math.inf
    support_unit = "predicted value, in units of what full perturbation changes"
    prepares = True

    def __init__(self, direction: str = "up", function: Callable[[Any], Tensor] | None = None):
        if direction not in DIRECTIONS:
            raise ValueError(f"task.direction={direction!r} must be one of {', '.join(DIRECTIONS)}")
        self.direction = direction
        self.function = function
        if function is not None:
            self.categories = (first_name(function),)

    def output(self, raw: Any, count: int) -> Tensor:
        """Return the predicted values (count,K)."""
        if self.function is not None:
            raw = self.function(raw)
            if not isinstance(raw, Tensor) or raw.shape not in ((count,), (count, 1)):
                actual = tuple(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
                name = first_name(self.function)
                raise ValueError(f"the function {name} must return (B,) numbers, got {actual} for B={count}")
        output = first_tensor(raw)
        return super().output(output[:, None] if output is not None and output.ndim == 1 else raw, count)

    def resolve(self, target: Any, output: Tensor, context: TargetContext) -> list[Target]:
        """Return the indices of the outputs to explain; a network with one output needs no target."""
        targets = target if isinstance(target, list) else [target]
        if targets == ["top1"] and len(output) == 1:
            return [Target(0)]
        if any(isinstance(t, str) and (t.startswith("top") or t == "label") for t in targets):
            raise ValueError(
                f"target={target} ranks classes, and this network predicts {len(output)} values: give an index, 0 to "
                f"{len(output) - 1}, or a name of the model's categories"
            )
        return super().resolve(target, output, context)

    def prepare(
        self, targets: Tensor, output: Tensor, reference: Tensor | None = None, places: Tensor | None = None
    ) -> Tensor:
        """Return (B,3): the index, the image's value, and the fully perturbed image's; 1 below it until that is known."""
        value = output.gather(1, targets[:, None])[:, 0]
        perturbed = value - 1 if reference is None else reference.gather(1, targets[:, None])[:, 0]
        return torch.stack([targets.to(value), value, perturbed], 1)

    def logits(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the support (B,1), and the index 0 of the only answer."""
        value, (_, original, perturbed) = self.value(output, targets), targets.unbind(1)
        unit = (original - perturbed).abs()
        unit = torch.where(unit <= LEAST_CHANGE * original.abs(), math.inf, unit)  # there is nothing to lose
        if self.direction == "stay":
            change = value - original
            towards_perturbed = torch.where(perturbed < original, -change, change)  # |change| has no gradient at the image
            support = 1 - torch.where(change == 0, towards_perturbed, change.abs()) / unit
        else:
            support = (value - perturbed) / (unit if self.direction == "up" else -unit)
        return support[:, None], torch.zeros_like(support, dtype=torch.long)

    def value(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the predicted values (B,) of the targets."""
        return output.gather(1, targets[:, :1].long())[:, 0]
