"""The entry of one row and the summary of a run, made once for all loggers."""

import html
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mpx.explanation import Explanation
from mpx.learning.log_names import log_name
from mpx.metrics.summary import describe
from mpx.pictures.animation import animation_webp
from mpx.pictures.encoding import to_image
from mpx.pictures.panel import draw_thumbnail_panel
from mpx.pictures.snapshots import evolution_strips
from mpx.runs.summaries import summarised_value
from mpx.runs.tables import TableRow, result_columns
from mpx.runs.terminal import printable

MAX_POINTS = 200  # of a curve
MAX_IMAGES = 10  # of a tag: TensorBoard shows ten, drawn at random from more
MAX_LINES = 200  # of the results table as text
METRIC_COLUMNS = ("value_normalised", "area", "value_after", "passes", "seconds")


@dataclass(frozen=True)
class Curves:
    """Values of all curves at the same iterations."""

    iterations: list[int]
    times: list[float]  # unix seconds
    values: dict[str, list[float]]  # name -> a value for each iteration


@dataclass(frozen=True)
class RowEntry:
    """One row for loggers."""

    name: str  # of the row, fit for a folder
    curves: Curves
    saliency: list[tuple[int, float, Tensor]]  # (iteration, time, values in [0,1]) of every recorded iteration
    evolution: list[tuple[int, float, Image.Image]]  # image | saliency | perturbed image at up to MAX_IMAGES iterations
    panel: Image.Image
    animation: bytes | None  # a WebP; None of an explainer, which has no iterations
    end: tuple[int, float]  # last iteration and its time


@dataclass(frozen=True)
class SummaryEntry:
    """A whole run for loggers."""

    curves: Curves  # means over rows
    metrics: dict[str, float]  # metric/<name> -> value, without metrics that have none
    texts: dict[str, str]  # title -> Markdown
    hyperparameters: dict[str, Any] = field(default_factory=dict)


def row_entry(explanation: Explanation, row: int) -> RowEntry:
    """Return the entry of a row (its index)."""
    last = explanation.iterations[-1]
    start, seconds = float(explanation.started[row]), float(explanation.duration[row])

    def time_of(iteration: int) -> float:
        return start + seconds * iteration / max(1, last)

    frames = geometric_frames(explanation.iterations)
    strips = [to_image(strip) for strip in evolution_strips(explanation, row, frames)]
    return RowEntry(
        name=printable(explanation.names[row]),
        curves=_curves({term: values[:, row] for term, values in explanation.curves.items()}, start, seconds),
        saliency=[
            (k, time_of(k), explanation.frame_evidence[frame, row] / 255) for frame, k in enumerate(explanation.iterations)
        ],
        evolution=[
            (explanation.iterations[f], time_of(explanation.iterations[f]), strip) for f, strip in zip(frames, strips)
        ],
        panel=draw_thumbnail_panel(explanation, row),
        animation=animation_webp(explanation, row) if explanation.is_learnt else None,
        end=(last, time_of(last)),
    )


def summary_entry(
    rows: Sequence[TableRow], means: Mapping[str, Tensor], metrics: Mapping[str, Mapping[str, Any]],
    texts: Mapping[str, str], hyperparameters: Mapping[str, Any],
) -> SummaryEntry:  # fmt: skip
    """Return the entry of a run.

    rows: lines of results.csv. means: term -> (steps,) mean curve. metrics: name -> {"value": ...}, of summary.json.
    Mean curves have no time of their own: they get the mean seconds of a row, counted back from now.
    """
    means_of_rows = {
        name: describe((summarised_value(row, name) for row in rows), draws=0)["mean"] for name in METRIC_COLUMNS
    }
    quality = {name: means_of_rows[name] for name in METRIC_COLUMNS[:2]}  # first: TensorBoard shows the first five
    values = quality | {name: metric["value"] for name, metric in metrics.items()} | means_of_rows
    seconds = values["seconds"] or 0.0
    texts = {**texts, "results": results_markdown(rows)}
    return SummaryEntry(
        curves=_curves(means, time.time() - seconds, seconds),
        metrics={f"metric/{name}": value for name, value in values.items() if value is not None},
        texts={name: text.encode("utf-8", "backslashreplace").decode() for name, text in texts.items()},
        hyperparameters={k: v if isinstance(v, (bool, int, float, str)) else str(v)
                         for k, v in hyperparameters.items() if v is not None},
    )  # fmt: skip


def geometric_frames(iterations: Sequence[int], most: int = MAX_IMAGES) -> list[int]:
    """Return indices of at most `most` iterations, nearest to a geometric schedule, with the first and the last."""
    last = iterations[-1]
    schedule = [0.0, *(last ** (k / (most - 2)) for k in range(most - 1))]
    return sorted({min(range(len(iterations)), key=lambda k: abs(iterations[k] - s)) for s in schedule})


def results_markdown(rows: Sequence[TableRow]) -> str:
    """Return the first MAX_LINES lines of results.csv as a Markdown table."""
    columns = [c for c in result_columns(rows) if c != "mask"]
    cells = [[_markdown_cell(row.get(column)) for column in columns] for row in rows[:MAX_LINES]]
    lines = [columns, ["---"] * len(columns), *cells]
    rest = f"\n\n{len(rows) - MAX_LINES} more rows in results.csv" if len(rows) > MAX_LINES else ""
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + rest


def _markdown_cell(value: Any) -> str:
    """Return a value as text that Markdown changes nothing of: an image in a name would be fetched from the network."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return re.sub(r"([\\`*_{}\[\]()!|])", r"\\\1", html.escape(printable(value), quote=False))


def code_markdown(text: str) -> str:
    """Return text as Markdown's code, by its indentation: no text can end it."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _curves(curves: Mapping[str, Tensor], start: float, seconds: float) -> Curves:
    """Return the curves (steps,) at up to MAX_POINTS iterations, the time linear in between."""
    steps = max((len(values) for values in curves.values()), default=0)
    points = torch.linspace(0, steps - 1, min(steps, MAX_POINTS)).round().long()
    return Curves(
        iterations=points.tolist(),
        times=[start + seconds * k / max(1, steps - 1) for k in points.tolist()],
        values={log_name(term): values[points].tolist() for term, values in curves.items()},
    )
