"""Figures of comparisons: metrics against cost, metrics along a sweep's axes, and the runs that no other run beats."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpx.report.figures import MAX_LABELS, name_point, new_figure, place_labels, set_log_axis
from mpx.report.heat_map import draw_heat_map
from mpx.report.lines import ComparisonLine, metric_names, metric_title, run_cost
from mpx.report.run_folder import COST_METRICS, RunFolder
from mpx.runs.tables import parse_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.2, 3.2  # inches of a panel
PASSES_LABEL = "passes (a forward counts as a third)"
LINE_STYLES = ("-", "--", ":", "-.")
MARKERS = "os^Dv"


def plot_costs(runs: Sequence[RunFolder], lines: Sequence[ComparisonLine], path: Path) -> None:
    """Plot each metric against the cost of a row."""
    names = [name for name in metric_names(lines) if name not in COST_METRICS]
    costs = {run.name: run_cost(run) for run in runs}
    colours = {run.name: f"C{k % 10}" for k, run in enumerate(runs)}
    labels = []
    with _panels(path, lines, names) as (figure, panels):
        for name, panel in zip(names, panels):
            for line in lines:
                if line.metric == name and line.value is not None:
                    ends = [[max(0.0, line.value - line.low)], [max(0.0, line.high - line.value)]]
                    interval = ends if line.has_interval else None
                    colour = colours[line.run]
                    panel.errorbar(costs[line.run], line.value, interval, fmt="o", color=colour, capsize=2, label=line.run)
                    labels.append((panel, line.run, (costs[line.run], line.value), colour))
            panel.margins(0.15)
            panel.set_xlabel(PASSES_LABEL)
            set_log_axis(panel)
        if len(runs) <= MAX_LABELS:
            place_labels(figure, [name_point(*label) for label in labels])
        elif panels:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)


@contextmanager
def _panels(
    path: Path, lines: Sequence[ComparisonLine], names: Sequence[str], stretch_x: float = 1.0, stretch_y: float = 1.0
) -> Iterator[tuple["Figure", list["Axes"]]]:
    """Give a figure and a panel for each metric, and write it at the end."""
    across = 2 if len(names) == 4 else max(1, min(3, len(names)))
    down = max(1, math.ceil(len(names) / across))
    with new_figure(path, WIDTH * across * stretch_x, HEIGHT * down * stretch_y + 0.4) as figure:
        panels = figure.subplots(down, across, squeeze=False).flatten()
        for name, panel in zip(names, panels):
            panel.set_title(metric_title(lines, name))
        for panel in panels[len(names) :]:
            panel.set_axis_off()
        yield figure, list(panels[: len(names)])


def plot_metrics(lines: Sequence[ComparisonLine], path: Path) -> None:
    """Plot each metric along the axes of a sweep.

    One axis of numbers is a line with its 95 % band, one of names points, two are a heat map; of more axes, each
    combination of the other axes is a line along the first.
    """
    names = [name for name in metric_names(lines) if name not in COST_METRICS] or metric_names(lines)
    axes = list(lines[0].axes)
    values = [list(dict.fromkeys(line.axes[axis] for line in lines)) for axis in axes]
    is_heat_map = len(axes) == 2 and min(map(len, values)) > 1
    stretch_x = max(1.0, len(values[-1]) / 5 if is_heat_map else len(values[0]) / 8)
    stretch_y = max(1.0, len(values[0]) / 6) if is_heat_map else 1.0
    with _panels(path, lines, names, stretch_x, stretch_y) as (figure, panels):
        for name, panel in zip(names, panels):
            metric_lines = [line for line in lines if line.metric == name and line.value is not None]
            (draw_heat_map if is_heat_map else draw_lines)(panel, metric_lines, axes, values)
        handles, labels = panels[0].get_legend_handles_labels()
        if labels:
            layout: dict[str, Any] = {"loc": "outside lower center", "ncols": min(4, len(labels))}
            figure.legend(handles, labels, title=", ".join(axes[1:]), **layout)


def draw_lines(panel: "Axes", lines: Sequence[ComparisonLine], axes: list[str], values: list[list[str]]) -> None:
    """Draw the values of one metric along the first axis, a line or a marker for each combination of the other axes.

    values: of each axis, in order.
    """
    first, *other_axes = axes
    numbers = [parse_number(value) for value in values[0]]
    is_numeric = bool(np.isfinite(numbers).all())
    x_of = dict(zip(values[0], numbers if is_numeric else map(float, range(len(numbers)))))
    groups: dict[tuple[str, ...], list[ComparisonLine]] = {}
    for line in sorted(lines, key=lambda line: x_of[line.axes[first]]):
        groups.setdefault(tuple(line.axes[axis] for axis in other_axes), []).append(line)
    for k, (combination, metric_lines) in enumerate(groups.items()):
        x = np.array([x_of[line.axes[first]] for line in metric_lines])
        y, low, high = np.array([(line.value, line.low, line.high) for line in metric_lines], float).T
        style: dict[str, Any] = {"color": f"C{k % 10}", "label": ", ".join(combination) or None}
        if is_numeric:
            panel.plot(x, y, "o", ls=LINE_STYLES[k // 10 % 4], ms=4, **style)
            panel.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)
        else:
            x = x + 0.6 * ((k + 0.5) / len(groups) - 0.5)  # side by side
            interval = [np.nan_to_num(y - low), np.nan_to_num(high - y)]
            panel.errorbar(x, y, interval, fmt=MARKERS[k // 10 % 5], ms=5, capsize=2, **style)
    panel.set_xlabel(first)
    if is_numeric:
        _set_numeric_axis(panel, numbers, values[0])
    else:
        panel.set_xticks(range(len(numbers)), values[0], rotation=30, ha="right", rotation_mode="anchor")


def _set_numeric_axis(panel: "Axes", numbers: list[float], labels: list[str]) -> None:
    if is_geometric(numbers):
        panel.set_xscale("symlog", linthresh=min(x for x in numbers if x))  # linear near 0, which has no logarithm
    panel.set_xticks(numbers, readable_labels(panel, numbers, labels))
    panel.minorticks_off()


def is_geometric(numbers: Sequence[float]) -> bool:
    """Return whether the steps between numbers are more even as ratios than as differences; 0 is left out."""
    x = np.unique(numbers)
    if x[0] < 0 or len(x := x[x > 0]) < 3:
        return False
    differences, ratios = (np.diff(steps) for steps in (x, np.log(x)))
    return bool(ratios.std() / ratios.mean() < differences.std() / differences.mean())


def readable_labels(panel: "Axes", numbers: list[float], labels: list[str]) -> list[str]:
    """Return the labels; those that would overlap the one before are empty. numbers: rising."""
    positions = panel.transScale.transform([(x, 0) for x in numbers])[:, 0]
    min_distance = 0.03 * max(map(len, labels)) * np.ptp(positions)
    readable = []
    last = -math.inf
    for position, label in zip(positions, labels):
        is_free = position - last >= min_distance
        readable.append(label if is_free else "")
        last = position if is_free else last
    return readable
