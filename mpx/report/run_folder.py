"""The folder of a finished run, read: rows of results.csv, metrics and protocol of summary.json."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpx.data.reading import read_json
from mpx.errors import first_line
from mpx.runs.tables import read_csv

# metrics that every run has, in summary.json under their own names -> which values are better
COMMON_METRICS = dict.fromkeys(("value_normalised", "value_after", "area", "passes", "forwards", "seconds"), "lower")
PROBABILITY = "probability"
COST_METRICS = ("passes", "forwards", "seconds")
# measured on the scale of the mask's own perturbation
RELATIVE = ("value_normalised", "normalised_drop", "representativeness", "sets")
CROSSED = "cross_perturbation"  # the mean over the perturbations that are not the mask's own
DIRECTIONS = ("higher", "lower", "near 0", "none")
COLUMNS = {"image", "class", "target", "requested_area", "mask"}  # of results.csv, by which rows are paired


@dataclass(frozen=True)
class RunFolder:
    """What the folder of a run holds."""

    folder: Path
    axes: dict[str, str]  # heading -> cell at the left of its line in a table; in a sweep what varies, else the run's name
    rows: list[dict[str, str]]  # lines of results.csv
    metrics: dict[str, dict[str, Any]]  # name -> value, interval95, n, better, protocol
    protocol: dict[str, Any]
    n_missing: int  # images

    @property
    def name(self) -> str:
        return self.folder.name or str(self.folder)

    @property
    def is_finished(self) -> bool:
        return not self.n_missing and not self.protocol.get("stopped")

    def rows_by(self, columns: tuple[str, ...]) -> dict[tuple[str, ...], dict[str, str]]:
        """Return the rows by their values in these columns."""
        return {tuple(row[column] for column in columns): row for row in self.rows}


def read_run(folder: str | Path) -> RunFolder:
    """Read results.csv and summary.json. ValueError where one is missing or damaged."""
    folder = Path(folder).expanduser()
    try:
        rows = read_csv(folder / "results.csv")
        if rows and (missing := COLUMNS - rows[0].keys()):
            raise ValueError(f"results.csv has no column {', '.join(sorted(missing))}")
        summary = read_json(folder / "summary.json", "summary.json")
        protocol = dict(summary["protocol"])
        metrics = {name: _common_metric(summary[name], better) for name, better in COMMON_METRICS.items()}
        if protocol.get("game") == "preservation":
            metrics["value_normalised"]["better"] = metrics["value_after"]["better"] = "higher"
        if protocol.get("value") != PROBABILITY:  # another task's number may be better high or low
            metrics["value_after"]["better"] = "none"
        protocols = dict(summary.get("metric_protocols", {}))
        for name, metric in summary.get("metrics", {}).items():  # the first column of a metric has its protocol
            metrics[name] = metric | {"protocol": protocols.pop(metric["metric"], "")}
        for name, metric in metrics.items():
            _check_metric(name, metric)
        n_missing = int(summary["n_missing"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # of damaged files
        raise ValueError(
            f"{str(folder)!r} is not the folder of a finished run ({type(error).__name__}: {first_line(error)}): "
            "give folders that hold results.csv and summary.json"
        ) from error
    return RunFolder(folder, {"": folder.name or str(folder)}, rows, metrics, protocol, n_missing)


def _common_metric(statistics: dict[str, Any], better: str) -> dict[str, Any]:
    values = {"value": statistics["mean"], "interval95": statistics["interval95"], "n": statistics["n"]}
    return {**values, "better": better, "protocol": ""}


def _check_metric(name: str, metric: dict[str, Any]) -> None:
    """Raise ValueError or another error where an entry of a metric is of another kind than mpx writes."""
    low, high = metric["interval95"] or (0, 0)
    numbers = [number for number in (metric["value"], low, high, metric["n"]) if number is not None]
    if not all(map(math.isfinite, numbers)) or metric["better"] not in DIRECTIONS:
        raise ValueError(f"summary.json has {metric} for {name}")


def shares_reference(runs: Sequence[RunFolder]) -> bool:
    """Return whether value_normalised has one scale in all runs: its 0 is the fully perturbed image of one network."""
    return len({json.dumps(run.protocol.get("reference"), sort_keys=True) for run in runs}) == 1


def as_compared(runs: Sequence[RunFolder]) -> list[RunFolder]:
    """Return the runs; where their perturbation or network differs, no value of RELATIVE metrics is better than another."""
    if shares_reference(runs):
        return list(runs)
    crossed = {frozenset(name for name in run.metrics if name.startswith(f"{CROSSED}_")) for run in runs}
    relative = {*RELATIVE, CROSSED} if len(crossed) > 1 else {*RELATIVE}

    def compared(name: str, metric: dict[str, Any]) -> dict[str, Any]:
        is_relative = name == f"{CROSSED}_own" or (name if name == CROSSED else metric.get("metric", name)) in relative
        return metric | {"better": "none", "relative": True} if is_relative else metric

    return [replace(run, metrics={name: compared(name, m) for name, m in run.metrics.items()}) for run in runs]
