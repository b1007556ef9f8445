"""A heat map of one metric over the two axes of a sweep."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mpx.pictures.text import PAPER
from mpx.report.lines import ComparisonLine, better_values, format_interval, format_value, is_best

LIGHT_ORANGE, GREY = "#ff955c", "#b4b4be"  # on which black is readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_heat_map(panel: "Axes", lines: Sequence[ComparisonLine], axes: list[str], values: list[list[str]]) -> None:
    """Draw a cell for each run; more orange is better, the best value is bold, a cell without a run is hatched.

    values: of each axis, in order. A metric without a direction is grey, darker where it is lower, and has no best value.
    """
    better = better_values(lines, lines[0].metric) if lines else "none"
    cells = np.full([len(v) for v in values], np.nan)
    texts: dict[tuple[int, int], tuple[str, str | None]] = {}
    for line in lines:
        assert line.value is not None
        i, j = (v.index(line.axes[axis]) for axis, v in zip(axes, values))
        cells[i, j] = abs(line.value) if better == "near 0" else line.value
        interval = f"\n{format_interval(line)}" if line.has_interval else ""
        texts[i, j] = format_value(line.value) + interval, "bold" if is_best(lines, line) else None
    from matplotlib.colors import LinearSegmentedColormap

    panel.grid(False)
    panel.patch.set(hatch="////", edgecolor="lightgrey")
    strongest = GREY if better == "none" else LIGHT_ORANGE
    ends = [PAPER, strongest] if better == "higher" else [strongest, PAPER]
    colours = LinearSegmentedColormap.from_list("evidence", ends)
    panel.imshow(np.ma.masked_invalid(cells), aspect="auto", cmap=colours)
    for (i, j), (text, weight) in texts.items():
        panel.text(j, i, text, ha="center", va="center", fontsize=7, weight=weight)
    panel.set(xlabel=axes[1], ylabel=axes[0])
    is_long = max(map(len, values[1])) > 5
    rotation: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    panel.set_xticks(range(len(values[1])), values[1], **rotation)
    panel.set_yticks(range(len(values[0])), values[0])
