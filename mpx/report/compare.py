"""Several runs side by side: each metric of each run, with a paired test against the first run.

Rows are paired by image and class, and by the requested area and the object where a run has several. The test takes the mean
difference of each image, whose sign is flipped at random (two-sided, 9,999 flips).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import permutation_test

from mpx.report import html, plots, tables
from mpx.report.lines import ComparisonLine
from mpx.report.run_folder import RunFolder, as_compared, read_run
from mpx.runs.tables import parse_number
from mpx.tasks.normalised import within_scale

FLIPS = 9999


def write_comparison(folders: Sequence[str | Path], out: str | Path, metrics: Sequence[str] = ()) -> str:
    """Write table.md, table.csv, table.tex, cost.png and report.html of finished runs to `out`; return the Markdown.

    metrics: names; none: all. report.html holds the pictures of all runs and needs no other file.
    """
    if len(folders) < 2:
        raise ValueError("a comparison needs the folders of at least two finished runs")
    runs = [read_run(folder) for folder in folders]
    lines = compare_runs(runs, metrics)
    text = tables.save_tables(runs, lines, Path(out))
    plots.plot_costs(runs, lines, Path(out) / "cost.png")
    html.write_sweep_report(out, [run.folder.resolve() for run in runs])
    return text


def compare_runs(runs: Sequence[RunFolder], metrics: Sequence[str] = ()) -> list[ComparisonLine]:
    """Return a line for each run and metric; metrics: names, none: all. ValueError for a metric that no run has."""
    runs = as_compared(runs)
    if len({run.name for run in runs}) < len(runs):
        raise ValueError(f"two runs are called {sorted(run.name for run in runs)}: give each folder a name of its own")
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    if unknown := [name for name in metrics if name not in names]:
        raise ValueError(f"metrics={','.join(unknown)}: no run has it; the runs have {', '.join(names)}")
    return [_line(run, runs[0], name) for run in runs for name in metrics or names if name in run.metrics]


def _line(run: RunFolder, first: RunFolder, name: str) -> ComparisonLine:
    metric = run.metrics[name]
    low, high = metric["interval95"] or (math.nan, math.nan)
    difference, pairs, p_value = math.nan, 0, math.nan
    if not (run is first or metric.get("relative")):
        difference, pairs, p_value = paired_difference(run, first, name)
    protocol = metric["protocol"]
    return ComparisonLine(
        run=run.name, metric=name, value=metric["value"], better=metric["better"], low=low, high=high, n=metric["n"],
        difference=difference, pairs=pairs, p_value=p_value, axes=run.axes,
        protocol=protocol if isinstance(protocol, str) else json.dumps(protocol),
    )  # fmt: skip


def paired_difference(run: RunFolder, first: RunFolder, metric: str) -> tuple[float, int, float]:
    """Return the mean difference run - first over the images that both have, the number of rows, and the p value.

    Images of one name whose files differ in size are different images. The rows of an image are not independent, so signs
    are flipped image by image.
    """
    columns: tuple[str, ...] = ("image", "target")
    for column in ("requested_area", "class"):  # an image has several objects of one class, whose names differ
        if any(len(r.rows_by(columns)) < len(r.rows) for r in (run, first)):
            columns += (column,)
    first_rows = first.rows_by(columns)
    differences: dict[str, list[float]] = {}  # image -> of its rows
    for key, row in run.rows_by(columns).items():
        if (other := first_rows.get(key)) is None or len({r["file_bytes"] for r in (row, other) if r.get("file_bytes")}) > 1:
            continue
        values = (parse_number(line.get(metric)) for line in (row, other))
        value, other_value = map(within_scale, values) if metric == "value_normalised" else values
        difference = value - other_value
        if math.isfinite(difference):
            differences.setdefault(row["image"], []).append(difference)
    means = np.array([np.mean(values) for values in differences.values()])
    pairs = sum(map(len, differences.values()))
    if len(means) < 2:
        return math.nan, pairs, math.nan
    if not means.any():
        return 0.0, pairs, 1.0
    test = permutation_test((means,), np.mean, permutation_type="samples", n_resamples=FLIPS, rng=0)
    return means.mean().item(), pairs, test.pvalue.item()
