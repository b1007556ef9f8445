"""The contract between a run's coordinator and its workers."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from mpx.data.items import Item
from mpx.explanation import Explanation


class ClaimedImage(NamedTuple):
    """An image that a worker explains."""

    image_index: int  # in the run
    item: Item
    finished_rows: set[str]  # keys of its rows that are on disk
    sent_from: Path | None = None  # path at the coordinator, where the item's file is a copy that was sent to this machine


class Coordinator(Protocol):
    """The calls of a worker."""

    def claim(self, count: int) -> list[ClaimedImage]:
        """Return at most `count` images that no other worker has; none when all are handed out."""

    def add_row(self, row: dict[str, Any], curve_sums: dict[str, Tensor], explanation: Explanation | None) -> None:
        """Add a row whose files are written.

        row: its scalars, as `store.load_row` returns them; curve_sums: term -> (2,steps), sum and count of its curves;
        explanation: of this one row, if its curves and pictures are logged.
        """

    def skip(self, image_name: str, reason: str) -> None:
        """Skip an image that cannot be explained."""

    def report_progress(self, images: float, note: str = "") -> None:
        """Count another part of the work, in images."""

    def log(self, text: str) -> None:
        """Log a message."""

    def warn(self, text: str) -> None:
        """Log a warning."""
