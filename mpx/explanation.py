"""The result: masks of rows, an image and a target each, and the network's values under them."""

import re
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mpx.masks.evidence import evidence_of
from mpx.tasks.base import Answer, Task

if TYPE_CHECKING:
    import pandas
    from PIL import Image

    from mpx.learning.method import Method

SHARED_FIELDS = ("iterations", "game", "task", "method", "batch_size", "bands")  # fields that are not one value for each row


@dataclass
class Explanation:
    """The masks of B rows and the network's values under them. All tensors are on the CPU."""

    names: list[str]  # of the rows, unique and fit for a file name, e.g. "coffee-967-espresso"
    image_names: list[str]
    classes: list[str]  # readable names of the targets
    targets: Tensor  # (B,) class indices
    areas: Tensor  # (B,) requested share of the image; NaN without area=
    images: Tensor  # (B,C,H,W) in [0,1]
    perturbed: Tensor  # (B,C,H,W) the image without its evidence (deletion, dual), or the evidence alone (preservation)
    region: Tensor | None  # (B,1,H,W) of True where the target is, e.g. a box; None where the task knows no place
    complement: Tensor | None  # (B,C,H,W) the image under 1 - mask; None where the mask acts inside the network
    parameter: Tensor  # (B,...) the learnt parameter; for most masks the cells (B,1,h,w)
    mask: Tensor  # (B,1,H,W) 1 keeps a pixel, 0 perturbs it; of features, tokens or coefficients, a picture of it
    saliency: Tensor  # (B,1,H,W) in [0,1], high where the evidence is: the mask's, ranked by `ranking=` (mpx.rankings)
    value_before: Tensor  # (B,) the task's value of the target, e.g. its softmax probability, on the image,
    value_after: Tensor  # (B,) on `perturbed`, without augmentation,
    value_complement: Tensor  # (B,) on `complement`, NaN without one,
    value_reference: Tensor  # (B,) and on the fully perturbed image
    value_normalised: Tensor  # (B,) 1 at the image's support and 0 at the fully perturbed image's, Fong & Vedaldi 2017,
    # footnote 4; NaN where perturbing everything costs next to nothing (`mpx.tasks.normalised`)
    answers_before: list[list[Answer]]  # the five highest values of each row, e.g. classes, on the image,
    answers_after: list[list[Answer]]  # on `perturbed`
    answers_complement: list[list[Answer]]  # and on `complement`; empty where the target has no alternatives
    curves: dict[str, Tensor]  # term -> (steps,B): "total" and its weighted parts, "value" and "area"
    steps: Tensor  # (B,) iterations of each row, fewer than the method's where the row stopped
    iterations: list[int]  # of the F snapshots: 0 is the start, the last one the result
    frames: Tensor  # (F,B,C,H,W) uint8, the perturbed image at each snapshot
    frame_evidence: Tensor  # (F,B,1,H,W) uint8
    frame_parameters: Tensor  # (F,B,...)
    frame_values: Tensor  # (F,B) the value on each frame
    game: str
    task: Task
    seconds: Tensor  # (B,) time of the rows that were optimized together, shared out
    passes: Tensor  # (B,) passes of the row, forward and backward, through the network
    forwards: Tensor  # (B,) passes forward alone
    batch_size: int  # rows that were optimized together
    started: Tensor  # (B,) float64, unix time at which the row was prepared
    duration: Tensor  # (B,) seconds from then to its last iteration
    places: Tensor | None = None  # (B,...) of the targets, as their task found them; None where it needs none
    method: "Method | None" = None  # by which the rows were made
    verdict: list[str] = field(default_factory=list)  # on each row (`mpx.verdicts.MEANINGS`); empty: they are not judged
    bands: tuple[int, ...] | None = None  # channels that pictures show as red, green and blue; None: the first ones

    @property
    def area(self) -> Tensor:
        """(B,) mean evidence of the mask: the share of the image that is evidence."""
        return self.evidence.mean((1, 2, 3))

    @property
    def is_learnt(self) -> bool:
        """Whether the mask was learnt; False: it is an explainer's saliency, which has no iterations."""
        return self.iterations[-1] > 0

    @property
    def evidence(self) -> Tensor:
        """(B,1,H,W) in [0,1]: 1 - mask, or the mask in a preservation."""
        return evidence_of(self.mask, self.game)

    def select(self, rows: list[int]) -> "Explanation":
        """Return the explanation of these rows."""
        selected = {field.name: _select(field.name, value, rows) for field, value in self._values()}
        explanation = replace(self, **selected)
        end = int(explanation.steps.max()) if rows else 0
        return _at(explanation, [i for i in self.iterations if i < end] + [end])

    def panel(self, row: int = 0) -> "Image.Image":
        """Draw image | saliency over it | perturbed image, with class, values, area, and the highest classes."""
        from mpx.pictures.panel import draw_panel

        return draw_panel(self, row)

    def animation(self, row: int = 0) -> bytes:
        """Return an animated WebP of a learnt mask as it formed: saliency over the image | perturbed image."""
        from mpx.pictures.animation import animation_webp

        if not self.is_learnt:
            raise ValueError("an explainer's saliency has no iterations: panel() draws it")
        return animation_webp(self, row)

    def pair(self, first: int = 0, second: int = 1) -> "Image.Image":
        """Draw the evidence of two rows of one image in two colours, e.g. for either class of task=difference."""
        from mpx.pictures.pair import draw_pair

        return draw_pair(self, first, second)

    def smallest_areas(self, sufficient_share: float = 0.9) -> list[int]:
        """Return the row of the smallest sufficient area of each image and class (`smallest_area_rows`)."""
        from mpx.metrics.areas import smallest_area_rows
        from mpx.runs.tables import table_rows

        rows = [row | {"row": i} for i, row in enumerate(table_rows(self))]
        return [row["row"] for row in smallest_area_rows(rows, sufficient_share, self.game, self.task)]

    def area_sums(self, smooth: float = 0.09) -> Tensor:
        """Return the masks of all areas of each of N images and classes, summed and smoothed, (N,1,H,W) (`sum_of_areas`)."""
        from mpx.metrics.areas import group_rows, sum_of_areas

        groups = group_rows(list(zip(self.image_names, self.targets.tolist(), self.classes)))
        return torch.stack([sum_of_areas(self.saliency[rows], smooth) for rows in groups.values()])

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table of pandas with a line for each row: the columns of results.csv."""
        from mpx.runs.tables import as_dataframe, table_rows

        return as_dataframe(table_rows(self))

    def save(self, folder: str | PathLike) -> None:
        """Write masks/, panels/, evolution/ and results.csv into the folder, which `mpx.load` reads, each file whole."""
        from mpx.runs.store import save_row
        from mpx.runs.tables import table_rows, write_csv

        for row in range(len(self.names)):
            save_row(Path(folder), self, row)
        write_csv(Path(folder) / "results.csv", table_rows(self))

    def _values(self) -> list[tuple[Any, Any]]:
        return [(field, vars(self)[field.name]) for field in fields(self)]

    def _repr_html_(self) -> str:  # in a notebook
        from mpx.pictures.slider import explanation_html

        return explanation_html(self)

    def __repr__(self) -> str:
        from mpx.runs.tables import table_rows
        from mpx.runs.terminal import format_rows

        rows = "1 row" if len(self) == 1 else f"{len(self)} rows"
        return f"Explanation of {rows}\n{format_rows(table_rows(self), self.task)}"

    def __len__(self) -> int:
        return len(self.names)


def slug(name: str) -> str:
    """Return a name in lower-case letters, digits and hyphens, at most 40 characters."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]


def _select(name: str, value: Any, rows: list[int]) -> Any:
    if value is None or name in SHARED_FIELDS:
        return value
    if name == "curves":
        return {term: values[:, rows] for term, values in value.items()}
    if isinstance(value, Tensor):
        return value[:, rows] if name.startswith("frame") else value[rows]
    return [value[row] for row in rows] if value else value  # rows that are not judged have no verdict


def _at(explanation: Explanation, iterations: list[int]) -> Explanation:
    """Return the explanation with the frames and curves of these iterations; rows that had stopped stay as they were."""
    recorded = explanation.iterations
    if iterations == recorded:
        return explanation
    nearest = [next((k for k, iteration in enumerate(recorded) if iteration >= i), -1) for i in iterations]
    until = torch.arange(iterations[-1]).clamp(max=recorded[-1] - 1)
    frames = {
        name: vars(explanation)[name][nearest] for name in ("frames", "frame_evidence", "frame_parameters", "frame_values")
    }
    curves = {term: values[until] for term, values in explanation.curves.items()}
    return replace(explanation, iterations=iterations, curves=curves, **frames)


def join(parts: list[Explanation]) -> Explanation:
    """Return one explanation of the rows of several batches."""
    if len(parts) == 1:
        return parts[0]
    longest = max((part.iterations for part in parts), key=lambda iterations: iterations[-1])
    parts = [_at(part, longest) for part in parts]
    joined: dict[str, Any] = {}
    for one in fields(Explanation):
        values = [vars(part)[one.name] for part in parts]
        first = values[0]
        if first is None or one.name in SHARED_FIELDS:
            joined[one.name] = first
        elif one.name == "curves":
            joined[one.name] = {term: torch.cat([curves[term] for curves in values], 1) for term in first}
        elif isinstance(first, Tensor):
            joined[one.name] = torch.cat(values, 1 if one.name.startswith("frame") else 0)
        else:
            joined[one.name] = sum(values[1:], first)
    return Explanation(**joined)
