"""The lines of results.csv for report.html: read anew each time, as a list of 50,000 takes 100 MB."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mpx.runs.tables import read_lines

Line = dict[str, str]  # of results.csv
MatchedLines = list[Line | None]  # one for each job, None where the job has no such row


@dataclass(frozen=True)
class Lines:
    """The lines of one job."""

    path: Path | None = None
    first: Line = field(default_factory=dict)
    count: int = 0

    @classmethod
    def of(cls, path: Path) -> "Lines":
        """FileNotFoundError where there is no such file."""
        lines = read_lines(path)
        first = next(lines, {})
        return cls(path, first, bool(first) + sum(1 for _ in lines))

    def __iter__(self) -> Iterator[Line]:
        return read_lines(self.path) if self.path else iter(())

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class SingleLines:
    """Each line of a single job as a row."""

    lines: Lines

    def __iter__(self) -> Iterator[MatchedLines]:
        return ([line] for line in self.lines)
