"""The style of figures of matplotlib, in the colours of mpx.pictures. It is imported where one is drawn: that is slow."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpx.pictures.colours import BLUE, ORANGE
from mpx.pictures.text import FAINT_INK, INK, RULE
from mpx.runs.files import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The first eight differ for every kind of colour vision (after Okabe & Ito 2008), and in print
COLOURS = [BLUE, ORANGE, "#009e73", INK, "#cc79a7", "#e69f00", "#56b4e9", "#8a5a2b", "#7a52cc", "#8c8c96"]
STYLE: dict[Any, Any] = {
    "font.size": 9, "text.color": INK, "axes.labelcolor": FAINT_INK, "axes.titlecolor": INK, "axes.titlesize": 10,
    "axes.titlelocation": "left", "axes.edgecolor": FAINT_INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": RULE, "xtick.color": FAINT_INK, "ytick.color": FAINT_INK,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.frameon": False, "legend.fontsize": 8, "lines.markersize": 5,
    "figure.titlesize": 8, "figure.dpi": 120,
}  # fmt: skip
MAX_LABELS = 12  # of a panel
OFFSETS = [(6, 4), (6, -10), (-6, 4), (-6, -10), (6, 14), (6, -20), (-6, 14), (-6, -20), (6, 4)]  # points, of a label


@contextmanager
def new_figure(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """Give an empty figure to draw on, and write it as a PNG at the end; sides in inches."""
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        file = io.BytesIO()
        figure.savefig(file, format="png")
    write_file(path, file.getvalue())


def set_log_axis(panel: "Axes") -> None:
    """Make the x axis logarithmic, with few ticks, written as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    panel.set_xscale("log")
    low, high = panel.get_xlim()
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))


def name_point(panel: "Axes", name: str, point: Sequence[float], colour: str) -> Any:
    """Return a label for `place_labels`."""
    return panel.annotate(name, (point[0], point[1]), (0, 0), textcoords="offset points", fontsize=7, color=colour)


def place_labels(figure: "Figure", labels: Sequence[Any]) -> None:
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
