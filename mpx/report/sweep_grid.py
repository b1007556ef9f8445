"""grid.png of a sweep: images down, jobs across; in each cell the saliency over the image."""

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mpx.pictures.colours import heatmap, overlay
from mpx.pictures.encoding import to_image
from mpx.pictures.text import FAINT_INK, INK, PAPER, draw_text, format_percent
from mpx.report.run_folder import RunFolder
from mpx.runs.store import load_row
from mpx.tasks.base import caption, format_value

MAX_ROWS = 8
MAX_JOBS = 12
CELL = 160  # pixels, as the next three
GAP = 8
LINE = 18
TEXT_SIZE = 13

StoredRow = dict[str, Any]  # of store.load_row


def draw_grid(runs: Sequence[RunFolder]) -> Image.Image:
    """Draw the rows of up to MAX_JOBS runs: the value before and after, area, and the class where jobs differ in it."""
    jobs = [runs[i] for i in np.unique(np.linspace(0, len(runs) - 1, min(len(runs), MAX_JOBS)).round().astype(int))]
    numbered = [rows_by_number(run) for run in jobs]
    keys = list(dict.fromkeys(key for rows in numbered for key in rows))
    stored = [[load_line(run, rows.get(key)) for run, rows in zip(jobs, numbered)] for key in keys[:MAX_ROWS]]
    stored = [row for row in stored if any(row)]  # files in masks/ may have been removed
    pictures = [[_first_photo(row), *map(saliency_picture, row)] for row in stored]
    heights = [max(picture.height for picture in row if picture) for row in pictures]
    top = GAP + LINE * len(runs[0].axes)
    size = GAP + (len(jobs) + 1) * (CELL + GAP), top + sum(heights) + len(stored) * (2 * LINE + GAP) + LINE
    page = Image.new("RGB", size, PAPER)
    for line, axis in enumerate(runs[0].axes):
        _write(page, 0, GAP + line * LINE, axis, FAINT_INK)
        for column, run in enumerate(jobs, 1):
            _write(page, column, GAP + line * LINE, run.axes[axis])
    y = top
    for row, row_pictures, height in zip(stored, pictures, heights):
        _draw_row(page, y, height, row, row_pictures)
        y += height + 2 * LINE + GAP
    omitted = [f"{len(stored)} of {len(keys)} rows"] if len(stored) < len(keys) else []
    omitted += [f"{len(jobs)} of {len(runs)} jobs"] if len(jobs) < len(runs) else []
    draw_text(page, (GAP, page.height - LINE, page.width - 2 * GAP), ", ".join(omitted), "", TEXT_SIZE, FAINT_INK)
    return page


def _draw_row(
    page: Image.Image, y: int, height: int, row: list[StoredRow | None], pictures: list[Image.Image | None]
) -> None:
    """Draw a row of pictures, the image's and one for each job, with two lines of text below each."""
    first = next(stored for stored in row if stored)
    for column, (stored, picture) in enumerate(zip([first, *row], pictures)):
        if picture:
            page.paste(picture, (GAP + column * (CELL + GAP), y))
        texts = (first["class"], first["image"]) if column == 0 else _cell_texts(stored, first)
        _write(page, column, y + height + 2, texts[0])
        _write(page, column, y + height + 2 + LINE, texts[1], FAINT_INK)


def _cell_texts(stored: StoredRow | None, first: StoredRow) -> tuple[str, str]:
    if stored is None:
        return "", "no mask"
    quantity = stored["quantity"]
    values = " to ".join(format_value(quantity, stored[p]) for p in ("value_before", "value_after"))
    other_class = "" if stored["class"] == first["class"] else f", {stored['class']}"
    return f"{caption(quantity)} {values}", f"area {format_percent(stored['area'])}{other_class}"


def _write(page: Image.Image, column: int, y: int, text: str, ink: str = INK) -> None:
    draw_text(page, (GAP + column * (CELL + GAP), y, CELL), text, "", TEXT_SIZE, ink)


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


def _first_photo(row: list[StoredRow | None]) -> Image.Image | None:
    photos = (stored_photo(stored) for stored in row if stored)
    return next((fit(to_image(photo)) for photo in photos if photo is not None), None)


def saliency_picture(row: StoredRow | None) -> Image.Image | None:
    """Draw the saliency over the row's own image: another job's model may see another crop."""
    return None if row is None else saliency_over(stored_photo(row), torch.from_numpy(row["saliency"]).float()[None])


def saliency_over(photo: Tensor | None, saliency: Tensor) -> Image.Image:
    """Draw saliency (1,H,W) in [0,1] over a reduced photo (3,h,w), or alone."""
    if photo is None:
        return fit(to_image(heatmap(saliency)))
    sized = F.interpolate(saliency[None], photo.shape[1:], mode="bilinear", antialias=True)[0]
    return fit(to_image(overlay(photo, sized.clamp(0, 1))))


def fit(image: Image.Image) -> Image.Image:
    """Resize so that the longer side is CELL."""
    scale = CELL / max(image.size)
    resampling = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resampling)
