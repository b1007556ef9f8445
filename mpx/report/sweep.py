"""What a sweep says: its jobs beside each other as a table, as pictures and as curves.

Its folder holds one for each job, named by what varies ("mask_size=14,perturbation=black"): that is where the axes are read
from. jobs.txt, if there, has their order. A job that failed left a failed.txt; it is told of, and the others are compared.
"""

import io
import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mpx.pictures.colours import heatmap, overlay
from mpx.pictures.encoding import to_image
from mpx.pictures.text import FAINT_INK, INK, PAPER, draw_text, format_percent, format_probability
from mpx.report import compare, html, plots
from mpx.report.compare import Run
from mpx.runs import files, store, tables, terminal

log = logging.getLogger("mpx")
ORDER = "jobs.txt"
PHOTOS, COLUMNS, CELL = 8, 12, 160  # of the grid, at most, and pixels


@dataclass(frozen=True)
class Sweep:
    folder: Path
    runs: list[Run]  # that have numbers, in order; their `axes` are those that vary
    failed: dict[str, str]  # job -> why
    open: list[str]  # jobs that were begun and are not finished


def finish(folder: str | Path, out: str | Path | None = None, wanted: Sequence[str] = ()) -> str:
    """table.md, .csv, .tex, grid.png, plots.png, pareto.png and report.html in the sweep's folder; returns the Markdown.

    out: another place, for all but the report. wanted: metrics, by default the chance left, the area, each metric's main
    number and what it cost.
    """
    sweep = read(folder)
    out = Path(out).expanduser() if out else sweep.folder
    said = [f"- {job} failed: {terminal.printable(reason)}\n" for job, reason in sweep.failed.items()]
    said += [f"- {job} is not finished: the same command goes on.\n" for job in sweep.open]
    if not sweep.runs:
        text = "\n".join(["No job is finished.\n", "".join(said)])
        files.write_file(out / "table.md", text)
        return text
    table = compare.compare(sweep.runs, wanted or _main(sweep.runs))
    text = compare.save(sweep.runs, table, out, *(["".join(said)] if said else []))
    _save(grid(sweep.runs), out / "grid.png")
    plots.metrics(table, out / "plots.png")
    plots.pareto(sweep.runs, out / "pareto.png")
    if out == sweep.folder:
        try:
            html.write_sweep(out, jobs(out))
        except Exception as error:  # the numbers are there without it
            log.warning(f"there is no report.html: {type(error).__name__}: {error}")
    return text


def read(folder: str | Path) -> Sweep:
    """ValueError where it holds no job."""
    folder = Path(folder).expanduser()
    names = jobs(folder)
    if not names:
        raise ValueError(f"{str(folder)!r} is not the folder of a sweep: it should hold one for each job, with results.csv")
    varied = {name: axes(name) for name in names}
    keys = dict.fromkeys(axis for found in varied.values() for axis in found)
    keys = [k for k in keys if len({found.get(k) for found in varied.values()}) > 1] or list(keys)
    runs, failed, unfinished = [], {}, []
    for name in names:
        if (folder / name / store.FAILED).is_file():
            failed[name] = (folder / name / store.FAILED).read_text("utf-8").strip()
            continue
        try:
            run = compare.read(folder / name)
        except ValueError:
            run = None
        if run is None or run.missing or run.protocol.get("stopped"):  # fewer photos would make it better or worse
            unfinished.append(name)
        else:
            runs.append(replace(run, axes={key: varied[name].get(key, "") for key in keys}))
    return Sweep(folder, runs, failed, unfinished)


def jobs(folder: Path) -> list[str]:
    """Names of the jobs: numbers by size, other values in the order of jobs.txt, else of the alphabet."""
    of_jobs = ("results.csv", store.FAILED, ".hydra")
    found = sorted(path.name for path in folder.glob("[!.]*/") if any((path / name).exists() for name in of_jobs))
    places = {name: place for place, name in enumerate(order(folder))}
    found.sort(key=lambda name: places.get(name, len(places)))
    columns = {}  # axis -> its values, as they come
    for name in found:
        for axis, value in axes(name).items():
            columns.setdefault(axis, {})[value] = None
    ranks = {axis: ordered(list(values)) for axis, values in columns.items()}
    return sorted(found, key=lambda name: [ranks[axis].index(value) for axis, value in axes(name).items()])


def order(folder: Path) -> list[str]:
    """The jobs as they were asked for, as far as that was written down."""
    return (folder / ORDER).read_text("utf-8").splitlines() if (folder / ORDER).is_file() else []


def axes(name: str) -> dict[str, str]:
    """ "mask_size=14,perturbation=black" -> axis -> value."""
    parts = [part.partition("=") for part in re.split(r",(?=[^,=]+=)", name)]
    return {axis: value for axis, sign, value in parts if sign} or {"job": name}


def ordered(values: list[str]) -> list[str]:
    """null, then numbers by size; names as they come."""
    numbers = [-math.inf if value == "null" else tables.parse_number(value) for value in values]
    return values if np.isnan(numbers).any() else [values[i] for i in np.argsort(numbers, kind="stable")]


def _main(runs: Sequence[Run]) -> list[str]:
    """Without the parts of metrics: "localisation", not "localisation_mean"."""
    names = dict.fromkeys(name for run in runs for name in run.metrics if name not in compare.ALWAYS)
    main = [name for name in names if not any(name.startswith(f"{other}_") for other in names)]
    spent = any(run.metrics["forwards"]["value"] for run in runs)  # all that an explainer like rise costs
    return ["p_normalised", "area", *main, "passes", *["forwards"] * spent, "seconds"]


def grid(runs: Sequence[Run]) -> Image.Image:
    """Photos down, jobs across: the saliency over the photo, the class's probability before and after, and the area."""
    chosen = [runs[i] for i in np.unique(np.linspace(0, len(runs) - 1, min(len(runs), COLUMNS)).round().astype(int))]
    numbered = [_numbered(run) for run in chosen]
    every = dict.fromkeys(key for lines in numbered for key in lines)
    stored = [[_load(run, lines.get(key)) for run, lines in zip(chosen, numbered)] for key in list(every)[:PHOTOS]]
    stored = [row for row in stored if any(row)]  # masks/ may have been thinned out
    shown = [[_first(row), *map(_evidence, row)] for row in stored]
    heights = [max(picture.height for picture in row if picture) for row in shown]
    size, line, gap, axes = 13, 18, 8, list(runs[0].axes)
    top, wide = gap + line * len(axes), CELL + gap
    page = Image.new(
        "RGB", (gap + (len(chosen) + 1) * wide, top + sum(heights) + len(stored) * (2 * line + gap) + line), PAPER
    )

    def write(x: int, y: int, text: str, ink: str = INK) -> None:
        draw_text(page, (gap + x * wide, y, CELL), text, "", size, ink)

    for k, axis in enumerate(axes):
        write(0, gap + k * line, axis, FAINT_INK)
        for x, run in enumerate(chosen, 1):
            write(x, gap + k * line, run.axes[axis])
    y = top
    for row, pictures, height in zip(stored, shown, heights):
        some = next(found for found in row if found)
        for x, (found, picture) in enumerate(zip([some, *row], pictures)):
            if picture:
                page.paste(picture, (gap + x * wide, y))
            if x == 0:
                below = some["class"], some["image"]
            elif found:
                p = " to ".join(format_probability(found[p]) for p in ("p_before", "p_after"))
                other = "" if found["class"] == some["class"] else f", {found['class']}"
                below = p, f"area {format_percent(tables.table_row(found)['area'])}{other}"
            else:
                below = "", "no mask"
            write(x, y + height + 2, below[0])
            write(x, y + height + 2 + line, below[1], FAINT_INK)
        y += height + 2 * line + gap
    left_out = [f"{len(stored)} of {len(every)} rows"] if len(stored) < len(every) else []
    left_out += [f"{len(chosen)} of {len(runs)} jobs"] if len(chosen) < len(runs) else []
    draw_text(page, (gap, page.height - line, page.width - 2 * gap), ", ".join(left_out), "", size, FAINT_INK)
    return page


def _numbered(run: Run) -> dict[tuple[str, int], dict]:
    """(image, n) -> its n-th row: what varies may be the class, the area, or the model, which finds another class."""
    rows, counts = {}, Counter()
    for row in run.rows:
        rows[row["image"], counts[row["image"]]] = row
        counts[row["image"]] += 1
    return rows


def _load(run: Run, line: dict | None) -> dict | None:
    return store.load_row(run.folder / line["mask"]) if line else None


def _first(row: list[dict | None]) -> Image.Image | None:
    photos = (_photo(found) for found in row if found)
    return next((_fit(to_image(photo)) for photo in photos if photo is not None), None)


def _photo(row: dict) -> torch.Tensor | None:
    """(3,h,w) of a row with pictures."""
    if "photo" not in row:
        return None
    image = Image.open(io.BytesIO(row["photo"].tobytes())).convert("RGB")
    return torch.from_numpy(np.array(image)).movedim(-1, 0) / 255


def _evidence(row: dict | None) -> Image.Image | None:
    """Over the row's own photo: another job's model may have seen another part of it."""
    if row is None:
        return None
    photo, saliency = _photo(row), torch.from_numpy(row["saliency"]).float()[None]  # (1,H,W)
    if photo is None:
        return _fit(to_image(heatmap(saliency)))
    sized = torch.nn.functional.interpolate(saliency[None], photo.shape[1:], mode="bilinear", antialias=True)[0]
    return _fit(to_image(overlay(photo, sized.clamp(0, 1))))


def _fit(image: Image.Image) -> Image.Image:
    scale = CELL / max(image.size)
    way = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return image.resize([max(1, round(s * scale)) for s in image.size], way)


def _save(image: Image.Image, path: Path) -> None:
    file = io.BytesIO()
    image.save(file, "PNG")
    files.write_file(path, file.getvalue())
