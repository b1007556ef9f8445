"""Classification: logits (B,K) of K exclusive classes; people read the softmax probability of the target class."""

from torch import Tensor

from mpx.tasks.base import Task, all_classes, ends_with


class Classification(Task):
    """The task of a classifier with a softmax over its classes."""

    def check(self, output: Tensor, pair: Tensor | None, name: str) -> None:
        """Refuse a single logit, and outputs of a softmax or a sigmoid."""
        if output.shape[1] < 2:
            raise ValueError(
                f"model {name} gives a single number, whose softmax is always 1: set task=multilabel if it is the logit of "
                "yes against no, task=regression if it is a predicted value"
            )
        if ends_with(output, "Sigmoid"):
            raise ValueError(
                f"model {name} gives sigmoids, each a probability of its own: set task=multilabel task.probabilities=true"
            )
        if pair is not None and (pair >= 0).all() and (pair.sum(1) - 1).abs().max() < 1e-3:
            raise ValueError(
                f"model {name} gives probabilities, and mpx takes the softmax itself: remove the network's last softmax, or "
                "return the logarithm of its output"
            )

    def logits(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (B,K) and the target classes (B,), as they are."""
        return output, targets

    def answers(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the softmax probabilities of all classes."""
        return all_classes(output.softmax(1))


CLASSIFICATION = Classification()
