"""The contract of a task: what of a network's output is explained, and the one number that people read."""

from typing import Protocol

from torch import Tensor


class Task(Protocol):
    """How logits and targets become the number that tables and pictures show.

    quantity: the word for that number; low and high: its range.
    """

    quantity: str
    low: float
    high: float

    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Map logits (B,K) and targets (B,) to the number (B,) that people read."""
        ...
