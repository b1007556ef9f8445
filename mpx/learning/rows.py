"""Rows: one problem each, of an image, a target and, where the method needs one, an area."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mpx.data.annotations import Annotation, Region
from mpx.data.targets import Target, TargetContext
from mpx.models.classifier import Classifier

if TYPE_CHECKING:
    from mpx.learning.objective import Objective


@dataclass(frozen=True)
class Row:
    """One problem to solve."""

    image: Tensor  # (C,H,W) in [0,1]
    target: int  # class index
    image_name: str
    area: float | None = None  # requested share of the image
    place: Tensor | None = None  # of the target, as its task found it
    number: int = 1  # of the target among those of its class in the image
    region: Region | None = None  # of the object alone, where the target is one of the dataset's
    image_index: int = 0  # of the image in its dataset
    annotation: Annotation | None = None  # where the target is, where the dataset says so
    regions: dict[int | str, Region] = field(default_factory=dict)  # label -> Region, all of the image
    provenance: dict[str, Any] = field(default_factory=dict)  # stored with the row; a resumed run recognises the row by it

    @property
    def key(self) -> str:
        """The row's name among the rows of its image."""
        target = Target(self.target, number=self.number).key
        return target if self.area is None else f"{target} {self.area:g}"


@torch.no_grad()
def rows_of_image(
    classifier: Classifier, image: Tensor, name: str, target: Any, areas: Sequence[float | None], context: TargetContext
) -> list[Row]:
    """Return a row for each target and area of one image (C,H,W). target: an index, a name, "top2", or a list of these."""
    output = classifier(image[None].to(classifier.device))[0]
    if not output.isfinite().all():
        raise ValueError(f"{name}: the output of model {classifier.name} is NaN or infinite on the untouched photo")
    rows = []
    for one in classifier.task.resolve(target, output, context):
        place = None if one.place is None else one.place.cpu()
        rows += [Row(image, one.index, name, area, place, one.number, one.region) for area in areas]
    return rows


def annotated(row: Row, context: TargetContext) -> Row:
    """Return the row with where its target is in the image, where the dataset says so."""
    return replace(row, annotation=context.annotate(row.region) if row.region else context.annotation(row.target))


def stacked_places(rows: Sequence[Row]) -> Tensor | None:
    """Return the places (B,...) of the rows' targets, None where their task needs none."""
    places = [row.place for row in rows if row.place is not None]
    return torch.stack(places) if places else None


@dataclass(eq=False)
class RowState:
    """A row that is being optimized, or has been: row `index` of the batch in which it was prepared."""

    objective: "Objective"  # of that batch
    index: int
    parameter: Tensor  # (1,...)
    snapshot_iterations: Sequence[int]  # at which snapshots are taken
    snapshots: list[Tensor]  # (1,...) parameters; the last one is the result
    parameter_sum: Tensor  # (1,...) over its iterations
    iteration: int = 0  # completed
    finished: bool = False
    is_finite: bool = True  # whether an explainer's relevance is
    history: dict[str, Tensor] = field(default_factory=dict)  # term -> (steps,)
    objective_means: list[float] = field(default_factory=list)  # between two checks of the stopping rule
    step_scale: float = 1.0  # share of the optimizer's step that is taken
    optimizer_state: dict[str, Any] = field(default_factory=dict)
    passes: float = 0.0  # forward and backward through the network
    forwards: float = 0.0  # forward alone
    seconds: float = 0.0  # time of the rows that were optimized together, shared out
    started: float = 0.0  # unix time at which the row was prepared
    duration: float = 0.0  # seconds of wall time from then to its last iteration

    @property
    def image_name(self) -> str:
        return self.objective.image_names[self.index]

    @property
    def support_drop(self) -> float:
        """The support that full perturbation takes."""
        return float(self.objective.support_before[self.index] - self.objective.support_reference[self.index])

    def add_cost(self, passes: float, forwards: float) -> None:
        """Add what the row's batch spent on each of its rows."""
        self.passes += passes
        self.forwards += forwards


@contextmanager
def shared_time(rows: Sequence[RowState]) -> Iterator[None]:
    """Share the time spent within this context out among rows."""
    start = time.perf_counter()
    yield
    for row in rows:
        row.seconds += (time.perf_counter() - start) / len(rows)
        row.duration = time.time() - row.started
