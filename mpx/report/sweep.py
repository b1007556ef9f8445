"""What a sweep says: its jobs beside each other as a table, as pictures and as curves.

Its folder holds one for each job, named by what varies ("mask_size=14,perturbation=black"): that is where the axes are read
from. jobs.txt, if there, has their order. A job that failed left a failed.txt; it is told of, and the others are compared.
"""

import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mpx.report import compare, html, plots, render, results
from mpx.report.compare import Run

log = logging.getLogger("mpx")
ORDER = "jobs.txt"
PHOTOS, COLUMNS, CELL = 8, 12, 160  # of the grid, at most, and pixels


@dataclass(frozen=True)
class Sweep:
    folder: Path
    runs: list[Run]  # that have numbers, in order; their `axes` are those that vary
    failed: dict[str, str]  # job -> why
    open: list[str]  # jobs that were begun and have no numbers yet


def finish(folder: str | Path, out: str | Path | None = None, wanted: Sequence[str] = ()) -> str:
    """table.md, .csv, .tex, grid.png, plots.png, pareto.png and report.html in the sweep's folder; returns the Markdown.

    out: another place, for all but the report. wanted: metrics, by default the chance left, the area, each metric's main
    number, passes and seconds.
    """
    sweep, out = read(folder), Path(out or folder)
    said = [f"- {job} failed: {reason}" for job, reason in sweep.failed.items()]
    said += [f"- {job} is not finished: the same command goes on." for job in sweep.open]
    if not sweep.runs:
        text = "\n".join(["No job is finished.", "", *said, ""])
        results.write(out / "table.md", text)
        return text
    table = compare.compare(sweep.runs, wanted or _main(sweep.runs))
    text = compare.save(sweep.runs, table, out, *said)
    _save(grid(sweep.runs), out / "grid.png")
    plots.metrics(table, out / "plots.png")
    plots.pareto(sweep.runs, table, out / "pareto.png")
    if out == Path(folder):
        try:
            html.write_sweep(folder, jobs(folder))
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
        if (folder / name / results.FAILED).is_file():
            failed[name] = (folder / name / results.FAILED).read_text("utf-8").strip()
            continue
        try:
            run = compare.read(folder / name)
        except ValueError:
            unfinished.append(name)
        else:
            runs.append(replace(run, axes={key: varied[name].get(key, "") for key in keys}))
    return Sweep(folder, runs, failed, unfinished)


def jobs(folder: Path) -> list[str]:
    """Names of the jobs: numbers by size, other values in the order of jobs.txt, else of the alphabet."""
    of_jobs = ("results.csv", results.FAILED, ".hydra")
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
    """Numbers by size; others as they come."""
    numbers = [plots.number(value) for value in values]
    return [values[i] for i in np.argsort(numbers, kind="stable")] if np.isfinite(numbers).all() else values


def _main(runs: Sequence[Run]) -> list[str]:
    """Without the parts of metrics: "localisation", not "localisation_mean"."""
    names = dict.fromkeys(name for run in runs for name in run.metrics if name not in compare.ALWAYS)
    main = [name for name in names if not any(name.startswith(f"{other}_") for other in names)]
    return ["p_normalised", "area", *main, "passes", "seconds"]


def grid(runs: Sequence[Run]) -> Image.Image:
    """Photos down, jobs across: the saliency over the photo, the class's probability before and after, and the area."""
    chosen = [runs[i] for i in np.unique(np.linspace(0, len(runs) - 1, min(len(runs), COLUMNS)).round().astype(int))]
    keys = ("image", "target", "area_asked")
    rows = {key: None for run in runs for key in run.by(*keys)}
    stored = [
        {run.name: results.load_row(run.folder / line["mask"]) for run in chosen if (line := run.by(*keys).get(key))}
        for key in list(rows)[:PHOTOS]
    ]
    size, line, gap, axes = 13, 18, 8, list(runs[0].axes)
    top, wide, high = gap + line * len(axes), CELL + gap, CELL + 2 * line + gap
    page = Image.new("RGB", (gap + (len(chosen) + 1) * wide, top + len(stored) * high + line), render.PAPER)

    def write(x: int, y: int, text: str, ink: str = render.INK) -> None:
        render.write(page, (gap + x * wide, y, CELL), text, "", size, ink)

    for k, axis in enumerate(axes):
        write(0, gap + k * line, axis, render.FAINT)
        for x, run in enumerate(chosen, 1):
            write(x, gap + k * line, run.axes[axis])
    for y, row in enumerate(stored):
        at = top + y * high
        below = (at + CELL + 2, at + CELL + 2 + line)
        photo = next((p for r in row.values() if r and (p := _photo(r)) is not None), None)
        some = next(r for r in row.values() if r)
        write(0, below[0], some["class"])
        write(0, below[1], some["image"], render.FAINT)
        if photo is not None:
            page.paste(_fit(render.to_image(photo)), (gap, at))
        for x, found in ((x, found) for x, run in enumerate(chosen, 1) if (found := row.get(run.name))):
            saliency = torch.from_numpy(found["saliency"]).float()[None]
            page.paste(_fit(render.to_image(_shown(photo, saliency))), (gap + x * wide, at))
            write(x, below[0], " to ".join(render.probability(found[p]) for p in ("p_before", "p_after")))
            write(x, below[1], f"area {render.percent(results.table_row(found)['area'])}", render.FAINT)
    if len(chosen) < len(runs):
        write(0, page.height - line, f"{len(chosen)} of {len(runs)} jobs", render.FAINT)
    return page


def _photo(row: dict) -> torch.Tensor | None:
    """(3,h,w) of a row with pictures."""
    if "photo" not in row:
        return None
    image = Image.open(io.BytesIO(row["photo"].tobytes())).convert("RGB")
    return torch.from_numpy(np.array(image)).movedim(-1, 0) / 255


def _shown(photo: torch.Tensor | None, saliency: torch.Tensor) -> torch.Tensor:
    if photo is None:
        return render.heatmap(saliency)
    sized = torch.nn.functional.interpolate(saliency[None], photo.shape[1:], mode="bilinear", antialias=True)[0]
    return render.overlay(photo, sized.clamp(0, 1))


def _fit(image: Image.Image) -> Image.Image:
    scale = CELL / max(image.size)
    way = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return image.resize([max(1, round(s * scale)) for s in image.size], way)


def _save(image: Image.Image, path: Path) -> None:
    file = io.BytesIO()
    image.save(file, "PNG")
    results.write(path, file.getvalue())
