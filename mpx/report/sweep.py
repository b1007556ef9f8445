"""A sweep's folder as tables, pictures and curves.

It holds a folder for each job, named by what the sweep varies ("mask_size=14,perturbation=black"): the axes are read from
the names. jobs.txt, where it exists, has their order. A job that failed left failed.txt; the others are compared.
"""

import logging
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpx.pictures.encoding import encode_png
from mpx.report import html, pareto, plots, tables
from mpx.report.compare import compare_runs
from mpx.report.consensus import write_consensus
from mpx.report.run_folder import COMMON_METRICS, RunFolder, read_run, shares_reference
from mpx.report.sweep_grid import draw_grid
from mpx.runs.files import write_file
from mpx.runs.store import FAILED
from mpx.runs.tables import parse_number
from mpx.runs.terminal import printable

log = logging.getLogger("mpx")
JOBS_FILE = "jobs.txt"


@dataclass(frozen=True)
class Sweep:
    folder: Path
    runs: list[RunFolder]  # finished jobs in order; their `axes` are those that vary
    failed: dict[str, str]  # job -> reason
    unfinished: list[str]  # jobs


def write_sweep_results(folder: str | Path, out: str | Path | None = None, metrics: Sequence[str] = ()) -> str:
    """Write table.md, .csv and .tex, consensus.csv, pictures (.png) and report.html; return the Markdown.

    out: another folder for all but the report. metrics: names; none: the normalised probability, the area, each metric's
    main number and the cost.
    """
    sweep = read_sweep(folder)
    out = Path(out).expanduser() if out else sweep.folder
    faults = [f"- {job} failed: {printable(reason)}\n" for job, reason in sweep.failed.items()]
    faults += [f"- {job} is not finished: the same command continues it.\n" for job in sweep.unfinished]
    if not sweep.runs:
        text = "\n".join(["No job is finished.\n", "".join(faults)])
        write_file(out / "table.md", text)
        return text
    lines = compare_runs(sweep.runs, metrics or _main_metrics(sweep.runs))
    paragraphs = filter(None, (write_consensus(sweep.runs, out), "".join(faults)))
    text = tables.save_tables(sweep.runs, lines, out, *paragraphs)
    write_file(out / "grid.png", encode_png(draw_grid(sweep.runs, lines)))
    plots.plot_metrics(lines, out / "plots.png")
    pareto.plot_pareto(sweep.runs, out / "pareto.png")
    if out == sweep.folder:
        try:
            html.write_sweep_report(out, job_names(out))
        except Exception as error:  # the numbers are complete without it
            log.warning(f"report.html could not be written: {type(error).__name__}: {error}")
    return text


def summarise_sweep(folder: str | Path) -> str:
    """Write a sweep's results into its folder; return the table and where the files are."""
    text, folder = write_sweep_results(folder), Path(folder)
    files = [folder / name for name in ("table.md", "grid.png", "plots.png", "pareto.png", "consensus.png", "report.html")]
    return "\n".join([text, *(f"{file.stem:<9} {file}" for file in files if file.is_file())])


def read_sweep(folder: str | Path) -> Sweep:
    """Read the jobs of a sweep. ValueError where the folder holds none."""
    folder = Path(folder).expanduser()
    names = job_names(folder)
    if not names:
        raise ValueError(f"{str(folder)!r} is not the folder of a sweep: it should hold a folder for each job")
    axes = {name: job_axes(name) for name in names}
    keys = dict.fromkeys(key for values in axes.values() for key in values)
    varying = [key for key in keys if len({values.get(key) for values in axes.values()}) > 1] or list(keys)
    sweep = Sweep(folder, [], {}, [])
    for name in names:
        run = None
        with suppress(ValueError):
            run = read_run(folder / name)
        if run and run.is_finished:
            sweep.runs.append(replace(run, axes={key: axes[name].get(key, "") for key in varying}))
        elif (folder / name / FAILED).is_file():
            sweep.failed[name] = (folder / name / FAILED).read_text("utf-8").strip()
        else:  # a part of the images makes no fair comparison
            sweep.unfinished.append(name)
    return sweep


def job_names(folder: Path) -> list[str]:
    """Return the jobs: numbers by size, other values in the order of jobs.txt, then of the alphabet."""
    files = ("results.csv", FAILED, ".hydra")
    names = sorted(path.name for path in folder.glob("[!.]*/") if any((path / file).exists() for file in files))
    order = {name: n for n, name in enumerate(recorded_jobs(folder))}
    names.sort(key=lambda name: order.get(name, len(order)))
    values: dict[str, dict[str, None]] = {}  # axis -> its values in order
    for name in names:
        for axis, value in job_axes(name).items():
            values.setdefault(axis, {})[value] = None
    ranks = {axis: sort_values(list(distinct)) for axis, distinct in values.items()}
    return sorted(names, key=lambda name: [ranks[axis].index(value) for axis, value in job_axes(name).items()])


def recorded_jobs(folder: Path) -> list[str]:
    """Return the lines of jobs.txt, the jobs in the order of the command; none where there is no such file."""
    return (folder / JOBS_FILE).read_text("utf-8").splitlines() if (folder / JOBS_FILE).is_file() else []


def job_axes(name: str) -> dict[str, str]:
    """Return axis -> value of a job's name, e.g. of "mask_size=14,perturbation=black"."""
    parts = [part.partition("=") for part in re.split(r",(?=[^,=]+=)", name)]
    return {axis: value for axis, sign, value in parts if sign} or {"job": name}


def sort_values(values: list[str]) -> list[str]:
    """Return null, then numbers by size; values that are not all numbers keep their order."""
    numbers = [-math.inf if value == "null" else parse_number(value) for value in values]
    return values if np.isnan(numbers).any() else [values[i] for i in np.argsort(numbers, kind="stable")]


def _main_metrics(runs: Sequence[RunFolder]) -> list[str]:
    """Return the names without the parts of metrics: "localisation", not "localisation_mean"."""
    names = dict.fromkeys(name for run in runs for name in run.metrics if name not in COMMON_METRICS)
    main = [name for name in names if not any(name.startswith(f"{other}_") for other in names)]
    has_forwards = any(run.metrics["forwards"]["value"] for run in runs)  # the whole cost of an explainer like rise
    quality = ["value_normalised"] if shares_reference(runs) else ["value_after", "value_normalised"]
    return [*quality, "area", *main, "passes", *["forwards"] * has_forwards, "seconds"]
