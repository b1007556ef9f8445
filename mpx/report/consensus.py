"""The consensus of a sweep's jobs: where their masks find evidence, how far they differ, and whether they agree.

After a sweep over seeds and perturbations (configs/sweep/consensus.yaml) it tells evidence from one of several masks that
are about as good.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mpx.masks.evidence import evidence_of
from mpx.metrics.similarity import iou_of_pixels
from mpx.pictures.cells import Cell, draw_cells, fit, saliency_over
from mpx.pictures.encoding import encode_png, to_image
from mpx.report.run_folder import RunFolder
from mpx.report.sweep_grid import MAX_ROWS, StoredRow, load_line, rows_by_number, stored_photo
from mpx.runs.files import write_file
from mpx.runs.store import replace_row
from mpx.runs.tables import write_csv

HALF = 0.5  # smallest evidence of a pixel that counts as evidence
UNSTABLE = 0.5  # mean IoU of two jobs' evidence below which a row is called unstable
COLUMNS = ("image", "class", "jobs", "iou", "agreement", "maps")
PICTURES = ("photo", "mean evidence of the jobs", "standard deviation")


@dataclass(frozen=True, eq=False)
class Consensus:
    """Where the masks of several jobs find evidence for one target of one image."""

    name: str  # fit for a file
    image: str
    target: str  # the name of the class
    runs: list[RunFolder]  # the jobs
    photo: Tensor | None  # (3,h,w), reduced
    mean: Tensor  # (1,H,W) in [0,1]
    spread: Tensor  # (1,H,W) the standard deviation, at most 0.5
    pair_ious: list[float]  # of the pixels of evidence of two jobs, in the order of `pairs`

    @property
    def pairs(self) -> list[tuple[RunFolder, RunFolder]]:
        return list(combinations(self.runs, 2))

    @property
    def iou(self) -> float:
        return fmean(self.pair_ious)

    @property
    def agreement(self) -> str:
        return "unstable" if self.iou < UNSTABLE else "stable"


def consensus_of(evidence: Tensor) -> tuple[Tensor, Tensor, list[float]]:
    """Return the mean (1,H,W), the standard deviation (1,H,W) and the IoU of each pair of N >= 2 maps (N,1,H,W)."""
    first, second = zip(*combinations(range(len(evidence)), 2))
    found = evidence >= HALF
    return evidence.mean(0), evidence.std(0, correction=0), iou_of_pixels(found[[*first]], found[[*second]]).tolist()


def find_consensus(runs: Sequence[RunFolder]) -> Iterator[Consensus]:
    """Compare the jobs row by row, where at least two have a mask of one size for one target of an image."""
    numbered = [rows_by_number(run) for run in runs]
    for key in dict.fromkeys(key for rows in numbered for key in rows):
        stored = [(run, row) for run, rows in zip(runs, numbered) if (row := load_line(run, rows.get(key)))]
        same = [(run, row) for run, row in stored if _kind(row) == _kind(stored[0][1])]
        if len(same) < 2:
            continue
        evidence = torch.stack([_evidence(row) for _, row in same])
        jobs, (row, *_) = map(list, zip(*same))
        yield Consensus(row["name"], row["image"], row["class"], jobs, stored_photo(row), *consensus_of(evidence))


def _kind(row: StoredRow) -> tuple:
    """Return what rows must share to be compared."""
    return row["target"], row["mask"].shape


def _evidence(row: StoredRow) -> Tensor:
    return evidence_of(torch.from_numpy(row["mask"]).float()[None], row["game"])


def write_consensus(runs: Sequence[RunFolder], out: Path) -> str:
    """Write consensus.csv, consensus.png and consensus/<row>.npz; return a paragraph for the table, empty without a pair."""
    lines: list[dict[str, Any]] = []
    shown: list[Consensus] = []
    ious_by_axis: dict[str, list[float]] = {axis: [] for axis in runs[0].axes}
    for row in find_consensus(runs):
        maps = Path("consensus", f"{row.name}.npz")
        replace_row(out / maps, {"mean": row.mean[0].half().numpy(), "spread": row.spread[0].half().numpy()})
        lines.append(dict(zip(COLUMNS, (row.image, row.target, len(row.runs), row.iou, row.agreement, str(maps)))))
        shown += [row] * (len(shown) < MAX_ROWS)
        for (a, b), iou in zip(row.pairs, row.pair_ious):
            if len(differing := [axis for axis in a.axes if a.axes[axis] != b.axes[axis]]) == 1:
                ious_by_axis[differing[0]].append(iou)
    if not lines:
        return ""
    write_csv(out / "consensus.csv", lines, COLUMNS)
    write_file(out / "consensus.png", encode_png(draw_consensus(shown)))
    return _paragraph(lines, {axis: fmean(ious) for axis, ious in ious_by_axis.items() if ious})


def _paragraph(lines: Sequence[dict[str, Any]], iou_by_axis: dict[str, float]) -> str:
    """Return what the lines of consensus.csv say, and the mean IoU of jobs that differ in one axis alone."""
    unstable = [f"{line['image']} ({line['class']}, {line['iou']:.2f})" for line in lines if line["agreement"] == "unstable"]
    named = f": {', '.join(unstable[:5])}{', ...' if len(unstable) > 5 else ''}" if unstable else ""
    by_axis = ", ".join(f"{iou:.2f} if they differ in {axis} alone" for axis, iou in iou_by_axis.items())
    return (
        f"Consensus: the evidence of two jobs overlaps with an IoU of {fmean(line['iou'] for line in lines):.2f} on average"
        f"{f' ({by_axis})' if len(iou_by_axis) > 1 else ''}. {len(unstable)} of {len(lines)} rows are unstable, below "
        f"{UNSTABLE}{named}. consensus.png shows the mean of the jobs and their spread.\n"
    )


def draw_consensus(rows: Sequence[Consensus]) -> Image.Image:
    """Draw the photo, the mean over it and the spread of each row, with the IoU and whether they agree."""
    cells = [
        [
            Cell(None if row.photo is None else fit(to_image(row.photo)), row.target, row.image),
            Cell(saliency_over(row.photo, row.mean), f"IoU {row.iou:.2f}, {row.agreement}", f"{len(row.runs)} jobs"),
            Cell(saliency_over(None, row.spread), "from 0 to 1"),
        ]
        for row in rows
    ]
    return draw_cells(cells, [PICTURES])
