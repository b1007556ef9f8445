"""Difference: why class A rather than class B, or why by this model and not by that one.

People read the probability of A if it is one of the two; or that the class is this model's, if it is one model's alone.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mpx.data.targets import Categories, Target, TargetContext
from mpx.models.bare import as_classifier
from mpx.models.classifier import Classifier
from mpx.tasks.base import Answer
from mpx.tasks.classification import CLASSIFICATION, Classification


class Difference(Classification):
    """The task of a classifier that is asked why the target rather than another class: the softmax of the two logits.

    other: index or name of the other class; None: the class with the highest logit besides the target. both: whether the
    other class rather than the target is explained too, as a row of its own. The place of a target is the index of its other
    class.
    """

    support_unit = "softmax of the target and the other class"
    chance = 0.5
    class_options = ("other",)
    prepares = True

    def __init__(self, other: int | str | None = None, both: bool = False):
        self.other: Any = other
        self.is_paired = both

    def target_choices(self, output: Tensor) -> list[int]:
        """Return the classes besides the other one."""
        return [index for index in super().target_choices(output) if index != self.other]

    def resolve(self, target: Any, output: Tensor, context: TargetContext) -> list[Target]:
        """Return classes, each with its other class; with `both` the other class follows. output: (K,)."""
        indices = [one.index for one in super().resolve(target, output, context)]
        others = self._others(torch.tensor(indices, device=output.device), output.expand(len(indices), -1)).cpu()
        targets = [Target(index, other) for index, other in zip(indices, others)]
        if not self.is_paired:
            return targets
        if len(targets) > 1:
            raise ValueError(f"task.both=true explains one target and its other class: target={target} names {len(targets)}")
        return [targets[0], Target(int(others[0]), torch.tensor(indices[0]))]

    def name(self, target: int, categories: Categories, place: Tensor | None = None) -> str:
        """Return the target's name and the other class's."""
        other = self.other if place is None else int(place)
        named = "the next class" if other is None else super().name(other, categories)
        return f"{super().name(target, categories)} rather than {named}"

    def prepare(
        self, targets: Tensor, output: Tensor, reference: Tensor | None = None, places: Tensor | None = None
    ) -> Tensor:
        """Return (B,2): the target and the other class. places: (B,) other classes."""
        others = self._others(targets, output) if places is None else places.to(targets)
        return torch.stack([targets, others], 1)

    def _others(self, targets: Tensor, output: Tensor) -> Tensor:
        """Return the other class (B,) of each target. output: (B,K)."""
        if self.other is None:
            return output.scatter(1, targets[:, None], -torch.inf).argmax(1)
        if not 0 <= self.other < output.shape[1] or (targets == self.other).any():
            last = output.shape[1] - 1
            raise ValueError(f"task.other={self.other} must be a class, 0 to {last}, other than the target")
        return torch.full_like(targets, self.other)

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


class ModelDifference(Classification):
    """The task of a classifier that is asked why it gives the target, and another classifier of the same classes does not.

    The logits are the log-odds of the target in both models, log p / (1 - p) and log q / (1 - q), for logits of two networks
    have no common zero. Their softmax p (1 - q) / (p (1 - q) + q (1 - p)) is the probability that the target is the model's
    answer if it is the answer of only one, where each model answers at random with its own probabilities.

    model: the other one, an mpx.Classifier, an nn.Module of logits (B,K), or the name of one of torchvision's. It gets the
    same images, in [0,1], of the first model's size. An output is (B,2,K): the other model's, then the model's.
    """

    support_unit = "softmax of the log-odds of the target in the model and in the other one"
    chance = 0.5

    def __init__(self, model: nn.Module | str):
        self.model: Any = model
        named = model.name if isinstance(model, Classifier) else model
        self.other_name = named if isinstance(named, str) else type(named).__name__

    def for_model(self, model: Classifier) -> "ModelDifference":
        """Return the task without the other model, which the Classifier holds."""
        task = copy.copy(self)
        task.model = None
        return task

    def compared_models(self) -> tuple[Classifier, ...]:
        """Return the other model."""
        return (as_classifier(self.model).with_task(CLASSIFICATION),) if self.model is not None else ()

    def join(self, output: Tensor, other: Tensor) -> Tensor:
        """Return the logits (B,2,K) of the other model and of the model, from logits (B,K) of each."""
        if other.shape != output.shape:
            raise ValueError(
                f"task=difference compares models of the same classes: the model has {output.shape[1]}, and "
                f"{self.other_name} {other.shape[1]}"
            )
        return torch.stack([other, output], 1)

    def class_count(self, output: Tensor) -> int:
        """Return the number of classes."""
        return output.shape[2]

    def check(self, output: Tensor, pair: Tensor | None, name: str) -> None:
        """Refuse a model of another task, as in classification; the other model is checked by itself."""
        with torch.enable_grad():  # so that the part keeps the graph
            own = output[:, 1]
        super().check(own, None if pair is None else pair[:, 1], name)

    def resolve(self, target: Any, output: Tensor, context: TargetContext) -> list[Target]:
        """Return classes; top1, top2, ... are the model's own. output: (2,K)."""
        return super().resolve(target, output[1], context)

    def name(self, target: int, categories: Categories, place: Tensor | None = None) -> str:
        """Return the class's name and the other model's."""
        return f"{super().name(target, categories)}, unlike {self.other_name}"

    def logits(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-odds (B,2) of the target in the two models; the answer is the second, the model's."""
        index = targets[:, None, None].expand(-1, 2, 1)
        others = output.scatter(2, index, -torch.inf).logsumexp(2)
        return output.gather(2, index)[..., 0] - others, torch.ones_like(targets)

    def top_answers(self, output: Tensor, targets: Tensor, categories: Categories, count: int = 5) -> list[list[Answer]]:
        """Return none: the alternative is the other model, not another class."""
        return [[] for _ in targets]

    def logit(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the log-odds of the target in the model minus those in the other one, (B,)."""
        other, own = self.logits(output, targets)[0].unbind(1)
        return own - other


def difference(
    other: int | str | None = None, model: nn.Module | str | None = None, both: bool = False
) -> Difference | ModelDifference:
    """Return the task of two classes, or of two models."""
    if model is None:
        return Difference(other, both)
    if other is not None or both:
        named = f"task.other={other}" if other is not None else "task.both=true"
        raise ValueError(f"{named} and task.model are two differences: give one of them")
    return ModelDifference(model)
