"""Results as aligned text for a terminal."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from mpx.metrics.summary import ARROWS
from mpx.pictures.text import format_percent, shorten
from mpx.tasks.base import Task


def format_rows(rows: Sequence[Mapping[str, Any]], task: Task, width: int = 100) -> str:
    """Return lines of results.csv as aligned text, at most `width` cells wide; image and class share the free space.

    The requested area is shown where rows differ in it.
    """
    has_areas = len({row["requested_area"] for row in rows}) > 1
    has_verdicts = any(row["verdict"] for row in rows)
    headings = ("image", "class", *["requested"] * has_areas, task.quantity, "area", "seconds", *["verdict"] * has_verdicts)
    number = "{:.3f}".format if task.is_bounded else "{:.4g}".format
    texts = [(row["image"], row["class"], *[format_percent(row["requested_area"] or 0)] * has_areas,
              f"{number(row['value_before'])} → {number(row['value_after'])}",
              format_percent(row["area"]), f"{row['seconds']:.1f}",
              *[row["verdict"]] * has_verdicts) for row in rows]  # fmt: skip
    columns = [[printable(text) for text in column] for column in zip(headings, *texts)]
    widths = [max(map(cell_width, column)) for column in columns]
    free = width - sum(widths[2:]) - 2 * (len(headings) - 1)
    widths[0] = min(widths[0], max(free // 2, free - widths[1]))
    widths[1] = min(widths[1], free - widths[0])
    lines = []
    for line in zip(*columns):
        names = [shorten(text, w, cell_width) for text, w in zip(line[:2], widths)]
        names = [text + " " * (w - cell_width(text)) for text, w in zip(names, widths)]
        numbers = [text.rjust(w) for text, w in zip(line[2:], widths[2:])]
        if has_verdicts:
            numbers[-1] = line[-1]
        lines.append("  ".join(names + numbers))
    return "\n".join(lines)


def format_metrics(metrics: Mapping[str, Mapping[str, Any]], total: int) -> str:
    """Return a line for each metric of a summary: mean, interval and of how many rows; a part without a value has none.

    ↑ or ↓: higher or lower values are better; 0: values near 0.
    """
    lines = []
    names = [f"{name} {ARROWS[metric['better']]}".rstrip() for name, metric in metrics.items()]
    width = max(map(len, names), default=0)
    for name, (column, metric) in zip(names, metrics.items()):
        if metric["value"] is not None:
            interval = "[{:.3f}, {:.3f}]  ".format(*metric["interval95"]) if metric["interval95"] else ""
            lines.append(f"{name:<{width}} {metric['value']:9.3f}  {interval}of {count_of(metric['n'], total)}")
        elif column == metric["metric"]:
            lines.append(f"{name:<{width}}           no row has a value")
    return "\n".join(lines)


def count_of(n: int, total: int) -> str:
    """Return how many rows a number is of, e.g. "3 rows" or "2 of 3 rows"."""
    return ("" if n == total else f"{n} of ") + ("1 row" if total == 1 else f"{total} rows")


def printable(text: object) -> str:
    """Return the text on one line without control characters: a file's name must not control the terminal."""
    return "".join(c for c in " ".join(str(text).split()) if c.isprintable())


def cell_width(text: str) -> int:
    """Return the number of terminal cells: East Asian wide characters take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
