"""pareto.png of a sweep: the runs that no other run beats in two quantities."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpx.report.figures import new_figure, save_figure
from mpx.report.lines import ComparisonLine, better_values, metric_title, run_cost
from mpx.report.plots import PASSES_LABEL
from mpx.report.run_folder import RunFolder, as_compared, shares_reference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LABELS = 12
OFFSETS = [(6, 4), (6, -10), (-6, 4), (-6, -10), (6, 14), (6, -20), (-6, 14), (-6, -20), (6, 4)]  # points, of a label


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
    figure = new_figure(2 * 5.2, 4.2)
    left, right = figure.subplots(1, 2)
    left.set(xlabel="area of the evidence", ylabel=metric_title(lines, left_value))
    right.set(xlabel=PASSES_LABEL, ylabel=metric_title(lines, quality), xscale="log")
    labels = _draw_front(left, values["area"], values[left_value], better_values(lines, left_value), runs)
    labels += _draw_front(right, costs, values[quality], better_values(lines, quality), runs)
    if any(runs[0].axes):
        figure.suptitle(", ".join(runs[0].axes), fontsize=8, color="grey")  # the labels are values of these
    _place_labels(figure, labels)
    save_figure(path, figure)


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
    """Draw all runs and the front, lower x being better; return the labels of the front."""
    drawn = [run for run in runs if None not in (x.get(run.name), y.get(run.name))]
    points = np.array([[x[run.name], y[run.name]] for run in drawn], float).reshape(-1, 2)
    panel.plot(*points.T, "o", color="lightgrey")
    panel.grid(alpha=0.3)
    panel.margins(0.1)
    if better not in ("lower", "higher"):
        return []
    front = pareto_front(points * [1, -1 if better == "higher" else 1])
    panel.plot(*points[front].T, "o-", color="C0")
    return [
        panel.annotate(", ".join(drawn[i].axes.values()), points[i], (0, 0), textcoords="offset points", fontsize=7)
        for i in front[:MAX_LABELS]
    ]


def _place_labels(figure: "Figure", labels: Sequence[Any]) -> None:
    """Move each label next to its point, inside its panel and clear of the labels before, where there is such a place."""
    for label in labels:
        label.set_in_layout(False)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the panels stay where the labels have been placed in them
    earlier_boxes: list[Any] = []
    for label in labels:
        frame = label.axes.get_window_extent()
        for x, y in OFFSETS:
            label.set(position=(x, y), ha="left" if x > 0 else "right")
            box = label.get_window_extent()
            is_inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if is_inside and not any(box.overlaps(other) for other in earlier_boxes):
                break
        earlier_boxes.append(box)
