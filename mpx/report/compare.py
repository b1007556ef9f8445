"""Several runs beside each other: methods x metrics with intervals, a paired test against the first, and what each cost.

A run's folder gives all: results.csv its rows, summary.json the metrics' values, intervals and protocols. Rows are paired by
image and class, and by the area asked where a run has several. The test is of the images' mean differences, whose signs are
flipped by chance (two-sided, 9,999 flips).
"""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import permutation_test

from mpx.report.figures import save_figure
from mpx.runs import files, tables

# what every run has: column -> which is better
ALWAYS = {"p_normalised": "lower", "area": "lower", "passes": "lower", "forwards": "lower", "seconds": "lower"}
COLUMNS = ("method", "metric", "better", "value", "low", "high", "n", "first", "pairs", "p_value", "protocol")
COST = ("passes", "forwards", "seconds")


@dataclass(frozen=True)
class Run:
    """What a finished run's folder says."""

    folder: Path
    axes: dict[str, str]  # what heads its line in a table: column -> cell; in a sweep what varies, else its name
    rows: list[dict[str, str]]  # lines of results.csv
    metrics: dict[str, dict]  # column -> value, interval95, n, better, protocol
    protocol: dict
    missing: int  # images

    @property
    def name(self) -> str:
        return self.folder.name or str(self.folder)

    def by(self, *columns: str) -> dict[tuple, dict[str, str]]:
        return {tuple(row[column] for column in columns): row for row in self.rows}


def read(folder: str | Path) -> Run:
    folder = Path(folder).expanduser()
    try:
        with open(folder / "results.csv", newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        summary = json.loads((folder / "summary.json").read_text("utf-8"))
        metrics = {k: _plain(summary[k]) | {"better": better} for k, better in ALWAYS.items()}
        if summary["protocol"].get("game") == "preservation":
            metrics["p_normalised"]["better"] = "higher"
        metrics |= summary.get("metrics", {})
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{str(folder)!r} is not the folder of a finished run ({type(error).__name__}: {error}): give those that hold "
            "results.csv and summary.json"
        ) from error
    return Run(folder, {"": folder.name or str(folder)}, lines, metrics, summary["protocol"], summary["n_missing"])


def _plain(statistics: dict) -> dict:
    return {"value": statistics["mean"], "interval95": statistics["interval95"], "n": statistics["n"], "protocol": ""}


def compare(runs: Sequence[Run], wanted: Sequence[str] = ()) -> list[dict]:
    """COLUMNS of every method and metric, or those wanted, and its axes; `first` is the mean paired difference to the first
    method."""
    if len({run.name for run in runs}) < len(runs):
        raise ValueError(f"two runs are called {sorted(run.name for run in runs)}: give each folder a name of its own")
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    if unknown := [name for name in wanted if name not in names]:
        raise ValueError(f"metrics={','.join(unknown)}: no run has it; they have {', '.join(names)}")
    table = []
    for run in runs:
        for name in wanted or names:
            if name not in run.metrics:
                continue
            found = run.metrics[name]
            low, high = found["interval95"] or (math.nan, math.nan)
            line = {"method": run.name, "axes": run.axes, "metric": name, "better": found["better"]}
            line |= {"value": found["value"], "low": low, "high": high}
            difference, pairs, p = paired(run, runs[0], name) if run is not runs[0] else (math.nan, 0, math.nan)
            line |= {"n": found["n"], "first": difference, "pairs": pairs, "p_value": p}
            protocol = found["protocol"]
            table.append(line | {"protocol": protocol if isinstance(protocol, str) else json.dumps(protocol)})
    return table


def paired(run: Run, first: Run, name: str) -> tuple[float, int, float]:
    """Mean difference over the images that both have, of how many rows that is, and the p value.

    A photo of another size in bytes is another photo, whatever it is called. An image's rows do not vary independently:
    signs are flipped image by image.
    """
    key = ("image", "target")
    if any(len(r.by(*key)) < len(r.rows) for r in (run, first)):
        key += ("requested_area",)
    mine, others = run.by(*key), first.by(*key)
    found = {}  # image -> differences
    for k in (k for k in mine if k in others):
        a, b = (tables.parse_number(rows[k].get(name)) for rows in (mine, others))
        if math.isfinite(a - b) and len({r[k]["file_bytes"] for r in (mine, others) if r[k].get("file_bytes")}) < 2:
            found.setdefault(k[0], []).append(a - b)
    differences, pairs = np.array([np.mean(those) for those in found.values()]), sum(map(len, found.values()))
    if len(differences) < 2:
        return math.nan, pairs, math.nan
    if not differences.any():
        return 0.0, pairs, 1.0
    test = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=9999, rng=0)
    return differences.mean().item(), pairs, test.pvalue.item()


def grid(table: list[dict], tex: bool = False) -> list[list[str]]:
    """Lines of cells: a method each, "value [low, high]", the best of a column marked, * where it differs from the first
    by p < 0.05."""
    methods = {line["method"]: line["axes"] for line in table}
    names = dict.fromkeys(line["metric"] for line in table)
    cells = {(line["method"], line["metric"]): line for line in table}
    signs = dict(zip(("higher", "lower", "near 0"), (r"$\uparrow$", r"$\downarrow$", r"$\to 0$") if tex else "↑↓0"))
    head = [_text(axis, tex) for axis in table[0]["axes"]]
    lines = [head + [f"{_text(n, tex)} {signs.get(better(table, n), '')}".rstrip() for n in names]]
    for method, axes in methods.items():
        lines.append([_text(value, tex) for value in axes.values()])
        for name in names:
            line = cells.get((method, name))
            if line is None or line["value"] is None:
                lines[-1].append("–" if not tex else "--")
                continue
            text = short(line["value"])
            if name not in COST and is_best(table, line):
                text = rf"\textbf{{{text}}}" if tex else f"**{text}**"
            if math.isfinite(line["low"]) and name not in COST:
                text += f" [{short(line['low'])}, {short(line['high'])}]"
            lines[-1].append(text + ("*" if line["p_value"] < 0.05 and name not in COST else ""))
    return lines


def better(table: list[dict], name: str) -> str:
    """Return higher, lower or near 0; empty for a metric without direction, or where the methods differ in it."""
    directions = {line["better"] for line in table if line["metric"] == name}
    return directions.pop() if len(directions) == 1 and "none" not in directions else ""


def title(table: list[dict], name: str) -> str:
    return f"{name} ({way} is better)" if (way := better(table, name)) else name


def is_best(table: list[dict], line: dict) -> bool:
    values = [other["value"] for other in table if other["metric"] == line["metric"] and other["value"] is not None]
    best = {"higher": max, "lower": min, "near 0": lambda v: min(v, key=abs)}.get(better(table, line["metric"]))
    return best is not None and line["value"] == best(values)


def short(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}" if abs(x) >= 1 else f"{x:.3f}"


def _text(text: str, tex: bool) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&") if tex else text.replace("|", r"\|")


def notes(runs: Sequence[Run], table: list[dict]) -> list[str]:
    """What a reader must know: how many rows, what * means, where protocols differ."""
    same = len({len(run.rows) for run in runs}) == 1
    counts = f"{len(runs[0].rows)} each" if same else ", ".join(f"{run.name} {len(run.rows)}" for run in runs)
    said = [
        f"Rows: {counts}. In brackets 95 % bootstrap intervals of the mean; the best value of a column is bold; * differs "
        f"from {runs[0].name}, row by row (sign flips, p < 0.05, not corrected for the number of tests)."
    ]
    for run in runs:
        if run.missing or run.protocol.get("stopped"):
            said.append(f"{run.name} is not finished: {run.missing} images are missing.")
    first = {line["metric"]: line["n"] for line in table if line["method"] == runs[0].name}
    for name in dict.fromkeys(line["metric"] for line in table):
        others = [line for line in table if line["metric"] == name and line["method"] != runs[0].name]
        if others and not any(line["pairs"] for line in others):
            said.append(f"{name} is not a number of single rows, or no row is in both: no test.")
        for line in others:
            if 0 < line["pairs"] < max(line["n"], first.get(name, 0)):
                said.append(
                    f"{name}: only {line['pairs']} rows are both in {line['method']} and in {runs[0].name}; the values are "
                    "over all of each."
                )
    for name in dict.fromkeys(line["metric"] for line in table):
        protocols = {line["protocol"] for line in table if line["metric"] == name and line["protocol"]}
        if len(protocols) > 1:
            said.append(f"The protocols of {name} differ: {' / '.join(sorted(protocols))}.")
    return said


def markdown(runs: Sequence[Run], table: list[dict]) -> str:
    lines = grid(table)
    rows = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n\n" + "\n\n".join(notes(runs, table)) + "\n"


def latex(table: list[dict]) -> str:
    """For the booktabs package."""
    head, *lines = grid(table, tex=True)
    body = [" & ".join(row) + r" \\" for row in lines]
    axes = len(table[0]["axes"])
    columns = "l" * axes + "r" * (len(head) - axes)
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule", *body,
                      r"\bottomrule", r"\end{tabular}", ""])  # fmt: skip


def figure(runs: Sequence[Run], table: list[dict], path: Path) -> None:
    """Each metric against what a row cost: passes, a forward counted as a third of one."""
    from matplotlib.figure import Figure  # slow to import

    names = [name for name in dict.fromkeys(line["metric"] for line in table) if name not in COST]
    across = max(1, min(4, len(names)))
    page = Figure(figsize=(4 * across, 3.2 * math.ceil(len(names) / across) + 0.5), layout="constrained")
    panels = page.subplots(math.ceil(len(names) / across), across, sharex=True, squeeze=False).flatten()
    for name, axes in zip(names, panels):
        for j, run in enumerate(runs):
            for line in table:
                if line["method"] == run.name and line["metric"] == name and line["value"] is not None:
                    ends = [[max(0.0, line["value"] - line["low"])], [max(0.0, line["high"] - line["value"])]]
                    spread = ends if math.isfinite(line["low"]) else None
                    axes.errorbar(cost(run), line["value"], spread, fmt="o", color=f"C{j % 10}", capsize=2)
        axes.set(title=title(table, name), xscale="log", xlabel="passes (a forward is a third)")
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    marks = [panels[0].plot([], [], "o", color=f"C{j % 10}", label=run.name)[0] for j, run in enumerate(runs)]
    page.legend(handles=marks, loc="outside lower center", ncols=min(4, len(runs)))
    save_figure(path, page)


def cost(run: Run) -> float:
    passes, forwards = ((run.metrics[name]["value"] or 0) for name in ("passes", "forwards"))
    return max(0.1, passes + forwards / 3)  # a logarithm knows no 0


def save(runs: Sequence[Run], table: list[dict], out: Path, *more: str) -> str:
    """table.md, with more paragraphs, table.csv and table.tex in `out`; returns the Markdown."""
    text = "\n".join([markdown(runs, table), *more])
    heads = {axis: f"{axis}=" if axis in COLUMNS else axis or "method" for axis in runs[0].axes}  # metric= may vary, too
    lines = [{heads[axis]: value for axis, value in line["axes"].items()} | line for line in table]
    files.write_file(out / "table.md", text)
    tables.write_csv(out / "table.csv", lines, [*heads.values(), *COLUMNS[1:]])
    files.write_file(out / "table.tex", latex(table))
    return text


def write(folders: Sequence[str], out: Path, wanted: Sequence[str] = ()) -> str:
    """table.md, table.csv, table.tex and cost.png in `out`; returns the Markdown."""
    if len(folders) < 2:
        raise ValueError("give at least two folders of finished runs")
    runs = [read(folder) for folder in folders]
    table, out = compare(runs, wanted), Path(out)
    text = save(runs, table, out)
    figure(runs, table, out / "cost.png")
    return text
