"""The index of a run's rows: what a resumed run needs of each, so that it does not open every mask file.

A line holds the texts and numbers of a row, and the state (size, times and inode) of its files when they were written. After
each BLOCK of rows a line holds the sums of their curves. A block counts while all its lines are whole and all its files are
in the state of their lines; the rows of any other block, and those that no line names, are read in full. The index is never
more than a copy: a run resumes the same, and more slowly, where it is damaged, old or missing.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from mpx.runs import store
from mpx.runs.curve_means import CurveMeans
from mpx.runs.files import append_file, file_state, open_atomically

BLOCK = 200  # rows; reading a block in full takes less than a second
Row = dict[str, Any]  # the entries of a mask file, of the index without its arrays


class Block(NamedTuple):
    """Rows that follow each other in an index."""

    rows: list[Row]
    sums: dict[str, Tensor]  # of the rows' curves, see CurveMeans
    lines: list[bytes]
    is_own: bool  # of the index that this process writes


class RowIndex:
    """The index that this process writes, of the rows in `folder`/masks."""

    def __init__(self, folder: Path, path: Path, others: Iterable[Path] = ()) -> None:
        """path: of the index; others: indices of other shares, which are read too."""
        self._folder = folder
        self._path = path
        self._others = [other for other in others if other != path]
        self._sums = CurveMeans()  # of the rows since the last block
        self._count = 0
        self._checksum = 0  # of their lines

    def scan(self, in_share: Callable[[str], bool], is_current: Callable[[Row], bool], means: CurveMeans) -> Iterator[Row]:
        """Yield the intact rows of this run on disk, add their curves to `means`, and write the index anew.

        in_share(image name): arrays of other images are not read; is_current(row): whether the row is of today's inputs.
        """
        indexed: set[str] = set()  # names of rows in blocks that count
        unread: set[str] = set()  # those of them that must be read all the same
        with open_atomically(self._path) as file:
            for block in self._blocks(indexed):
                names = {row["name"] for row in block.rows}
                indexed |= names
                shared = [row for row in block.rows if in_share(row["image"])]
                if block.is_own or len(shared) == len(block.rows):
                    file.writelines(block.lines)
                current = [row for row in shared if is_current(row)]
                if len(current) == len(block.rows):
                    means.add_sums(block.sums)
                    yield from current
                else:  # the curves of these rows are read one by one
                    unread |= {row["name"] for row in current}
        if not indexed:
            self._path.unlink(missing_ok=True)
        for path in store.mask_files(self._folder):
            is_known = path.stem in indexed and path.stem not in unread
            row = None if is_known else store.load_row(path, in_share)
            if row and is_current(row) and store.has_pictures(self._folder, row):
                sums = CurveMeans()
                sums.add_row(row)
                means.add_sums(sums.sums)
                if row["name"] not in indexed:
                    self.add(row, sums.sums)
                yield row
        self.end_block()

    def add(self, row: Row, curve_sums: dict[str, Tensor]) -> None:
        """Add a row whose files are written, with the sums of its curves."""
        try:
            states = self._states(row)
        except OSError:  # somebody removed a file meanwhile
            return
        if not store.is_valid(row):  # it would not be read
            return
        texts = {key: value for key, value in row.items() if isinstance(value, (str, int, float))}
        line = _line({"row": texts | {"row_keys": list(row["row_keys"])}, "states": states})
        append_file(self._path, line)
        self._checksum = crc32(line, self._checksum)
        self._sums.add_sums(curve_sums)
        self._count += 1
        if self._count == BLOCK:
            self.end_block()

    def end_block(self) -> None:
        """Write the sums of the rows since the last block."""
        if self._count:
            sums = {term: sums.tolist() for term, sums in self._sums.sums.items()}
            append_file(self._path, _line({"block": self._checksum, "sums": sums}))
        self._sums, self._count, self._checksum = CurveMeans(), 0, 0

    def _blocks(self, indexed: set[str]) -> Iterator[Block]:
        """Yield the blocks of all indices that count, without rows that are `indexed` already."""
        for path in (self._path, *self._others):
            lines: list[bytes] = []
            for line in _lines(path):
                lines.append(line)
                if line[9:].startswith(b'{"block"'):
                    block = self._read_block(lines, path == self._path)
                    if block and indexed.isdisjoint(row["name"] for row in block.rows):
                        yield block
                    lines = []

    def _read_block(self, lines: list[bytes], is_own: bool) -> Block | None:
        """Return a block of lines, of which the last has the sums; None where it does not count."""
        try:
            end, rows = _entry(lines[-1]), []
            if end["block"] != crc32(b"".join(lines[:-1])):
                return None
            for entry in map(_entry, lines[:-1]):
                if entry["states"] != self._states(entry["row"]):
                    return None
                rows.append(entry["row"])
            sums = {term: torch.tensor(values, dtype=torch.double) for term, values in end["sums"].items()}
            return Block(rows, sums, lines, is_own) if len({row["name"] for row in rows}) == len(rows) else None
        except (ValueError, LookupError, TypeError, OSError):  # damaged, or a file is gone
            return None

    def _states(self, row: Row) -> list[str]:
        """Return the states of a row's files; OSError where one is missing."""
        files = [f"{self._folder}/masks/{row['name']}.npz"]
        if row["pictures"]:
            files += map(str, filter(os.path.exists, store.picture_files(self._folder, row["name"])))
        return [file_state(file) for file in files]


def _line(entry: dict[str, Any]) -> bytes:
    text = json.dumps(entry).encode()
    return b"%08x %s\n" % (crc32(text), text)


def _entry(line: bytes) -> dict[str, Any]:
    """Return what `_line` wrote; ValueError where the line is damaged."""
    text = line[9:-1]
    if crc32(text) != int(line[:8], 16):
        raise ValueError("damaged")
    return json.loads(text)


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of an index, none where there is none."""
    file: BinaryIO
    if path.is_file():  # a pipe would block
        with open(path, "rb") as file:
            yield from file
