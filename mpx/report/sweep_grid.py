"""grid.png of a sweep: images down, jobs across; in each cell the saliency over the image."""

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mpx.pictures.cells import Cell, draw_cells, fit, saliency_over
from mpx.pictures.encoding import to_image
from mpx.pictures.text import format_percent
from mpx.report.lines import ComparisonLine, format_value, is_best, metric_names
from mpx.report.run_folder import COST_METRICS, RunFolder
from mpx.runs.store import load_row
from mpx.tasks import base

MAX_ROWS = 8
MAX_JOBS = 12

StoredRow = dict[str, Any]  # of store.load_row


def draw_grid(runs: Sequence[RunFolder], lines: Sequence[ComparisonLine] = ()) -> Image.Image:
    """Draw the rows of up to MAX_JOBS runs: the value before and after, area, and the class where jobs differ in it.

    lines: of the runs' metrics, whose means are written below.
    """
    jobs = [runs[i] for i in np.unique(np.linspace(0, len(runs) - 1, min(len(runs), MAX_JOBS)).round().astype(int))]
    numbered = [rows_by_number(run) for run in jobs]
    keys = list(dict.fromkeys(key for rows in numbered for key in rows))
    stored = [[load_line(run, rows.get(key)) for run, rows in zip(jobs, numbered)] for key in keys[:MAX_ROWS]]
    cells = [_cells(row) for row in stored if any(row)]  # files in masks/ may have been removed
    omitted = [f"{len(cells)} of {len(keys)} rows"] if len(cells) < len(keys) else []
    omitted += [f"{len(jobs)} of {len(runs)} jobs"] if len(jobs) < len(runs) else []
    headings = [[axis, *(run.axes[axis] for run in jobs)] for axis in runs[0].axes]
    return draw_cells(cells, headings, ", ".join(omitted), [_footing(jobs, lines, name) for name in metric_names(lines)])


def _footing(jobs: Sequence[RunFolder], lines: Sequence[ComparisonLine], metric: str) -> list[str]:
    """Return a metric's name and its value in each job, the best one with a word; costs have none."""
    texts = {}
    for line in (line for line in lines if line.metric == metric):
        is_marked = metric not in COST_METRICS and is_best(lines, line)
        texts[line.run] = "–" if line.value is None else format_value(line.value) + ", best" * is_marked
    return [metric, *(texts.get(job.name, "–") for job in jobs)]


def _cells(row: list[StoredRow | None]) -> list[Cell]:
    """Return the photo, and the saliency of each job over the job's own image: another model may see another crop."""
    first = next(stored for stored in row if stored)
    photos = (stored_photo(stored) for stored in row if stored)
    photo = next((fit(to_image(photo)) for photo in photos if photo is not None), None)
    return [Cell(photo, first["class"], first["image"]), *(_job_cell(stored, first) for stored in row)]


def _job_cell(stored: StoredRow | None, first: StoredRow) -> Cell:
    if stored is None:
        return Cell(None, "", "no mask")
    quantity = stored["quantity"]
    values = " to ".join(base.format_value(quantity, stored[p]) for p in ("value_before", "value_after"))
    other_class = "" if stored["class"] == first["class"] else f", {stored['class']}"
    return Cell(
        saliency_over(stored_photo(stored), torch.from_numpy(stored["saliency"]).float()[None]),
        f"{base.caption(quantity)} {values}",
        f"area {format_percent(stored['area'])}{other_class}",
    )


def rows_by_number(run: RunFolder) -> dict[tuple[str, int], dict[str, str]]:
    """Return (image, n) -> its n-th row: jobs may differ in class and area, so these cannot pair them."""
    rows: dict[tuple[str, int], dict[str, str]] = {}
    counts: Counter[str] = Counter()
    for row in run.rows:
        rows[row["image"], counts[row["image"]]] = row
        counts[row["image"]] += 1
    return rows


def load_line(run: RunFolder, line: dict[str, str] | None) -> StoredRow | None:
    """Return the stored row of a line of results.csv; None without one, or where its file is gone or damaged."""
    return load_row(run.folder / line["mask"]) if line else None


def stored_photo(row: StoredRow) -> Tensor | None:
    """Return the image (3,h,w) of a stored row, reduced; None where the run kept no pictures of it."""
    if "photo" not in row:
        return None
    image = Image.open(io.BytesIO(row["photo"].tobytes())).convert("RGB")
    return torch.from_numpy(np.array(image)).movedim(-1, 0) / 255
