"""Comparisons as tables: Markdown, LaTeX and CSV, with notes on what can be compared."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mpx.metrics.summary import ARROWS
from mpx.report.lines import ComparisonLine, better_values, format_interval, format_value, is_best, metric_names
from mpx.report.run_folder import COST_METRICS, RunFolder, as_compared
from mpx.runs.files import write_file
from mpx.runs.tables import write_csv
from mpx.runs.terminal import count_of
from mpx.verdicts import WORKS, count_verdicts

LINE_COLUMNS = ("metric", "better", "value", "low", "high", "n", "difference", "pairs", "p_value", "protocol")
LATEX_ARROWS = {"higher": r"$\uparrow$", "lower": r"$\downarrow$", "near 0": r"$\to 0$", "none": ""}
SIGNIFICANT = 0.05


def save_tables(runs: Sequence[RunFolder], lines: Sequence[ComparisonLine], out: Path, *paragraphs: str) -> str:
    """Write table.md, which ends with `paragraphs`, table.csv and table.tex; return the Markdown."""
    text = "\n".join([markdown_table(runs, lines), *paragraphs])
    # an axis may be called like a column, e.g. metric=
    headings = {axis: f"{axis}=" if axis in LINE_COLUMNS else axis or "run" for axis in runs[0].axes}
    cells = [asdict(line) | {headings[axis]: value for axis, value in line.axes.items()} for line in lines]
    write_file(out / "table.md", text)
    write_csv(out / "table.csv", cells, [*headings.values(), *LINE_COLUMNS])
    write_file(out / "table.tex", latex_table(lines))
    return text


def markdown_table(runs: Sequence[RunFolder], lines: Sequence[ComparisonLine]) -> str:
    head, *body = table_cells(lines)
    rows = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n\n" + "\n\n".join(notes(runs, lines)) + "\n"


def latex_table(lines: Sequence[ComparisonLine]) -> str:
    """Return a tabular for the booktabs package."""
    head, *body = table_cells(lines, latex=True)
    axes = len(lines[0].axes)
    columns = "l" * axes + "r" * (len(head) - axes)
    rows = [" & ".join(row) + r" \\" for row in body]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule", *rows,
                      r"\bottomrule", r"\end{tabular}", ""])  # fmt: skip


def table_cells(lines: Sequence[ComparisonLine], latex: bool = False) -> list[list[str]]:
    """Return a row of headings, then a row for each run: its axes and "value [low, high]" of each metric.

    The best value of a metric is bold; * marks a significant difference to the first run. Costs have neither.
    """
    metrics = metric_names(lines)
    arrows = LATEX_ARROWS if latex else ARROWS
    head = [_escape(axis, latex) for axis in lines[0].axes]
    head += [f"{_escape(name, latex)} {arrows[better_values(lines, name)]}".rstrip() for name in metrics]
    line_of = {(line.run, line.metric): line for line in lines}
    axes = {line.run: line.axes for line in lines}
    return [head] + [
        [_escape(value, latex) for value in axes[run].values()]
        + [_cell(lines, line_of.get((run, name)), latex) for name in metrics]
        for run in axes
    ]


def _cell(lines: Sequence[ComparisonLine], line: ComparisonLine | None, latex: bool) -> str:
    if line is None or line.value is None:
        return "--" if latex else "–"
    text = format_value(line.value)
    if line.metric in COST_METRICS:
        return text
    if is_best(lines, line):
        text = rf"\textbf{{{text}}}" if latex else f"**{text}**"
    if line.has_interval:
        text += f" {format_interval(line)}"
    return text + "*" * (line.p_value < SIGNIFICANT)


def _escape(text: str, latex: bool) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&") if latex else text.replace("|", r"\|")


def notes(runs: Sequence[RunFolder], lines: Sequence[ComparisonLine]) -> list[str]:
    """Return sentences: the number of rows, the meaning of the marks, and what limits the comparison."""
    counts = {len(run.rows) for run in runs}
    rows = f"{counts.pop()} each" if len(counts) == 1 else ", ".join(f"{run.name} {len(run.rows)}" for run in runs)
    sentences = [
        f"Rows: {rows}. In brackets 95 % bootstrap intervals of the mean. The best value of a column is bold. * marks a "
        f"difference to {runs[0].name}, row by row (sign flips, p < {SIGNIFICANT}, not corrected for the number of tests)."
    ]
    sentences += [
        f"{run.name} is not finished: {run.n_missing} images are missing." for run in runs if not run.is_finished
    ]
    compared = as_compared(runs)
    relative = [name for name in metric_names(lines) if any(run.metrics.get(name, {}).get("relative") for run in compared)]
    if relative:
        verb = "are" if len(relative) > 1 else "is"
        sentences.append(
            f"{' and '.join(relative)} {verb} not compared: the reference is the fully perturbed image, and the "
            "perturbation or the network differs between these runs. value_after is the value itself."
        )
    for run in runs:
        verdicts = count_verdicts(run.rows).items()
        faults = [f"{verdict} in {count_of(n, len(run.rows))}" for verdict, n in verdicts if verdict != WORKS]
        sentences += [f"{run.name}: {', '.join(faults)}."] if faults else []
        sentences += [
            f"{line.metric} of {run.name} has a value in {count_of(line.n, len(run.rows))}."
            for line in lines
            if line.run == run.name and 0 < line.n < len(run.rows) and line.metric not in COST_METRICS
        ]
    n_first = {line.metric: line.n for line in lines if line.run == runs[0].name}
    for name in (name for name in metric_names(lines) if name not in relative):
        other_lines = [line for line in lines if line.metric == name and line.run != runs[0].name]
        if other_lines and not any(line.pairs for line in other_lines):
            sentences.append(f"{name} has no test: it is not a number of single rows, or no row is in both runs.")
        sentences += [
            f"{name}: only {line.pairs} rows are both in {line.run} and in {runs[0].name}; the values are over all of each."
            for line in other_lines
            if 0 < line.pairs < max(line.n, n_first.get(name, 0))
        ]
        protocols = {line.protocol for line in lines if line.metric == name and line.protocol}
        if len(protocols) > 1:
            sentences.append(f"The protocols of {name} differ: {' / '.join(sorted(protocols))}.")
    return sentences
