"""The contract of a task: what of a network's output is explained, and the one number that people read.

A network's output becomes one tensor (B,...) by `output`. With the targets of its rows, `logits` reads it as the logits
(B,K) of exclusive answers, of which one is the target's. The scores need no more, whatever the task is. A number that
has no alternatives, such as a predicted value, is the logit of the only answer (K = 1).
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mpx.data.targets import ANY_CLASS, Categories, Target, TargetContext, class_index, resolve_targets

if TYPE_CHECKING:
    from mpx.models.classifier import Classifier

THREE_DECIMALS = ("probability", "score of the box", "similarity")  # quantities with a range
# computations that only move numbers, by the names of their nodes in autograd's graph
MOVES = ("Cat", "View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Alias", "ToCopy", "Transpose", "Permute", "Clone",
         "Stack", "Select")  # fmt: skip


class Answer(NamedTuple):
    """One of the answers of a network, such as a class, and the number that people read."""

    name: str
    value: float
    is_target: bool


class Task:
    """A task; a subclass has `logits`, and the other methods where they differ from these.

    quantity: what the number that people read (`value`) is called; low, high: its range.
    support_unit: what `support`, from which metrics are computed, measures; in words, for messages and summary.json.
    """

    quantity = "probability"
    low = 0.0
    high = 1.0
    chance = 0.0  # the value where a network knows nothing, if it is the same for all
    support_unit = "softmax probability of the target"
    categories: tuple[str, ...] | None = None  # names of the outputs, where they are not the model's categories
    prepares = False  # whether `prepare` reads the outputs
    class_options: tuple[str, ...] = ()  # attributes that hold the index of a class, or its name until the model is known
    is_paired = False  # whether an image has two rows, a target and its opposite, which pictures show together
    is_placed = False  # whether a target lies at a place in the image, which a crop moves and where another class may not be

    def output(self, raw: Any, count: int) -> Tensor:
        """Return what a network gave for `count` images as one tensor (count, classes); ValueError where it does not fit."""
        output = first_tensor(raw)
        if output is None or output.ndim != 2 or len(output) != count:
            actual = type(raw).__name__ if output is None else tuple(output.shape)
            hint = "" if output is not None and output.ndim == 2 else fitting_task(raw)
            raise ValueError(f"model output must be (B, classes), got {actual} for B={count}{hint}")
        return output

    def for_model(self, model: "Classifier") -> "Task":
        """Return this task for a model, which is frozen meanwhile."""
        return self

    def with_categories(self, categories: Categories) -> "Task":
        """Return this task with the indices of the classes that its `class_options` name; categories: of the model."""
        names = {option: vars(self)[option] for option in self.class_options if isinstance(vars(self)[option], str)}
        if not names:
            return self
        task, classes = copy.copy(self), len(categories) if categories else ANY_CLASS
        vars(task).update({key: class_index(name, classes, categories, f"task.{key}") for key, name in names.items()})
        return task

    def compared_models(self) -> tuple["Classifier", ...]:
        """Return the Classifier that the model is compared with, as the only one; none by default."""
        return ()

    def join(self, output: Tensor, other: Tensor) -> Tensor:
        """Return the outputs (B,...) of the model and of the one that it is compared with as one."""
        raise NotImplementedError

    def class_count(self, output: Tensor) -> int | None:
        """Return the number of classes of an output (B,...); None where that is unknown."""
        return output.shape[1]

    def target_choices(self, output: Tensor) -> list[int]:
        """Return the indices that a target may have, of an output (B,...); none where they are unknown."""
        return list(range(self.class_count(output) or 0))

    def is_empty(self, output: Tensor) -> bool:
        """Return whether the output (1,...) of an image says nothing about it, and so has no gradient."""
        return False

    def comparable(self, output: Tensor) -> Tensor:
        """Return the part of an output (B,...) that does not change when other images are in the batch."""
        return output

    def check(self, output: Tensor, pair: Tensor | None, name: str) -> None:
        """Raise ValueError where a model's output is of another task.

        output: (1,...) of an image, with its graph; pair: (2,...) of two images or None; name: of the model.
        """

    def resolve(self, target: Any, output: Tensor, context: TargetContext) -> list[Target]:
        """Return the targets that one word or a list of them names (`mpx.data.targets`).

        output: (...) of one image. Raises NotInImageError where the image lacks them, ValueError where any image would.
        """
        return [Target(index) for index in resolve_targets(target, output, context.label, context.categories)]

    def name(self, target: int, categories: Categories, place: Tensor | None = None) -> str:
        """Return the readable name of a class, "class <index>" where the model has no names; place: of the target."""
        return class_name(target, categories)

    def prepare(
        self, targets: Tensor, output: Tensor, reference: Tensor | None = None, places: Tensor | None = None
    ) -> Tensor:
        """Return what the methods below take as targets, (B,) or (B,T).

        targets: (B,) indices; output: (B,...) of the images; reference: of the fully perturbed images, once it is known;
        places: (B,...) of the targets, None where only their indices are known.
        """
        return targets

    def logits(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (B,K) of exclusive answers, and the index (B,) of each target's answer."""
        raise NotImplementedError

    def logit(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the logit (B,) of each target's answer."""
        logits, answers = self.logits(output, targets)
        return logits.gather(1, answers[:, None])[:, 0]

    def support(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return how strongly the output supports each target, (B,): its probability, or the logit of the only answer.

        Metrics and games are in this unit, in which 1 is a lot, 0 nothing.
        """
        return probability(*self.logits(output, targets))

    def value(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the number (B,) that people read."""
        return self.support(output, targets)

    def answers(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the values (B,K) of all answers and their classes (B,K); None where the target has no alternatives."""
        return None

    def top_answers(self, output: Tensor, targets: Tensor, categories: Categories, count: int = 5) -> list[list[Answer]]:
        """Return the answers with the highest values of each row, at most `count`. Pictures show them."""
        answers = self.answers(output, targets)
        if answers is None:
            return [[] for _ in targets]
        values, ranks = answers[0].topk(min(count, answers[0].shape[1]))
        indices = answers[1].gather(1, ranks)
        is_target = indices == targets.view(len(targets), -1)[:, :1]
        return [
            [Answer(class_name(index, categories), *numbers) for index, *numbers in zip(*row)]
            for row in zip(indices.tolist(), values.tolist(), is_target.tolist())
        ]

    def region_of(self, targets: Tensor, size: Sequence[int]) -> Tensor | None:
        """Return where the targets are in images of `size` (H,W), (B,1,H,W) of True and False; None: nowhere in particular.

        targets: as `prepare` returned them. Pictures outline the region.
        """
        return None

    @property
    def is_bounded(self) -> bool:
        """Whether the number that people read has a range, and is the support."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def format(self, value: float) -> str:
        """Return a value as a caption, e.g. "p 0.931"."""
        return f"{caption(self.quantity)} {format_value(self.quantity, value)}"


def class_name(index: int, categories: Categories) -> str:
    """Return the name of a class, or "class <index>" where the model has no names."""
    return categories[index] if categories else f"class {index}"


def all_classes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values (B,K) of all classes and the indices (B,K) from 0 to K-1."""
    return values, torch.arange(values.shape[1], device=values.device).expand_as(values)


def caption(quantity: str) -> str:
    """Return the short word for a quantity in pictures."""
    return "p" if quantity == "probability" else quantity


def format_value(quantity: str, value: float) -> str:
    """Return a value of a quantity: with three decimals where it has a range, in which a very small one is not 0."""
    if quantity in THREE_DECIMALS:
        return "<0.001" if 0 < value < 0.0005 else f"{value:.3f}"
    return f"{value:.4g}"


def probability(logits: Tensor, answers: Tensor) -> Tensor:
    """Return the softmax probability (B,) of answers (B,) from logits (B,K); of an only answer, its logit."""
    values = logits.softmax(-1) if logits.shape[1] > 1 else logits
    return values.gather(1, answers[:, None])[:, 0]


def first_tensor(raw: Any) -> Tensor | None:
    """Return the tensor of a network's output: itself, its `logits`, or the first of several; None where there is none."""
    if hasattr(raw, "logits"):  # foreign: output of Hugging Face, or of torchvision's networks with auxiliary heads
        raw = raw.logits
    elif isinstance(raw, (tuple, list)) and raw:
        raw = raw[0]
    return raw if isinstance(raw, Tensor) else None


def fitting_task(raw: Any) -> str:
    """Return which task fits a network's output, as the end of a sentence."""
    output = first_tensor(raw)
    dimensions = 0 if output is None else output.ndim
    if hasattr(raw, "image_embeds"):  # foreign: CLIP of Hugging Face
        return ": set task=similarity"
    is_list = isinstance(raw, list) and bool(raw) and isinstance(raw[0], Mapping)
    if is_list or hasattr(raw, "pred_boxes") or isinstance(raw, (list, tuple)) and dimensions == 3:  # foreign: DETR
        return ": set task=detection"
    if isinstance(raw, Mapping) and isinstance(raw.get("out"), Tensor) or dimensions == 4:
        return ": set task=segmentation"
    if output is None and isinstance(raw, Mapping):
        readers = "task=segmentation reads the key 'out', task=detection a list of dicts"
        return f" with {', '.join(map(repr, raw))}: {readers}; for any other task let the network return the tensor"
    return {1: ": set task=regression", 2: ": set task=classification"}.get(dimensions, "")


def are_shares(values: Any, counts: Sequence[int]) -> bool:
    """Return whether values are a list of numbers from 0 to 1, as many as one of `counts`."""
    is_list = isinstance(values, Sequence) and len(values) in counts
    return is_list and all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in values)


def repeat_rows(targets: Tensor, count: int) -> Tensor:
    """Return targets (B,...) `count` times, (count*B,...)."""
    return targets.repeat(count, *[1] * (targets.ndim - 1))


def ends_with(output: Tensor, function: str) -> bool:
    """Return whether the last computation of an output with a graph is this function, e.g. "Sigmoid"."""
    node = output.grad_fn
    while node is not None and node.name().startswith(MOVES):
        node = node.next_functions[-1][0]
    return node is not None and node.name().startswith(function)
