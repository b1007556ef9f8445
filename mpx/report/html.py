"""report.html: a run, or a sweep's runs side by side, as one page that opens from the disk without a server or a network.

The page (mpx/report/page/) has the numbers of all rows first and then a block of JSON for each row's pictures and curves, in
the rows' order, so that the first are seen before the last are read; a block is parsed when its picture is looked at.
Nothing is fetched, which the page's Content-Security-Policy forbids besides. Rows without pictures, and those of older runs,
have their numbers alone.
"""

import json
import math
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from mpx.pictures.colours import COLOUR_TABLE
from mpx.pictures.encoding import encode_jpeg
from mpx.pictures.text import format_percent
from mpx.runs import files, store, tables

BOUND = 0.1  # of p_normalised, below which a deletion works; a preservation works above 1 - BOUND
POINTS = 200  # at most, of a curve
KEYS = ("photo", "perturbed", "complement", "frames", "iterations", "frame_p", "saliency", "terms", "curves")


@dataclass
class Job:
    """What a run's folder says; `fault` is why it says nothing."""

    name: str
    fault: str | None = None
    lines: list[dict[str, str]] = field(default_factory=list)  # of results.csv
    skipped: list[tuple[str, str]] = field(default_factory=list)  # image, reason
    summary: dict = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)  # of rows with pictures: name in the table -> file
    game: str = "deletion"

    def cell(self, line: dict[str, str], columns: Sequence[str]) -> dict:
        values = [_number(line.get(column)) for column in columns]
        p = _number(line["p_normalised"])
        keeps = self.game == "preservation"
        works = None if p is None else p >= 1 - BOUND if keeps else p <= BOUND
        return {"name": _name(line), "works": works, "values": values}


def write(folder: str | Path) -> Path:
    """`folder`/report.html of the run there."""
    folder = Path(folder)
    job = _read(folder, folder.resolve().name)
    if job.fault:
        raise ValueError(f"{str(folder)!r} is not the folder of a run: {job.fault}")
    return _write(folder, job.name, job.summary.get("protocol", {}).get("command", ""), [job])


def write_sweep(folder: str | Path, jobs: Sequence[str | Path]) -> Path:
    """`folder`/report.html of a sweep, whose jobs (a run's folder each, in or below `folder`) are shown in this order."""
    folder = Path(folder)
    found = [_read(folder / job, str(job if not Path(job).is_absolute() else Path(job).name)) for job in jobs]
    return _write(folder, folder.resolve().name, "", found)


def _read(folder: Path, name: str) -> Job:
    if (folder / store.FAILED).is_file():
        return Job(name, (folder / store.FAILED).read_text("utf-8", "replace").strip() or "failed")
    try:
        lines = tables.read_csv(folder / "results.csv")
    except FileNotFoundError:
        return Job(name, "no results.csv")
    if not lines or not set(tables.RESULT_COLUMNS) - {*tables.FILE_COLUMNS} <= lines[0].keys():
        return Job(name, "no rows in results.csv")
    skipped = folder / "skipped.csv"
    skipped = [(line["image"], line["reason"]) for line in tables.read_csv(skipped)] if skipped.is_file() else []
    try:
        summary = json.loads((folder / "summary.json").read_text("utf-8"))
    except (OSError, ValueError):  # a run that was killed has none yet
        summary = {}
    shown = (path.stem for path in (folder / "panels").glob("*.png"))
    masks = {name.encode("utf-8", "backslashreplace").decode(): folder / "masks" / f"{name}.npz" for name in shown}
    game = summary.get("protocol", {}).get("game") or str(_stored(folder / lines[0]["mask"], ("game",)).get("game", ""))
    return Job(name, None, lines, skipped, summary, masks, game or "deletion")


def _write(folder: Path, title: str, command: str, jobs: list[Job]) -> Path:
    columns = dict.fromkeys(c for job in jobs for line in job.lines[:1] for c in line)
    columns = [c for c in columns if c not in ("image", "class", "mask", *tables.FILE_COLUMNS)]
    rows = _matched(jobs)
    page = Path(__file__).parent / "page"
    style, script = ((page / f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    numbers = [_means(job, columns) for job in jobs]
    text = {
        "title": title,
        "command": command,
        "names": list(dict.fromkeys(name for one in numbers for name in one)),
        "jobs": [{"name": job.name, "fault": job.fault, "numbers": one} for job, one in zip(jobs, numbers)],
        "bound": BOUND,
        "skipped": [(image, why, job.name if len(jobs) > 1 else "") for job in jobs for image, why in job.skipped],
        "policy": f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src {_hash(style)}; script-src {_hash(script)}",
        "style": Markup(style),
        "script": Markup(script),
        "page": {
            "jobs": [{"name": job.name, "game": job.game, "fault": job.fault} for job in jobs],
            "rows": [_row(row, jobs, columns) for row in rows],
            "columns": columns,
            "colours": (COLOUR_TABLE * 255).round().int().flatten().tolist(),
            "aspect": _aspect(jobs),
        },
        "blocks": _blocks(rows, jobs),
    }
    path = folder / "report.html"
    environment = Environment(
        loader=PackageLoader("mpx.report", "page"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.policies["json.dumps_kwargs"] = {}  # the curves' terms in their order
    with files.open_atomically(path) as file:
        for part in environment.get_template("page.html.j2").generate(text):
            file.write(part.encode("utf-8", "backslashreplace"))
    return path


def _matched(jobs: list[Job]) -> list[list[dict | None]]:
    """Of each image and class the line of every job, as compare.paired: by area too where a job has several."""
    key = ("image", "target")
    if any(len({(line["image"], line["target"]) for line in job.lines}) < len(job.lines) for job in jobs):
        key += ("requested_area",)
    found = {}
    for j, job in enumerate(jobs):
        for line in job.lines:
            found.setdefault(tuple(line[k] for k in key), [None] * len(jobs))[j] = line
    return list(found.values())


def _row(row: list[dict | None], jobs: list[Job], columns: list[str]) -> dict:
    lines = [line for line in row if line]
    first, asked = lines[0], {line["requested_area"] for line in lines}
    reasons = [dict(job.skipped).get(first["image"]) for job in jobs] if len(jobs) > 1 else [None]
    return {
        "name": _name(first),
        "image": first["image"],
        "class": first["class"],
        "requested_area": _number(asked.pop()) if len(asked) == 1 else None,
        "cells": [
            job.cell(line, columns) if line else reason and {"reason": f"skipped: {reason}"}
            for job, line, reason in zip(jobs, row, reasons)
        ],
    }


def _means(job: Job, columns: list[str]) -> dict[str, str]:
    """What the head of the page says of a job; a run that was killed has no summary and only its counts."""
    if job.fault:
        return {}
    said = job.summary
    works = [cell["works"] for cell in (job.cell(line, columns) for line in job.lines) if cell["works"] is not None]
    counts = {"missing": said.get("n_missing", 0), "skipped": len(job.skipped)}
    means = {"rows": str(len(job.lines))} | {name: str(n) for name, n in counts.items() if n}
    means |= {"game": job.game, "works": format_percent(sum(works) / len(works)) if works else ""}
    statistics = {name: said[name] | {"value": said[name]["mean"]} for name in ("p_normalised", "area") if name in said}
    for name, found in (statistics | said.get("metrics", {})).items():
        if found["value"] is not None:
            means[name] = f"{found['value']:.3f}" + (
                " [{:.3f}, {:.3f}]".format(*found["interval95"]) if found["interval95"] else ""
            )
    return means


def _blocks(rows: list[list[dict | None]], jobs: list[Job]) -> Iterator[tuple[str, dict | str]]:
    """Element id -> what it holds, one at a time; a photo that several cells show is given once, before the first."""
    photos = {}
    for r, row in enumerate(rows):
        for j, (job, line) in enumerate(zip(jobs, row)):
            path = line and job.masks.get(_name(line))
            stored = _stored(path, KEYS) if path else {}
            block = _curves(stored) if stored else {}
            if "photo" in stored:
                photo = stored["photo"].tobytes()
                digest = sha256(photo).digest()
                if digest not in photos:
                    photos[digest] = f"p{len(photos)}"
                    yield photos[digest], _text(photo)
                block |= {
                    name: _text(stored[name].tobytes()) for name in ("perturbed", "complement", "frames") if name in stored
                }
                block |= {"photo": photos[digest], "final": _text(_final(stored["saliency"]))}
                block |= {"iterations": stored["iterations"].tolist(), "p": [_short(p) for p in stored["frame_p"].tolist()]}
            if block:
                yield f"d{r}-{j}", block


def _curves(stored: dict) -> dict:
    curves = stored["curves"]  # (terms, steps); an explainer has none
    if curves.size == 0:
        return {}
    at = np.linspace(0, curves.shape[1] - 1, min(curves.shape[1], POINTS)).round().astype(int)
    terms = zip(stored["terms"].tolist(), curves[:, at].tolist())
    return {"at": at.tolist(), "curves": {term: [_short(value) for value in values] for term, values in terms}}


def _final(saliency: np.ndarray) -> bytes:
    """The result as a grey JPEG at its own size, which the recorded `frames` do not have."""
    return encode_jpeg(
        Image.fromarray((np.nan_to_num(saliency.astype(np.float32)) * 255).round().clip(0, 255).astype(np.uint8))
    )


def _stored(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            return {key: file[key] for key in keys if key in file}
    except Exception:  # damaged in any way: store.load_row
        return {}


def _aspect(jobs: list[Job]) -> str:
    """Width / height of the pictures, which a run's share; of a flat box where the first has none."""
    path = next((path for job in jobs for path in job.masks.values()), None)
    stored = _stored(path, ("saliency", "photo")) if path else {}
    return "{1} / {0}".format(*stored["saliency"].shape) if "photo" in stored else "6 / 1"


def _name(line: dict[str, str]) -> str:
    return Path(line["mask"]).stem


def _number(text: str | None) -> float | None:
    value = tables.parse_number(text)  # not measured, or no such column in this job: NaN
    return value if math.isfinite(value) else None


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
