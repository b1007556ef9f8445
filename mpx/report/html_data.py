"""What report.html shows of runs: their numbers, rows matched between runs, and a block of pictures for each row."""

import json
import math
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mpx.pictures.encoding import encode_jpeg
from mpx.report.html_lines import Line, Lines, MatchedLines, SingleLines
from mpx.report.pairs import encode_pair, pairs_of_lines
from mpx.report.wording import perturbation_words
from mpx.runs.store import FAILED
from mpx.runs.tables import RESULT_COLUMNS, parse_number, read_csv
from mpx.runs.terminal import count_of
from mpx.verdicts import WORKS, count_verdicts

MAX_POINTS = 200  # of a curve
ROWS_AT_ONCE = 500  # in a block of numbers
STORED_KEYS = ("photo", "perturbed", "complement", "frames", "iterations", "frame_values", "saliency", "terms", "curves",
               "answers")  # fmt: skip


@dataclass
class JobData:
    """What the folder of a run, or of a sweep's job, holds."""

    name: str
    fault: str | None = None  # the reason why it has no rows
    lines: Lines = Lines()
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (image, reason)
    summary: dict[str, Any] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)  # name in the table -> mask file, of rows with pictures
    game: str = "deletion"
    quantity: str = "probability"  # what the values are
    bounded: bool = True  # whether they are in [0,1]
    is_learnt: bool = True  # whether the masks were learnt; False: by an explainer, which plays no game
    paired: bool = False  # whether an image has two rows, a target and its opposite
    opposites: dict[str, Path] = field(default_factory=dict)  # name of such a row -> mask file of the other

    def cell(self, line: Line, columns: Sequence[str]) -> dict[str, Any]:
        """Return the name, the verdict, the success (None: there is no verdict) and the values of a row."""
        verdict = line["verdict"]
        success = verdict == WORKS if verdict else None
        values = [finite_number(line.get(c)) for c in columns]
        return {"name": row_name(line), "verdict": verdict, "success": success, "values": values}

    def page_entry(self) -> dict[str, Any]:
        """Return what the page's script knows of the job."""
        known = {key: vars(self)[key] for key in ("name", "game", "quantity", "bounded", "fault", "is_learnt")}
        return known | perturbation_words(self.learnt_with)

    @property
    def learnt_with(self) -> str:
        """Return the perturbation, or the explainer; nothing of a killed run."""
        return self.summary.get("protocol", {}).get("learnt_with", "")

    def headline(self, quality: str) -> dict[str, str]:
        """Return name -> text of the numbers at the top of the page; a killed run has no summary and only its counts.

        quality: the column of values whose mean is shown.
        """
        if self.fault:
            return {}
        counts = {"missing": self.summary.get("n_missing", 0), "skipped": len(self.skipped)}
        texts = {"rows": str(len(self.lines))} | {name: str(n) for name, n in counts.items() if n}
        texts |= {"game": self.game} if self.is_learnt else {}
        texts |= {verdict: count_of(n, len(self.lines)) for verdict, n in count_verdicts(self.lines).items()}
        common = {name: self.summary[name] for name in (quality, "area") if name in self.summary}
        metrics = {name: values | {"value": values["mean"]} for name, values in common.items()}
        for name, metric in (metrics | self.summary.get("metrics", {})).items():
            if metric["value"] is not None:
                interval = " [{:.3f}, {:.3f}]".format(*metric["interval95"]) if metric["interval95"] else ""
                some = "" if metric["n"] == len(self.lines) else f" of {count_of(metric['n'], len(self.lines))}"
                texts[name] = f"{metric['value']:.3f}{interval}{some}"
        return texts


def read_job(folder: Path, name: str) -> JobData:
    """Read a run's folder; one without rows has a `fault`."""
    try:
        summary = json.loads((folder / "summary.json").read_text("utf-8"))
    except (OSError, ValueError):  # a killed run has none yet
        summary = {}
    if (folder / FAILED).is_file() and (summary.get("n_missing", 1) or summary["protocol"].get("stopped")):
        return JobData(name, (folder / FAILED).read_text("utf-8", "replace").strip() or "failed")
    try:
        lines = Lines.of(folder / "results.csv")
    except FileNotFoundError:
        return JobData(name, "no results.csv")
    if not set(RESULT_COLUMNS) <= lines.first.keys():
        return JobData(name, "no rows in results.csv")
    skipped = read_csv(folder / "skipped.csv") if (folder / "skipped.csv").is_file() else []
    pictured = (path.stem for path in (folder / "panels").glob("*.png"))
    masks = {name.encode("utf-8", "backslashreplace").decode(): folder / "masks" / f"{name}.npz" for name in pictured}
    reasons = [(line["image"], line["reason"]) for line in skipped]
    stored = load_arrays(folder / lines.first["mask"], ("game", "is_learnt", "quantity", "bounded", "paired"))
    task = {key: array.item() for key, array in stored.items()}
    pairs = pairs_of_lines(list(lines)) if task.get("paired") else []
    opposites = {Path(one).stem: folder / other for a, b in pairs for one, other in ((a, b), (b, a))}
    return JobData(name, None, lines, reasons, summary, masks, opposites=opposites, **task)


def match_rows(jobs: Sequence[JobData]) -> Iterable[MatchedLines]:
    """Return the lines of each image and class, one for each job; by requested area and object too where a job has several.

    The same pairing as compare.paired_difference. The lines of a single job are not kept.
    """
    if len(jobs) == 1:
        return SingleLines(jobs[0].lines)
    key: tuple[str, ...] = ("image", "target")
    for column in ("requested_area", "class"):
        if any(len({tuple(line[c] for c in key) for line in job.lines}) < len(job.lines) for job in jobs):
            key += (column,)
    rows: dict[tuple[str, ...], MatchedLines] = {}
    for j, job in enumerate(jobs):
        for line in job.lines:
            rows.setdefault(tuple(line[column] for column in key), [None] * len(jobs))[j] = line
    return rows.values()


def page_rows(
    rows: Iterable[MatchedLines], jobs: Sequence[JobData], columns: Sequence[str]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield (element id, rows for the page's script), ROWS_AT_ONCE of them at a time."""
    made = (page_row(row, jobs, columns) for row in rows)
    for number in count():
        part = list(islice(made, ROWS_AT_ONCE))
        if not part:
            return
        yield f"rows{number}", part


def page_row(row: MatchedLines, jobs: Sequence[JobData], columns: Sequence[str]) -> dict[str, Any]:
    """Return a row for the page's script."""
    lines = [line for line in row if line]
    first = lines[0]
    areas = {line["requested_area"] for line in lines}
    reasons = [dict(job.skipped).get(first["image"]) if len(jobs) > 1 else None for job in jobs]
    return {
        "name": row_name(first),
        "image": first["image"],
        "class": first["class"],
        "requested_area": finite_number(areas.pop()) if len(areas) == 1 else None,
        "cells": [
            job.cell(line, columns) if line else reason and {"reason": f"skipped: {reason}"}
            for job, line, reason in zip(jobs, row, reasons)
        ],
    }


def picture_blocks(rows: Iterable[MatchedLines], jobs: Sequence[JobData]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Yield (element id, content) one at a time; an image of several cells is yielded once, before the first of them."""
    photos: dict[bytes, str] = {}  # digest -> element id
    for r, row in enumerate(rows):
        for j, (job, line) in enumerate(zip(jobs, row)):
            path = job.masks.get(row_name(line)) if line else None
            stored = load_arrays(path, STORED_KEYS)
            block = _curves(stored) if stored else {}
            if "photo" in stored:
                photo = stored["photo"].tobytes()
                digest = sha256(photo).digest()
                if digest not in photos:
                    photos[digest] = f"p{len(photos)}"
                    yield photos[digest], _base64(photo)
                block |= {"photo": photos[digest]} | _pictures(stored)
                opposite = load_arrays(job.opposites.get(path.stem) if path else None, ("saliency",))
                if opposite:
                    block["pair"] = _base64(encode_pair(stored, opposite))
            if block:
                yield f"d{r}-{j}", block


def aspect_ratio(jobs: Sequence[JobData]) -> str:
    """Return "width / height" of the pictures, which all rows of a run share; of a flat box where the first has none."""
    path = next((path for job in jobs for path in job.masks.values()), None)
    stored = load_arrays(path, ("saliency", "photo"))
    return "{1} / {0}".format(*stored["saliency"].shape) if "photo" in stored else "6 / 1"


def load_arrays(path: Path | None, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return these arrays of a mask file; none where there is no file or it is damaged."""
    if path is None:
        return {}
    try:
        with np.load(path) as file:
            return {key: file[key] for key in keys if key in file}
    except Exception:  # see store.load_row for the errors of a damaged file
        return {}


def row_name(line: Line) -> str:
    return line["mask"].rpartition("/")[2].removesuffix(".npz")  # a Path takes ten times as long


def finite_number(text: str | None) -> float | None:
    value = parse_number(text)
    return value if math.isfinite(value) else None


def _pictures(stored: dict[str, np.ndarray]) -> dict[str, Any]:
    saliency = (np.nan_to_num(stored["saliency"].astype(np.float32)) * 255).round().clip(0, 255).astype(np.uint8)
    pictures = {name: _base64(stored[name].tobytes()) for name in ("perturbed", "complement", "frames") if name in stored}
    return pictures | {
        "answers": {
            name: [[answer, _short(value), is_target] for answer, value, is_target in answers]
            for name, answers in json.loads(stored["answers"].item() if "answers" in stored else "{}").items()
        },
        "final": _base64(encode_jpeg(Image.fromarray(saliency))),  # at its own size, which `frames` do not have
        "iterations": stored["iterations"].tolist(),
        "values": [_short(value) for value in stored["frame_values"].tolist()],
    }


def _curves(stored: dict[str, np.ndarray]) -> dict[str, Any]:
    curves = stored["curves"]  # (terms, steps); an explainer has none
    if curves.size == 0:
        return {}
    at = np.linspace(0, curves.shape[1] - 1, min(curves.shape[1], MAX_POINTS)).round().astype(int)
    terms = zip(stored["terms"].tolist(), curves[:, at].tolist())
    return {"at": at.tolist(), "curves": {term: [_short(value) for value in values] for term, values in terms}}


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
