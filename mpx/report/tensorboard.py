"""A run in TensorBoard: one events file, directly in the run's folder, so that the folder's name is the run's name.

Groups, in the order the viewer shows them: `mean/` curves over all rows, by which runs are compared; `metric/` one number
each, the HParams columns; `row <name>/` curves, masks and pictures of the first rows; `run/` config, command, table as text.
The x-axis is the iteration. TensorBoard keeps ten images of a tag, chosen by chance, so it gets no more than ten. Logging is
a courtesy: if the file cannot be written there is one warning, and the run goes on without.
"""

import functools
import io
import logging
import re
from collections.abc import Iterable

import torch
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from mpx.report import render, results

log = logging.getLogger("mpx")
METRICS = ("p_after", "p_normalised", "area", "seconds")
POINTS, IMAGES, TABLE = 200, 10, 200  # at most, of a curve, of a tag, of the table's lines
BINS = torch.linspace(0, 1, 31).tolist()


def best_effort(method):
    @functools.wraps(method)
    def tried(self, *args):
        if self.failed:
            return
        try:
            method(self, *args)
        except OSError as error:
            self.failed = True
            log.warning(f"TensorBoard is off for the rest of this run: {error}")

    return tried


class TensorBoard:
    """Feed it every batch's Explanation, then close it with the rows of the results table.

    config: flat hyper-parameters, the axes of a comparison; terms: of the regularizer, as the curves name them.
    """

    def __init__(self, folder, config: dict, config_text: str, command: str, terms: Iterable[str], limit: int = 8):
        self.terms, self.left, self.groups, self.sums, self.failed = ["total", "score", *terms], limit, [], {}, False
        self._open(folder, config, config_text, command)

    @best_effort
    def _open(self, folder, config: dict, config_text: str, command: str) -> None:
        self.writer = SummaryWriter(str(folder))
        # what Lightning's log_hyperparams writes, but without placeholder values, and the session's end when it ends
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in config.items() if v is not None}
        *start, self.end = hparams(plain, {f"metric/{name}": 0 for name in METRICS})
        for part in start:
            self.writer.file_writer.add_summary(part)
        self._text("run/config", f"```yaml\n{config_text.strip()}\n```")
        self._text("run/command", f"```\n{command}\n```")
        self.writer.flush()

    @best_effort
    def batch(self, e) -> None:
        for name, values in e.curves.items():  # (steps,B): sum and count of what is finite
            sums = torch.stack([values.nan_to_num(0, 0, 0).double().sum(1), values.isfinite().double().sum(1)])
            self.sums[name] = self.sums.get(name, 0) + sums
        rows = range(min(self.left, len(e.names)))
        self.left -= len(rows)
        for i in rows:
            self._row(e, i, f"row {results.printable(e.names[i])}")
        self.writer.flush()

    def _row(self, e, i: int, group: str) -> None:
        self.groups.append(group)
        self._curves(group, {name: values[:, i] for name, values in e.curves.items()})
        for frame, iteration in enumerate(e.iterations):
            self.writer.add_histogram(f"{group}/mask", e.frame_masks[frame, i].nan_to_num(), iteration, bins=BINS)
        frames, last = chosen(e.iterations), e.iterations[-1]
        for frame, strip in zip(frames, render.strips(e, i, frames)):
            self._image(f"{group}/evolution", jpeg(render.to_image(strip)), e.iterations[frame])
        self._image(f"{group}/panel", jpeg(render.panel(e, i)), last)
        self._image(f"{group}/animation", render.animation(e, i), last)  # the viewer plays a GIF

    def _text(self, tag: str, text: str) -> None:
        self.writer.add_text(tag, text.encode("utf-8", "backslashreplace").decode())  # a file name may not be text

    def _image(self, tag: str, encoded: bytes, step: int) -> None:
        width, height = Image.open(io.BytesIO(encoded)).size
        image = Summary.Image(encoded_image_string=encoded, colorspace=3, width=width, height=height)
        self.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def _curves(self, group: str, curves: dict) -> None:
        for name, values in curves.items():
            for step in torch.linspace(0, len(values) - 1, min(len(values), POINTS)).round().long().tolist():
                self.writer.add_scalar(tag(group, name), values[step].item(), step)

    @best_effort
    def close(self, rows: list[dict]) -> None:
        self._curves("mean", {name: total / count for name, (total, count) in self.sums.items()})
        for name in METRICS:
            mean = results.statistics((row[name] for row in rows), draws=0)["mean"]
            if mean is not None:
                self.writer.add_scalar(f"metric/{name}", mean)
        self._text("run/summary", markdown(rows))
        charts = {"objective": self.terms, "outcome": ["probability", "area"]}
        self.writer.add_custom_scalars(
            {
                group: {k: ["Multiline", [f"^{re.escape(tag(group, name))}$" for name in v]] for k, v in charts.items()}
                for group in ["mean", *self.groups]
            }
        )
        self.writer.file_writer.add_summary(self.end)
        self.writer.close()


def jpeg(image: Image.Image) -> bytes:
    """A tenth of a PNG's time and a quarter of its size; the PNG is in panels/."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92, subsampling=0)
    return file.getvalue()


def tag(group: str, name: str) -> str:
    return f"{group}/{name if name in ('probability', 'area') else f'loss_{name}'}"


def chosen(iterations: list[int], most: int = IMAGES) -> list[int]:
    """Indices of at most `most` iterations, the nearest to a geometric schedule; the first and the last are among them."""
    last = iterations[-1]
    wanted = [0, *(last ** (k / (most - 2)) for k in range(most - 1))]
    return sorted({min(range(len(iterations)), key=lambda k: abs(iterations[k] - w)) for w in wanted})


def markdown(rows: list[dict]) -> str:
    """The results table, its mask column and what is beyond TABLE rows left out."""
    columns = [c for c in (rows[0] if rows else results.COLUMNS) if c != "mask"]
    cells = [[f"{v:.4g}" if isinstance(v := row[c], float) else str(v) for c in columns] for row in rows[:TABLE]]
    cells = [[results.printable(c).replace("|", "\\|") for c in line] for line in cells]
    lines = [columns, ["---"] * len(columns), *cells]
    rest = f"\n\n{len(rows) - TABLE} more rows in results.csv" if len(rows) > TABLE else ""
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + rest
