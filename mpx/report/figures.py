"""Figures of matplotlib, which is imported only where one is drawn: it is slow to import."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from mpx.runs.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure; sides in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(path: Path, figure: "Figure") -> None:
    """Write the figure as a PNG."""
    file = io.BytesIO()
    figure.savefig(file, dpi=120, format="png")
    write_file(path, file.getvalue())
