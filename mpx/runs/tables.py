"""CSV tables: the columns of results.csv, the values of a row, and safe reading and writing.

A text that a spreadsheet would run as a formula gets a leading apostrophe, which `read_csv` removes.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpx.data.reading import regular_file
from mpx.errors import Error
from mpx.masks.evidence import evidence_of
from mpx.runs.files import append_file, open_atomically
from mpx.verdicts import chance_of, count_components, objective_fall

if TYPE_CHECKING:
    import pandas

    from mpx.explanation import Explanation

FILE_COLUMNS = ("path", "file_bytes")  # of the image's file
VALUE_COLUMNS = ("value_before", "value_after", "value_complement", "value_reference", "value_normalised")
NUMBER_COLUMNS = (*VALUE_COLUMNS, "area", "passes", "forwards", "seconds")
RESULT_COLUMNS = ("image", "target", "class", "requested_area", *NUMBER_COLUMNS, "verdict", "mask", *FILE_COLUMNS)
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")  # the wide ones where the language is Japanese
LINES_AT_ONCE = 1000  # of a file that is written

TableRow = dict[str, Any]  # column -> value


def row_values(explanation: "Explanation", row: int) -> TableRow:
    """Return the texts and numbers of a row (its index), without its arrays."""
    e = explanation
    values = (e.value_before, e.value_after, e.value_complement, e.value_reference, e.value_normalised)
    evidence = evidence_of(e.mask[row, 0], e.game)  # of this row alone: a batch may have hundreds
    cost = (e.passes, e.forwards, e.seconds)
    numbers = [*(float(x[row]) for x in values), float(evidence.mean()), *(float(x[row]) for x in cost)]
    return {
        "name": explanation.names[row],
        "image": explanation.image_names[row],
        "target": int(explanation.targets[row]),
        "class": explanation.classes[row],
        "quantity": explanation.task.quantity,
        "bounded": explanation.task.is_bounded,
        "paired": explanation.task.is_paired,
        "chance": max(explanation.task.chance, chance_of(explanation.answers_before[row])),
        "game": explanation.game,
        "is_learnt": explanation.is_learnt,
        "components": count_components(evidence),
        "fall": objective_fall(explanation.curves["total"][: int(e.steps[row]), row].numpy()) if e.is_learnt else math.nan,
        "verdict": explanation.verdict[row] if explanation.verdict else "",
        "requested_area": round(float(explanation.areas[row]), 6),  # NaN: none
        **dict(zip(NUMBER_COLUMNS, numbers)),
    }


def table_rows(explanation: "Explanation") -> list[TableRow]:
    """Return a line of results.csv for each row of an explanation."""
    return [table_row(row_values(explanation, i)) for i in range(len(explanation.names))]


def table_row(values: TableRow) -> TableRow:
    """Return the line of results.csv for the values of `row_values` or `store.load_row`, with the columns of its metrics."""
    requested = values["requested_area"]
    computed = {
        "mask": f"masks/{values['name']}.npz",
        "requested_area": "" if math.isnan(requested) else requested,
    }
    line = {column: (values | computed).get(column, "") for column in RESULT_COLUMNS}
    return line | metric_columns(values.get("metrics", "{}"))


def metric_columns(metrics: str) -> dict[str, float | None]:
    """Return column -> value for the stored metrics of a row, JSON of {metric: {suffix: value}}."""
    return {
        f"{name}_{suffix}" if suffix else name: value
        for name, values in json.loads(metrics).items()
        for suffix, value in values.items()
    }


def result_columns(rows: Iterable[TableRow]) -> tuple[str, ...]:
    """Return RESULT_COLUMNS and the columns of the rows' metrics; points of curves (a name with "@") have no column."""
    return tuple(dict.fromkeys([*RESULT_COLUMNS, *(column for row in rows for column in row if "@" not in column)]))


# ---- CSV


def write_csv(path: str | Path, rows: Iterable[TableRow], columns: Sequence[str] = RESULT_COLUMNS) -> None:
    """Write a table; numbers have six digits."""
    lines = chain([dict(zip(columns, columns))], rows)
    with open_atomically(Path(path)) as file:
        while part := list(islice(lines, LINES_AT_ONCE)):
            file.write(_csv_lines(part, columns).encode("utf-8", "backslashreplace"))


def append_csv(path: Path, rows: Sequence[TableRow], columns: Sequence[str] = RESULT_COLUMNS) -> None:
    """Append lines, all or none of them."""
    if not path.exists():
        write_csv(path, [], columns)
    append_file(path, _csv_lines(rows, columns).encode("utf-8", "backslashreplace"))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the lines of a table; missing cells are empty."""
    return list(read_lines(path))


def read_lines(path: Path) -> Iterator[dict[str, str]]:
    """Yield the lines of a table one at a time: a list of 50,000 takes 100 MB."""
    try:
        with open(regular_file(path), newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file, restval=""):
                yield {k: _unescape(v) for k, v in line.items() if k is not None}  # None: cells beyond the last column
    except csv.Error as error:
        raise ValueError(f"{str(path)!r} is no table: {error}") from error


def as_dataframe(rows: Sequence[TableRow]) -> "pandas.DataFrame":
    """Return lines of a table as one of pandas."""
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise Error("a data frame needs a package that is not installed: pip install pandas") from error
    return pandas.DataFrame(rows)


def write_skipped(path: Path, skipped: Sequence[tuple[str, str]]) -> None:
    """Write skipped.csv, (image, reason) each; remove the file where nothing was skipped."""
    if skipped:
        write_csv(path, [{"image": name, "reason": reason} for name, reason in skipped], ("image", "reason"))
    else:
        path.unlink(missing_ok=True)


def parse_number(text: str | None) -> float:
    """Return the number in a table's cell; NaN where the cell holds none."""
    try:
        return float(text) if text is not None else math.nan
    except ValueError:
        return math.nan


def _csv_lines(rows: Iterable[TableRow], columns: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_escape(row.get(c, "")) for c in columns] for row in rows)
    return text.getvalue()


def _escape(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def _unescape(text: str) -> str:
    return text[1:] if text[:1] == "'" and text[1:].startswith(FORMULA_STARTS) else text
