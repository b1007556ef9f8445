"""The contract of a metric: the quality of a saliency map, as one number or several for each row.

A metric is a function `(saliency (B,1,H,W) in [0,1], high where the evidence is, context: MetricContext, **options)`. It
returns (B,), or a dict suffix -> (B,) in which "" is the main value; NaN marks a row without a value. In results.csv the
columns are `<metric>` and `<metric>_<suffix>`. A suffix with an @ is one point of a curve or grid: it is stored with the row
and used by the summary, and has no column.

The decorator `metric` declares what the numbers mean; an undecorated function is a metric without direction:

    @metric(direction="lower", needs=("perturbations",))
    def score(saliency: Tensor, context: MetricContext, max_batch: int = 64) -> Tensor: ...
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from mpx.data.annotations import Annotation
from mpx.masks.evidence import mask_of
from mpx.metrics.summary import RowValues, SummaryContext, mean_with_interval
from mpx.models.classifier import Classifier
from mpx.operators import check_shape, dotted_name, unwrap
from mpx.option_values import check_options
from mpx.tasks.base import Task
from mpx.tasks.classification import CLASSIFICATION

Direction = Literal["higher", "lower", "near 0", "none"]  # which values are better
Need = Literal["annotations", "perturbations", "explain", "probability", "classes", "parameters"]
Summary = Callable[..., dict[str, RowValues]]  # (columns: suffix -> (N,), context: SummaryContext, **the metric's options)
Function = TypeVar("Function", bound=Callable)


class Explain(Protocol):
    """Explains the same B rows again, in their order, with other images, targets, parameters or seed."""

    def __call__(self, classifier: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor, seed: int) -> Tensor:
        """Return the saliency (B,1,H,W) in [0,1]."""
        ...


def unavailable(classifier: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor, seed: int) -> Tensor:
    """Stand for `explain` where rows cannot be explained again."""
    raise ValueError("these rows cannot be explained again: choose a metric of single maps")


@dataclass(frozen=True, eq=False)
class MetricContext:
    """What a metric may use besides the saliency of its B rows."""

    classifier: Callable[[Tensor], Tensor]  # images (N,C,H,W) in [0,1] -> output (N,...); a Classifier is frozen meanwhile
    images: Tensor  # (B,C,H,W) in [0,1]
    targets: Tensor  # (B,) the class index, or that of another task, that each row explains
    game: str = "deletion"  # the game that the mask was learnt for
    mask: Tensor | None = None  # (B,1,H,W) that was learnt, whose order the saliency refines; None: that of the saliency
    annotations: Sequence[Annotation | None] = ()  # of each row; None where the dataset has none for the class
    perturbations: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    # name -> (images -> fully perturbed images); the first is the one that the mask was learnt with
    value_normalised: Tensor | None = None  # (B,) of the mask as it was optimized and evaluated, where known
    explain: Explain = unavailable
    task: Task = CLASSIFICATION
    places: Tensor | None = None  # (B,...) of the targets, as the task found them; None: it finds them again

    @cached_property
    @torch.no_grad()
    def prepared_targets(self) -> Tensor:
        """(B,) or (B,T): what the methods of the task take as targets. Its reference is the first perturbation's."""
        if not self.task.prepares:
            return self.targets
        perturb = next(iter(self.perturbations.values()), None)
        output = self.classifier(self.images).float()
        reference = None if perturb is None else self.classifier(perturb(self.images)).float()
        return self.task.prepare(self.targets, output, reference, self.places)

    def mask_for(self, saliency: Tensor) -> Tensor:
        """Return the mask (B,1,H,W) that was learnt; of a saliency map alone, the mask whose evidence it is."""
        return mask_of(saliency, self.game) if self.mask is None else self.mask

    def support(self, images: Tensor, rows: Tensor) -> Tensor:
        """Return how strongly the network's output for images (N,C,H,W) supports the targets of rows (N,): (N,)."""
        return self.task.support(self.classifier(images).float(), self.prepared_targets[rows])


def check_task(name: str, needs: Sequence[Need], task: Task) -> None:
    """Raise ValueError where a metric does not apply to a task."""
    is_probability = task.is_bounded and task.low == 0
    if "probability" in needs and not (is_probability and not task.is_placed):
        raise ValueError(
            f"metric {name} needs a probability of a whole image, and this task has another number ({task.support_unit}): "
            "leave it out"
        )
    if "classes" in needs and task.is_placed:
        raise ValueError(f"metric {name} explains another class, which may not be at the target's place: leave it out")


def check_network(name: str, needs: Sequence[Need], network: Callable, task: Task, output: Tensor) -> None:
    """Raise ValueError where a metric does not apply to a network with this output (B,...)."""
    if "classes" in needs and len(task.target_choices(output)) < 2:
        raise ValueError(f"metric {name} explains another class too, and this network has only one to explain: leave it out")
    if "parameters" in needs and not (isinstance(network, nn.Module) and [*network.parameters()]):
        raise ValueError(f"metric {name} randomises parameters, and this network has none: leave it out")


@dataclass(frozen=True)
class Metric:
    """A metric's function with its options bound, and the meaning of its numbers.

    direction: which values are better; a dict has one for each suffix, and its "" holds for the suffixes that it lacks.
    needs: the optional parts of the context that the function uses; probability: a task whose number is one of the whole
        image; classes: a task of which another class can be explained too; parameters: a network that has some.
    notes: how the number is computed, beside the options; stored with every result.
    package: the module that the function imports and mpx does not bring, and what pip installs for it.
    summary: how rows become a summary, where that is more than the mean over rows.
    """

    function: Callable[..., Tensor | dict[str, Tensor]]
    direction: Direction | dict[str, Direction] = "none"
    needs: tuple[Need, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    summary: Summary | None = None
    package: tuple[str, str] | None = None

    def if_installed(self, name: str) -> "Metric":
        """Return this metric; ValueError where its package is not installed. name: of the metric in the configuration."""
        if self.package and find_spec(self.package[0]) is None:
            raise ValueError(f'metric={name} needs a package that is not installed: pip install "{self.package[1]}"')
        return self

    def __post_init__(self) -> None:
        directions = self.direction.values() if isinstance(self.direction, dict) else [self.direction]
        for kind, values in ((Direction, directions), (Need, self.needs)):
            if unknown := [value for value in values if value not in get_args(kind)]:
                raise ValueError(f"metric {self.name}: {unknown[0]!r} must be one of {', '.join(get_args(kind))}")

    def __call__(self, saliency: Tensor, context: MetricContext) -> dict[str, Tensor]:
        """Return suffix -> (B,) float32 on the saliency's device."""
        available = {
            "annotations": len(context.annotations) == len(saliency),
            "perturbations": len(context.perturbations) > 0,
            "explain": context.explain is not unavailable,
        }
        check_task(self.name, self.needs, context.task)
        if missing := [need for need in self.needs if not available.get(need, True)]:
            raise ValueError(f"metric {self.name} needs {' and '.join(missing)}, which is missing here: leave it out")
        with _evaluating(context.classifier):
            values = self.function(saliency, context)
        columns = values if isinstance(values, dict) else {"": values}
        for suffix, column in columns.items():
            kind = f"suffix {suffix!r} of metric" if suffix else "metric"
            check_shape(kind, self.function, column, "(B,)", (len(saliency),))
        return {suffix: column.float().to(saliency.device) for suffix, column in columns.items()}

    def summarise(self, columns: Mapping[str, np.ndarray], context: SummaryContext) -> dict[str, Any]:
        """Return {"value", "interval95", "n"} of the main value and, in "parts", of each suffix; columns: suffix -> (N,)."""
        if self.summary is None:
            rows = {suffix: RowValues(values) for suffix, values in columns.items() if "@" not in suffix}
        else:
            rows = self.summary(columns, context, **self.options)
        parts = {
            suffix: {**mean_with_interval(row.values, row.groups, context.image_indices), **row.notes}
            for suffix, row in rows.items()
        }
        main = parts.pop("", {"value": None, "interval95": None, "n": 0})
        return {**main, "parts": parts} if parts else main

    def direction_of(self, suffix: str) -> Direction:
        """Return which values of a suffix are better."""
        if isinstance(self.direction, dict):
            return self.direction.get(suffix, self.direction.get("", "none"))
        return self.direction

    @property
    def name(self) -> str:
        """The dotted name of the function."""
        return dotted_name(self.function)

    @property
    def options(self) -> dict[str, Any]:
        """Every option with its value, bound or by default."""
        parameters = list(inspect.signature(self.function).parameters.values())[2:]
        options = {p.name: p.default for p in parameters if p.default is not p.empty}
        return {name: list(v) if isinstance(v, Sequence) and not isinstance(v, str) else v for name, v in options.items()}

    @property
    def protocol(self) -> dict[str, Any]:
        """The function, options and notes, which are stored with the numbers."""
        return {"function": self.name, "options": self.options, **self.notes}


_declarations: dict[Callable, Metric] = {}


def metric(
    direction: Direction | dict[str, Direction] = "none",
    needs: Sequence[Need] = (),
    notes: dict[str, str] | None = None,
    summary: Summary | None = None,
    package: tuple[str, str] | None = None,
) -> Callable[[Function], Function]:
    """Declare what a metric function's numbers mean; the parameters are those of `Metric`. A decorator."""

    def declare(function: Function) -> Function:
        _declarations[function] = Metric(function, direction, tuple(needs), notes or {}, summary, package)
        return function

    return declare


def as_metric(function: Callable) -> Metric:
    """Return the `Metric` of a function or a partial of one, whose options are checked, by its declaration if it has one."""
    if isinstance(function, Metric):
        return function
    if isinstance(function, partial):
        check_options(function, "metric")
    return replace(_declarations.get(unwrap(function), Metric(function)), function=function)


def measure(metrics: Mapping[str, Callable], saliency: Tensor, context: MetricContext) -> dict[str, Tensor]:
    """Return the values of several metrics: column (name, or name_suffix) -> (B,)."""
    columns = {}
    for name, function in metrics.items():
        for suffix, values in as_metric(function)(saliency, context).items():
            columns[column_name(name, suffix)] = values
    return columns


def column_name(name: str, suffix: str) -> str:
    """Return the column of a metric's suffix."""
    return f"{name}_{suffix}" if suffix else name


@contextmanager
def _evaluating(classifier: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Freeze a Classifier; refuse another network in training mode, whose batch norms would learn from the images."""
    if isinstance(classifier, Classifier):
        with classifier.frozen():
            yield
        return
    if isinstance(classifier, torch.nn.Module) and classifier.training:
        raise ValueError(f"{type(classifier).__name__} is in training mode: call eval(), or wrap it in mpx's Classifier")
    yield
