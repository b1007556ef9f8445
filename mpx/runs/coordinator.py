"""One session of a run: it hands the images out, keeps the tables and TensorBoard as rows come in, and sums up at the end.

Workers in other processes call it from afar (solver.workers), so what its methods take and give can be pickled.
"""

import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import torch
from tqdm import tqdm

from mpx.metrics.areas import SMALLEST_COLUMNS, smallest_area_rows
from mpx.metrics.summary import describe
from mpx.runs import files, summaries, tables, tensorboard
from mpx.runs.folder import lock, scan, sweep

log = logging.getLogger("mpx")
PAUSE = 30  # seconds between two lines of progress


class RunCoordinator:
    """items: all images of the run in their order, with `.name` and `.path`; the share `index` of `count` is done here."""

    answered = ("take",)  # the calls that wait for an answer

    def __init__(self, folder: Path, items: list, index: int = 0, count: int = 1):
        self.folder, self.items, self.index, self.count = folder, items, index, count
        self.mine = range(index, len(items), count)
        self.places = {item.name: place for place, item in enumerate(items)}
        self.csv = folder / "results.csv" if count == 1 else self._part(index, "csv")
        self.rows = []  # (place of the image, of the problem, row of the results table)
        self.done = {}  # image -> its problems (target, area) that are done, None for all
        self.skipped = {}  # image -> why
        self.measured_with = {}  # row -> its metrics and their protocols
        self.computed_with = Counter()  # versions, device and batch size -> rows
        self.means, self.board, self.bar = tensorboard.Means(), tensorboard.Rows(folder), None
        if count > 1:
            with self._merging():
                self._part(index, "json").unlink(missing_ok=True)  # it says that the share is done
        for row in scan(folder, self._mine, self._belongs):
            self._keep(row)
            self.means.add(dict(zip(row["terms"].tolist(), torch.from_numpy(row["curves"])[..., None])))
        self.todo = [place for place in self.mine if self._open(place)]
        self.given, self.way = 0, 0.0  # of todo: images handed out, and gone through

    def _part(self, index: int, suffix: str) -> Path:
        return self.folder / "parts" / f"{index}-of-{self.count}.{suffix}"

    def _mine(self, image: str) -> bool:
        return self.places.get(image, -1) in self.mine

    def _belongs(self, row: dict) -> bool:
        item = self.items[self.places[row["image"]]]
        try:
            return str(item.label) == row["label"] and os.stat(item.path).st_size == row["file_bytes"]
        except OSError:
            return True  # the photo has gone since; what was found stays

    def _open(self, place: int) -> bool:
        return self.done.get(self.items[place].name, ()) is not None

    def counted(self, images: int) -> str:
        share = f" of share {self.index} of {self.count}" if self.count > 1 else ""
        return f"{images} of {len(self.mine)} images{share}"

    def begin(self, workers: int) -> None:
        self.most = max(1, math.ceil(len(self.todo) / workers))  # so that each has some
        self._write_csv()
        self.start = self.said = time.perf_counter()
        self.bar = tqdm(total=len(self.todo), unit="image", disable=None, dynamic_ncols=True, leave=False)

    # ---- what workers call

    def take(self, number: int) -> list[tuple]:
        """At most this many images that nobody else has: (place, item, problems that are done)."""
        places = self.todo[self.given : self.given + min(number, self.most)]
        self.given += len(places)
        return [(place, self.items[place], self.done.get(self.items[place].name, set())) for place in places]

    def found(self, row: dict, sums: dict, shown=None) -> None:
        """row: as `store.load_row` gives it, on disk already; sums: of its curves; shown: for TensorBoard."""
        self._keep(row)
        self.means.add_sums(sums)
        line = tables.table_row(row)
        if set(tables.result_columns([line])) <= set(self.columns):
            tables.append_csv(self.csv, [line], self.columns)
        else:  # the first that was measured
            self._write_csv()
        if shown is not None:
            self.board.show(shown)

    def skip(self, image: str, reason: str) -> None:
        self.skipped[image] = reason
        self.bar.total = max(self.bar.total - 1, 0)

    def step(self, images: float, note: str = "") -> None:
        """Another part of the way, counted in images."""
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(min(images, self.bar.total - self.bar.n))
        self.way += images
        now = time.perf_counter()
        if self.bar.disable and now - self.said > PAUSE:
            self.said, spent = now, now - self.start
            left = spent / self.way * max(0, self.bar.total - self.way)
            log.info(
                f"{self.counted(len(self.mine) - len(self.todo) + int(self.way))}, "
                f"{tqdm.format_interval(spent)} spent, about {tqdm.format_interval(left)} left"
            )

    def say(self, text: str) -> None:
        log.info(text)

    def warn(self, text: str) -> None:
        log.warning(text)

    def _keep(self, row: dict) -> None:
        image, problem, problems = row["image"], row["row_key"], list(row["row_keys"])
        done = self.done.setdefault(image, set())
        if done is not None:
            done.add(problem)
            self.done[image] = done if set(problems) - done else None
        self.rows.append((self.places[image], problems.index(problem), tables.table_row(row)))
        self.measured_with[row["name"]] = row.get("measured_with", "")
        self.computed_with[row["computed_with"]] += 1

    # ---- what is measured later

    def behind(self, stamp: Callable[[dict], str]) -> list[str]:
        """The files in masks/ that were measured otherwise; stamp: see `measure.stamps`."""
        return [
            row["mask"]
            for place, _, row in self.rows
            if self.measured_with[Path(row["mask"]).stem] != stamp(self.items[place].regions)
        ]

    def measured(self, rows: list[dict]) -> None:
        new = {line["mask"]: line for line in map(tables.table_row, rows)}
        self.rows = [(a, b, new.get(line["mask"], line)) for a, b, line in self.rows]

    # ---- the end

    def table(self) -> list[dict]:
        return [row for *_, row in sorted(self.rows, key=lambda row: row[:2])]

    def _write_csv(self) -> None:
        table = self.table()
        self.columns = tables.result_columns(table)
        tables.write_csv(self.csv, table, self.columns)

    def missing(self) -> int:
        """Images that are neither done nor skipped."""
        return sum(self._open(place) and self.items[place].name not in self.skipped for place in self.mine)

    @contextmanager
    def whole(self, stopped: bool = False) -> Iterator["RunCoordinator | None"]:
        """This session, or the one that merges all shares where this is the last of them to finish: to be closed here."""
        if self.count == 1:
            yield self
            return
        names = sha256("\n".join(self.places).encode()).hexdigest()
        if not self.missing() and not stopped:
            files.write_json(self._part(self.index, "json"), {"images": names, "skipped": self.skipped})
        with self._merging():  # held until all is written: of two that end together, the second must look after the first
            parts = [self._part(index, "json") for index in range(self.count)]
            parts = [json.loads(part.read_text()) for part in parts if part.is_file()]
            if len(parts) < self.count:
                yield None
            elif any(part["images"] != names for part in parts):
                log.warning("the shares saw different images (limit, a folder that grew): nothing is summed up until all "
                            "were given the same again, or one command without share did what is missing")  # fmt: skip
                yield None
            else:
                merged = RunCoordinator(self.folder, self.items)
                for part in parts:
                    merged.skipped |= part["skipped"]
                yield merged

    def _merging(self):
        return lock(self.folder / ".lock-merge", "the merging of its parts", patience=math.inf)

    def close(
        self, config: dict, texts: dict, log_images: int, protocol: dict, enough: float, measured: Callable, summed=()
    ) -> dict:
        """Writes what is said of the whole run: the tables, the summary, TensorBoard's means.

        enough: see `smallest_area_rows`; of no account where no areas were asked. measured: table -> what metrics say of it.
        Returns the summary.
        """
        table, skipped = self.table(), [(name, self.skipped[name]) for name in sorted(self.skipped, key=self.places.get)]
        self._write_csv()
        tables.write_skipped(self.folder / "skipped.csv", skipped)
        summary = summaries.summarize_rows(table, len(skipped), self.missing(), protocol) | {"computed_with": self.computed_with}
        summary["metrics"] = measured(table)
        if summed:
            tables.write_csv(self.folder / "summed.csv", summed, tuple(k for k in summed[0] if "@" not in k))
            summary["summed"] = measured(summed)
        if table and table[0]["requested_area"]:
            best = smallest_area_rows(table, enough, protocol["game"])
            tables.write_csv(self.folder / "smallest.csv", best, SMALLEST_COLUMNS)
            found = [row for row in best if row["smallest_area"]]
            areas_found, images = ([row[key] for row in found] for key in ("smallest_area", "image"))
            summary["smallest_area"] = {"enough": enough, "rows": len(best), **describe(areas_found, images)}
        files.write_json(self.folder / "summary.json", summary)
        shown = [Path(row["mask"]).stem for place, _, row in sorted(self.rows, key=lambda r: r[:2]) if place < log_images]
        self.board.close()
        if self.bar:
            self.bar.close()
        sweep(self.folder)
        tensorboard.write_whole(self.folder, table, self.means(), shown, config, texts, summary["metrics"])
        for part in (self.folder / "parts").glob("*-of-*.*"):
            part.unlink()
        with suppress(OSError):  # something of others may be there
            (self.folder / "parts").rmdir()
        return summary
