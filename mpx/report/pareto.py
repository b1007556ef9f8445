"""pareto.png of a sweep: the runs that no other run beats in two quantities."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpx.pictures.colours import BLUE
from mpx.pictures.text import FAINT_INK, INK
from mpx.report.figures import MAX_LABELS, name_point, new_figure, place_labels, set_log_axis
from mpx.report.lines import ComparisonLine, better_values, metric_title, run_cost
from mpx.report.plots import PASSES_LABEL
from mpx.report.run_folder import RunFolder, as_compared, shares_reference

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAINT = "#a4a4ae"  # of runs that another beats


def plot_pareto(runs: Sequence[RunFolder], path: Path) -> None:
    """Plot the probability that is left against area, and quality against passes; join the runs that no other run beats."""
    runs = as_compared(runs)
    lines = [ComparisonLine(run.name, name, metric["value"], metric["better"])
             for run in runs for name, metric in run.metrics.items()]  # fmt: skip
    values: dict[str, dict[str, float | None]] = {}  # metric -> run -> value
    for line in lines:
        values.setdefault(line.metric, {})[line.run] = line.value
    left_value = "value_normalised" if shares_reference(runs) else "value_after"
    quality = "deletion" if "deletion" in values else left_value
    costs = {run.name: run_cost(run) for run in runs}
    has_costs = len(set(costs.values())) > 1  # else the second panel says nothing
    with new_figure(path, (1 + has_costs) * 5.2, 4.2) as figure:
        left, *right = figure.subplots(1, 1 + has_costs, squeeze=False)[0]
        left.set(xlabel="area of the evidence", ylabel=metric_title(lines, left_value))
        labels = _draw_front(left, values["area"], values[left_value], better_values(lines, left_value), runs)
        for panel in right:
            panel.set(xlabel=PASSES_LABEL, ylabel=metric_title(lines, quality))
            labels += _draw_front(panel, costs, values[quality], better_values(lines, quality), runs)
            set_log_axis(panel)
        if any(runs[0].axes):
            figure.suptitle(", ".join(runs[0].axes), color=FAINT_INK)  # the labels are values of these
        place_labels(figure, labels)


def pareto_front(points: np.ndarray) -> list[int]:
    """Return the points (N,2) that no other point is below in both coordinates, from the left."""
    front: list[int] = []
    for i in np.lexsort((points[:, 1], points[:, 0])):
        if not front or points[i, 1] < points[front[-1], 1]:
            front.append(int(i))
    return front


def _draw_front(
    panel: "Axes", x: Mapping[str, float | None], y: Mapping[str, float | None], better: str, runs: Sequence[RunFolder]
) -> list[Any]:
    """Draw all runs and the front, lower x being better; return labels, those of the front first."""
    drawn = [run for run in runs if None not in (x.get(run.name), y.get(run.name))]
    points = np.array([[x[run.name], y[run.name]] for run in drawn], float).reshape(-1, 2)
    panel.plot(*points.T, "o", color=FAINT)
    panel.margins(0.1)
    front = pareto_front(points * [1, -1 if better == "higher" else 1]) if better in ("lower", "higher") else []
    panel.plot(*points[front].T, "o-", color=BLUE)
    others = [i for i in range(len(drawn)) if i not in front]
    return [
        name_point(panel, ", ".join(drawn[i].axes.values()), points[i], INK if i in front else FAINT)
        for i in [*front, *others][:MAX_LABELS]
    ]
