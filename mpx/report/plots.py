"""Curves of a sweep, of compare's lines: each metric against the axes, and which jobs no other one beats."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpx.report.compare import COST, Run, better, cost, is_best, short, title
from mpx.report.figures import save_figure
from mpx.runs import tables

WIDTH, HEIGHT = 4.2, 3.2  # inches of a panel


def metrics(table: list[dict], path: Path) -> None:
    """A panel for each metric: one axis of numbers as a line with its 95 % band, one of names as points, two as a heat map,
    more as a line for each combination of the others against the first."""
    every = list(dict.fromkeys(line["metric"] for line in table))
    names = [name for name in every if name not in COST] or every
    axes = list(table[0]["axes"])
    values = [list(dict.fromkeys(line["axes"][axis] for line in table)) for axis in axes]
    draw = _heat if len(axes) == 2 and min(map(len, values)) > 1 else _lines
    across = min(3, len(names))
    down = math.ceil(len(names) / across)
    wide = max(1.0, len(values[0]) / 8) if draw is _lines else max(1.0, len(values[-1]) / 5)
    high = max(1.0, len(values[0]) / 6) if draw is _heat else 1.0
    page = _page(WIDTH * across * wide, HEIGHT * down * high + 0.4)
    panels = page.subplots(down, across, squeeze=False).flatten()
    for name, panel in zip(names, panels):
        lines = [line for line in table if line["metric"] == name and line["value"] is not None]
        draw(panel, lines, axes, values)
        panel.set_title(title(table, name), fontsize=10)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    if labels:
        page.legend(
            handles, labels, loc="outside lower center", ncols=min(4, len(labels)), fontsize=8, title=", ".join(axes[1:])
        )
    save_figure(path, page)


def _lines(panel, lines: list[dict], axes: list[str], values: list[list[str]]) -> None:
    first, *others = axes
    numbers = [tables.parse_number(value) for value in values[0]]
    is_number = np.isfinite(numbers).all()
    at = dict(zip(values[0], numbers if is_number else range(len(numbers))))
    groups = {}
    for line in sorted(lines, key=lambda line: at[line["axes"][first]]):
        groups.setdefault(tuple(line["axes"][axis] for axis in others), []).append(line)
    for k, (other, of) in enumerate(groups.items()):
        x = np.array([at[line["axes"][first]] for line in of])
        y, low, high = (np.array([line[key] for line in of], float) for key in ("value", "low", "high"))
        look = {"color": f"C{k % 10}", "label": ", ".join(other) or None}
        if is_number:
            panel.plot(x, y, "o", ls=("-", "--", ":", "-.")[k // 10 % 4], ms=4, **look)
            panel.fill_between(x, low, high, color=look["color"], alpha=0.15, lw=0)
        else:
            x = x + 0.6 * ((k + 0.5) / len(groups) - 0.5)  # beside each other
            shape = "os^Dv"[k // 10 % 5]
            panel.errorbar(x, y, [np.nan_to_num(y - low), np.nan_to_num(high - y)], fmt=shape, ms=5, capsize=2, **look)
    panel.set_xlabel(first)
    panel.grid(alpha=0.3)
    if is_number:
        if geometric(numbers):  # near 0 linear, where 0 is one of them
            panel.set_xscale("symlog", linthresh=min(x for x in numbers if x))
        panel.set_xticks(numbers, _apart(panel, numbers, values[0]))
        panel.minorticks_off()
    else:
        panel.set_xticks(range(len(numbers)), values[0], fontsize=8, rotation=30, ha="right", rotation_mode="anchor")


def geometric(numbers: Sequence[float]) -> bool:
    """Whether the steps are more even as ratios than as differences; a 0 is no step."""
    x = np.unique(numbers)
    if x[0] < 0 or len(x := x[x > 0]) < 3:
        return False
    differences, ratios = (np.diff(steps) for steps in (x, np.log(x)))
    return ratios.std() / ratios.mean() < differences.std() / differences.mean()


def _apart(panel, numbers: list[float], labels: list[str]) -> list[str]:
    """The labels, without those that would be written over the one before."""
    places = panel.transScale.transform([(x, 0) for x in numbers])[:, 0]
    room, kept, last = 0.03 * max(map(len, labels)) * np.ptp(places), [], -math.inf
    for place, label in zip(places, labels):  # in order: sweep.ordered
        kept.append(label if place - last >= room else "")
        last = place if kept[-1] else last
    return kept


def _heat(panel, lines: list[dict], axes: list[str], values: list[list[str]]) -> None:
    """Bright is better, whichever way that is, and the best is bold."""
    way = better(lines, lines[0]["metric"]) if lines else ""
    cells, texts = np.full([len(v) for v in values], np.nan), {}
    for line in lines:
        place = tuple(v.index(line["axes"][axis]) for axis, v in zip(axes, values))
        cells[place] = abs(line["value"]) if way == "near 0" else line["value"]
        spread = f"\n[{short(line['low'])}, {short(line['high'])}]" if math.isfinite(line["low"]) else ""
        texts[place] = short(line["value"]) + spread, "bold" if is_best(lines, line) else None
    panel.set_facecolor("white")
    panel.patch.set(hatch="////", edgecolor="lightgrey")  # seen where there is no number
    shown = panel.imshow(np.ma.masked_invalid(cells), aspect="auto", cmap="viridis" if way == "higher" else "viridis_r")
    for (i, j), (text, weight) in texts.items():
        ink = "white" if sum(shown.to_rgba(cells[i, j])[:3]) < 1.4 else "black"
        panel.text(j, i, text, ha="center", va="center", fontsize=7, color=ink, weight=weight)
    panel.set(xlabel=axes[1], ylabel=axes[0])
    turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, values[1])) > 5 else {}
    panel.set_xticks(range(len(values[1])), values[1], fontsize=8, **turned)
    panel.set_yticks(range(len(values[0])), values[0], fontsize=8)


def pareto(runs: Sequence[Run], path: Path) -> None:
    """The chance that is left against the area, and quality against passes; those that nothing beats are joined."""
    table = [{"metric": name, "method": run.name, **metric} for run in runs for name, metric in run.metrics.items()]
    found = {}
    for line in table:
        found.setdefault(line["metric"], {})[line["method"]] = line["value"]
    quality = "deletion" if "deletion" in found else "p_normalised"
    costs = {run.name: cost(run) for run in runs}
    page = _page(2 * 5.2, 4.2)
    left, right = page.subplots(1, 2)
    left.set(xlabel="area of the evidence", ylabel=title(table, "p_normalised"))
    right.set(xlabel="passes (a forward is a third)", ylabel=title(table, quality), xscale="log")
    best = [*_front(left, found["area"], found["p_normalised"], better(table, "p_normalised"), runs),
            *_front(right, costs, found[quality], better(table, quality), runs)]  # fmt: skip
    if any(runs[0].axes):
        page.suptitle(", ".join(runs[0].axes), fontsize=8, color="grey")  # what the labels are values of
    _untangle(page, best)
    save_figure(path, page)


def _front(panel, across: dict, up: dict, way: str, runs: Sequence[Run]) -> list:
    """The labels of the first, which are to be untangled."""
    there = [run for run in runs if None not in (across.get(run.name), up.get(run.name))]
    points = np.array([[across[run.name], up[run.name]] for run in there]).reshape(-1, 2)
    panel.plot(*points.T, "o", color="lightgrey")
    panel.grid(alpha=0.3)
    panel.margins(0.1)
    if way not in ("lower", "higher"):
        return []
    best = front(points * [1, -1 if way == "higher" else 1])
    panel.plot(*points[best].T, "o-", color="C0")
    labels = [", ".join(there[i].axes.values()) for i in best[:12]]
    return [panel.annotate(text, points[i], (0, 0), textcoords="offset points", fontsize=7) for text, i in zip(labels, best)]


def _untangle(page, labels: list) -> None:
    """Each label where, beside its point, it is inside its panel and on no other one, if there is such a place."""
    page.draw_without_rendering()
    taken = []
    for label in labels:
        label.set_in_layout(False)
        frame = label.axes.get_window_extent()
        for x, y in [(6, 4), (6, -10), (-6, 4), (-6, -10), (6, 14), (6, -20), (-6, 14), (-6, -20), (6, 4)]:
            label.set(position=(x, y), ha="left" if x > 0 else "right")
            box = label.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


def front(points: np.ndarray) -> list[int]:
    """Of (N,2) the points that no other one is below in both, from the left."""
    best = []
    for i in np.lexsort((points[:, 1], points[:, 0])):
        if not best or points[i, 1] < points[best[-1], 1]:
            best.append(int(i))
    return best


def _page(width: float, height: float):
    from matplotlib.figure import Figure  # slow to import

    return Figure(figsize=(width, height), layout="constrained")
