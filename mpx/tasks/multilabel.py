"""Multi-label classification: logits (B,K) of K labels that do not exclude each other; people read a label's sigmoid."""

from typing import Any

import torch
from torch import Tensor

from mpx.tasks.base import Task, all_classes, ends_with


class Multilabel(Task):
    """The task of a network with a sigmoid for each label.

    A single logit (B,1) is that of yes against no: label 0 is "no" and label 1 "yes". probabilities: whether the network
    gives the sigmoids (B,K) instead of their logits.
    """

    support_unit = "sigmoid of the target label"

    def __init__(self, probabilities: bool = False):
        self.probabilities = probabilities

    def output(self, raw: Any, count: int) -> Tensor:
        """Return the logits (count,K) of the labels."""
        output = super().output(raw, count)
        if self.probabilities:
            output = torch.logit(output, eps=1e-6)
        return torch.cat([-output, output], 1) if output.shape[1] == 1 else output

    def check(self, output: Tensor, pair: Tensor | None, name: str) -> None:
        """Refuse sigmoids that are taken for logits, and a softmax."""
        if ends_with(output, "Sigmoid") and not self.probabilities:
            raise ValueError(f"model {name} gives sigmoids, and mpx takes the sigmoid itself: set task.probabilities=true")
        if ends_with(output, "Softmax"):
            raise ValueError(f"model {name} gives a softmax, whose classes exclude each other: set task=classification")

    def logits(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (B,2) of the label's absence and presence; the answer of the target is presence."""
        logit = output.gather(1, targets[:, None])
        return torch.cat([torch.zeros_like(logit), logit], 1), torch.ones_like(targets)

    def answers(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sigmoids of all labels."""
        return all_classes(output.sigmoid())
