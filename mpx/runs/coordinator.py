"""The coordinator of a run: it hands images to workers, and keeps the tables up to date as rows come in.

Workers elsewhere call it through mpx.runs.launch or ray_cluster, so whatever its methods take and return can be pickled.
"""

import json
import logging
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from mpx.data.annotations import Region
from mpx.data.items import Item
from mpx.explanation import Explanation
from mpx.runs import files, tables
from mpx.runs.base import ClaimedImage
from mpx.runs.curve_means import CurveMeans
from mpx.runs.fingerprint import UNKNOWN, Fingerprint
from mpx.runs.folder import INDEX, lock
from mpx.runs.index import RowIndex
from mpx.runs.loggers import RunLoggers
from mpx.runs.progress import Progress
from mpx.runs.row_table import RowTable

log = logging.getLogger("mpx")


class RunCoordinator:
    """The coordinator in the process that holds the run's folder."""

    def __init__(
        self,
        folder: Path,
        items: list[Item],
        index: int = 0,
        count: int = 1,
        loggers: RunLoggers | None = None,
        fingerprint: Fingerprint = UNKNOWN,
    ) -> None:
        """items: all images of the run in their order; this process does share `index` of `count` of them."""
        self.folder = folder
        self.items = items
        self.index = index
        self.count = count
        self.share = range(index, len(items), count)
        self.image_indices = {item.name: image_index for image_index, item in enumerate(items)}
        self.skipped: dict[str, str] = {}  # image name -> reason
        self.computed_with: Counter[str] = Counter()  # versions, device and batch size -> rows
        self.means = CurveMeans()
        self.loggers = loggers or RunLoggers(folder, {})
        self.fingerprint = fingerprint
        self.changed: dict[str, list[str]] = {}  # part of the fingerprint -> images whose rows are made again for it
        self.other_versions = ""  # of a row on disk
        self._csv = folder / "results.csv" if count == 1 else self._part(index, "csv")
        self._rows = RowTable()
        self._finished_rows: dict[str, set[str]] = {}  # name of an image of which others are missing -> keys
        self._finished_images: set[str] = set()
        self._progress: Progress | None = None
        if count > 1:
            with self._merge_lock():
                self._part(index, "json").unlink(missing_ok=True)  # its presence says that this share is done
        path = folder / INDEX if count == 1 else self._part(index, "index")
        self._index = RowIndex(folder, path, [folder / INDEX, *folder.glob("parts/*.index")])
        for row in self._index.scan(self._in_share, self._is_current, self.means):
            self._register(row)
        self.remaining = deque(filter(self._is_open, self.share))  # not handed out yet
        self._claim_limit = 1

    def start(self, workers: int) -> None:
        """Prepare the table and the progress bar for this number of workers."""
        self._claim_limit = max(1, math.ceil(len(self.remaining) / workers))  # so that each worker gets some
        done_before = len(self.share) - len(self.remaining)
        self._progress = Progress(len(self.remaining), lambda images: self.describe(done_before + images))
        self.write_table()

    # ---- calls of workers

    def claim(self, count: int) -> list[ClaimedImage]:
        claimed = [self.remaining.popleft() for _ in range(min(count, self._claim_limit, len(self.remaining)))]
        return [ClaimedImage(i, item := self.items[i], self._finished_rows.get(item.name, set())) for i in claimed]

    def add_row(self, row: dict[str, Any], curve_sums: dict[str, Tensor], explanation: Explanation | None) -> None:
        self._register(row)
        self._index.add(row, curve_sums)
        self.means.add_sums(curve_sums)
        line = tables.table_row(row)
        os.stat(self.folder)  # it may have been removed, and must not come back with a table alone
        if set(tables.result_columns([line])) <= set(self._columns):
            tables.append_csv(self._csv, [line], self._columns)
        else:  # the first row with metrics brings their columns
            self.write_table()
        if explanation is not None:
            self.loggers.log_row(explanation)

    def skip(self, image_name: str, reason: str) -> None:
        self.skipped[image_name] = reason
        if self._progress:
            self._progress.leave_out_image()

    def report_progress(self, images: float, note: str = "") -> None:
        if self._progress:
            self._progress.advance(images, note)

    def log(self, text: str) -> None:
        log.info(text)

    def warn(self, text: str) -> None:
        log.warning(text)

    def give_back(self, image_indices: Iterable[int]) -> list[int]:
        """Hand out again, and return, what is not done of the images of a worker that died."""
        self.remaining.extendleft(images := sorted(filter(self._is_open, image_indices), reverse=True))
        return images

    # ---- progress

    def describe(self, images: int) -> str:
        """Return e.g. "3 of 10 images", with the share where there are several."""
        share = f" of share {self.index} of {self.count}" if self.count > 1 else ""
        return f"{images} of {len(self.share)} images{share}"

    def count_missing(self) -> int:
        """Return the number of images that are neither finished nor skipped."""
        return sum(map(self._is_open, self.share))

    def drop_removed_rows(self) -> int:
        """Forget rows whose files somebody removed while the run was at work, and their images; return their number."""
        removed = {line["mask"]: line["image"] for line in self._rows if not os.path.isfile(f"{self.folder}/{line['mask']}")}
        self._rows = self._rows.without(removed) if removed else self._rows
        self._finished_images.difference_update(removed.values())
        return len(removed)

    def table(self) -> RowTable:
        """Return the lines of results.csv."""
        return self._rows

    def write_table(self) -> None:
        """Write results.csv anew, sorted."""
        table = self.table()
        self._columns = tables.result_columns(table)
        tables.write_csv(self._csv, table, self._columns)

    def stale_rows(self, protocols_of: Callable[[Mapping[int | str, Region]], str]) -> list[str]:
        """Return the paths below the folder of rows whose metrics are missing or were computed in another way.

        protocols_of: regions of an image -> protocols of all metrics (`Evaluator.protocols`).
        """
        places = self._rows.protocols()
        return [mask for mask, i, protocols in places if protocols != protocols_of(self.items[i].regions)]

    def update_rows(self, rows: list[dict[str, Any]]) -> None:
        """Replace the table's lines of rows that were evaluated again."""
        for row in rows:
            self._rows.replace(tables.table_row(row), row["evaluated_with"])
            means = CurveMeans()
            means.add_row(row)
            self._index.add(row, means.sums)

    def close(self) -> None:
        """End the progress bar and the index."""
        self._index.end_block()
        if self._progress:
            self._progress.close()

    # ---- shares

    @contextmanager
    def merge_shares(self, stopped: bool = False) -> Iterator["RunCoordinator | None"]:
        """Give the coordinator of the whole run to the last share that finishes, and None to the others.

        Without shares it is this one. Results are written within the context, so that two shares that end at the same
        time write one after the other.
        """
        if self.count == 1:
            yield self
            return
        names = sha256("\n".join(self.image_indices).encode()).hexdigest()
        if not self.count_missing() and not stopped:
            files.write_json(self._part(self.index, "json"), {"images": names, "skipped": self.skipped})
        with self._merge_lock():
            paths = (self.folder / "parts").glob(f"[0-9]*-of-{self.count}.json")
            parts = [json.loads(path.read_text()) for path in paths]
            if len(parts) == self.count and any(part["images"] != names for part in parts):
                log.warning(
                    "the shares have different images (another limit, or a folder that grew): results are written "
                    "once every share has run on the same images, or one command without share= has done the missing ones"
                )
                yield None
            elif len(parts) < self.count:
                yield None
            else:
                merged = RunCoordinator(self.folder, self.items, loggers=self.loggers, fingerprint=self.fingerprint)
                for part in parts:
                    merged.skipped |= part["skipped"]
                yield merged

    def _part(self, index: int, suffix: str) -> Path:
        return self.folder / "parts" / f"{index}-of-{self.count}.{suffix}"

    def _merge_lock(self) -> AbstractContextManager[None]:
        return lock(self.folder / ".lock-merge", "the merging of its parts", timeout=math.inf)

    # ---- rows on disk

    def _in_share(self, image_name: str) -> bool:
        return self.image_indices.get(image_name, -1) in self.share

    def _is_current(self, row: dict[str, Any]) -> bool:
        """Return whether a row on disk is of today's photo, label and files. A row of another configuration is refused."""
        changes = self.fingerprint.changes(row["made_from"], self.items[self.image_indices[row["image"]]])
        self.other_versions = changes.pop("versions", (self.other_versions, ""))[0]
        if "configuration" in changes:
            raise ValueError(
                f"{self.folder} holds {row['name']} of another configuration than its .hydra/config.yaml: remove this row, "
                "or give another name="
            )
        for part in changes:
            self.changed.setdefault(part, []).append(row["image"])
        return not changes

    def _is_open(self, image_index: int) -> bool:
        name = self.items[image_index].name
        return name not in self._finished_images and name not in self.skipped

    def _register(self, row: dict[str, Any]) -> None:
        image_index = self.image_indices[row["image"]]
        item, keys = self.items[image_index], list(row["row_keys"])
        finished = self._finished_rows.setdefault(item.name, set())
        finished.add(row["row_key"])
        if finished >= set(keys):
            self._finished_images.add(item.name)
            del self._finished_rows[item.name]
        line = tables.table_row(row)
        if line["path"] == str(item.path):
            line["path"] = str(item.path)  # one text for both: 50,000 take 5 MB
        self._rows.append(image_index, keys.index(row["row_key"]), line, row.get("evaluated_with", ""))
        self.computed_with[row["computed_with"]] += 1
