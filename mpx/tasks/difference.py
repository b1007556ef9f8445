"""Difference: why class A rather than class B; people read the probability of A if it is one of the two."""


import torch
from torch import Tensor

from mpx.data.targets import Categories
from mpx.tasks.classification import Classification


class Difference(Classification):
    """The task of a classifier that is asked why the target rather than another class: the softmax of the two logits.

    other: index of the other class; None: the class with the highest logit besides the target.
    """

    support_unit = "softmax of the target and the other class"
    prepares = True

    def __init__(self, other: int | None = None):
        self.other = other

    def name(self, target: int, categories: Categories) -> str:
        """Return the target's name and the other class's."""
        other = "the next class" if self.other is None else super().name(self.other, categories)
        return f"{super().name(target, categories)} rather than {other}"

    def prepare(self, targets: Tensor, output: Tensor, reference: Tensor | None = None) -> Tensor:
        """Return (B,2): the target and the other class."""
        if self.other is None:
            others = output.scatter(1, targets[:, None], -torch.inf).argmax(1)
        else:
            if not 0 <= self.other < output.shape[1] or (targets == self.other).any():
                last = output.shape[1] - 1
                raise ValueError(f"task.other={self.other} must be a class, 0 to {last}, other than the target")
            others = torch.full_like(targets, self.other)
        return torch.stack([targets, others], 1)

    def logits(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (B,2) of the two classes; the answer is the first."""
        return output.gather(1, targets), torch.zeros_like(targets[:, 0])

    def answers(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities (B,2) of the two classes."""
        return output.gather(1, targets).softmax(1), targets

    def logit(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the target's logit minus the other class's, (B,)."""
        first, second = output.gather(1, targets).unbind(1)
        return first - second
