"""The lines of results.csv while a run works, in little memory: a dictionary for each of 50,000 rows would take 100 MB."""

import sys
from array import array
from collections.abc import Container, Iterator, Sequence
from typing import Any, overload

from mpx.runs.tables import TableRow

Values = array | list  # of a column: an array of numbers of one type, or a list
TYPE_CODES = {float: "d", int: "q"}
ABSENT: Any = object()  # of a row without this column
ROWS_PER_IMAGE = 2**20  # at most


class RowTable(Sequence[TableRow]):
    """Lines in the order of their images, then of their rows within the image. A line is made as it is read."""

    def __init__(self) -> None:
        self._columns: dict[str, Values] = {}
        self._places = array("q")  # of each line: image index * ROWS_PER_IMAGE + row index
        self._protocols: list[str] = []  # of each line's metrics
        self._order: list[int] | None = None  # of the lines; None: to be sorted
        self._numbers: dict[str, int] = {}  # mask file -> number of its line, once asked for

    def append(self, image_index: int, row_index: int, line: TableRow, protocols: str = "") -> None:
        """Add a line. row_index: among the rows of its image; protocols: of its metrics, see `evaluation.Protocols`."""
        self._append(image_index * ROWS_PER_IMAGE + row_index, line, protocols)

    def replace(self, line: TableRow, protocols: str) -> None:
        """Put a line in the place of the one of the same mask file."""
        self._numbers = self._numbers or {mask: number for number, mask in enumerate(self._columns["mask"])}
        number = self._numbers[line["mask"]]
        self._protocols[number] = sys.intern(protocols)
        for column, value in self._cells(line, len(self)):
            self._columns[column][number] = value

    def without(self, masks: Container[str]) -> "RowTable":
        """Return a table without the lines of these mask files."""
        kept = RowTable()
        for number, place in enumerate(self._places):
            if self._columns["mask"][number] not in masks:
                kept._append(place, self._line(number), self._protocols[number])
        return kept

    def protocols(self) -> Iterator[tuple[str, int, str]]:
        """Yield the mask file, the image index and the protocols of each line."""
        for number in self._sorted():
            yield self._columns["mask"][number], self._places[number] // ROWS_PER_IMAGE, self._protocols[number]

    def _append(self, place: int, line: TableRow, protocols: str) -> None:
        for column, value in self._cells(line, len(self)):
            self._columns[column].append(value)
        self._places.append(place)
        self._protocols.append(sys.intern(protocols))
        self._order = None
        self._numbers = {}

    def _cells(self, line: TableRow, count: int) -> Iterator[tuple[str, Any]]:
        """Yield (column, value), once there are columns of `count` lines that take these values."""
        for column in line:
            if column not in self._columns:
                code = TYPE_CODES.get(type(line[column]))
                self._columns[column] = array(code) if code and not count else [ABSENT] * count
        for column, values in self._columns.items():
            value = line.get(column, ABSENT)
            if isinstance(values, array) and values.typecode != TYPE_CODES.get(type(value)):
                self._columns[column] = list(values)
            yield column, sys.intern(value) if type(value) is str else value  # one object for equal texts

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[TableRow]:
        return map(self._line, self._sorted())

    @overload
    def __getitem__(self, index: int) -> TableRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[TableRow]: ...
    def __getitem__(self, index: int | slice) -> TableRow | list[TableRow]:
        if isinstance(index, slice):
            return [self._line(number) for number in self._sorted()[index]]
        return self._line(self._sorted()[index])

    def _line(self, number: int) -> TableRow:
        return {name: value for name, values in self._columns.items() if (value := values[number]) is not ABSENT}

    def _sorted(self) -> list[int]:
        if self._order is None:
            self._order = sorted(range(len(self)), key=self._places.__getitem__)
        return self._order
