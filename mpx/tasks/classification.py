"""Classification: logits (B,K) of K exclusive classes; people read the softmax probability of the target class."""

from torch import Tensor


class Classification:
    """The task of a classifier with a softmax over its classes."""

    quantity = "probability"
    low = 0.0
    high = 1.0

    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the softmax probability (B,) of the targets (B,) from logits (B,K)."""
        return logits.softmax(-1).gather(1, targets[:, None])[:, 0]


CLASSIFICATION = Classification()
