"""A run in TensorBoard: events files directly in the run's folder, so that the folder's name is the run's name.

Groups, in the order the viewer shows them: `mean/` curves over all rows, by which runs are compared; `metric/` one number
each, the HParams columns; `row <name>/` curves, masks and pictures of the first rows; `run/` config, command, table as text.
Each session of a run adds a file with the rows that it found; all else is said of the whole run, in a file that the next one
replaces. The x-axis is the iteration. TensorBoard keeps ten images of a tag, chosen by chance, so it gets no more than
ten. Logging is a courtesy: if a file cannot be written there is one warning, and the run goes on without.
"""

import functools
import io
import logging
import re
import threading
from pathlib import Path

import torch
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from mpx.metrics.summary import describe
from mpx.pictures.animation import animation_gif
from mpx.pictures.encoding import encode_jpeg, to_image
from mpx.pictures.panel import draw_panel
from mpx.pictures.snapshots import evolution_strips
from mpx.runs import tables, terminal

log = logging.getLogger("mpx")
METRICS = ("p_after", "p_normalised", "area", "passes", "seconds")
POINTS, IMAGES, TABLE = 200, 10, 200  # at most, of a curve, of a tag, of the table's lines
WHOLE = ".whole"  # how the name of that file ends
OFF = "TensorBoard is off for the rest of this run: "
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
            log.warning(OFF + str(error))

    return tried


def open_writer(folder: str, **options) -> SummaryWriter:
    threading.excepthook = _told_otherwise
    return SummaryWriter(folder, **options)


def _told_otherwise(end, before=threading.excepthook) -> None:
    """The traceback of a thread that died, but for a writer's that cannot write: its next call raises the error again."""
    if not (isinstance(end.exc_value, OSError) and type(end.thread).__module__.startswith("tensorboard.")):
        before(end)


class Rows:
    """Curves, masks and pictures of the rows that are shown, as they are found."""

    def __init__(self, folder):
        self.folder, self.writer, self.failed = str(folder), None, False

    @best_effort
    def show(self, e) -> None:
        self.writer = self.writer or open_writer(self.folder)  # made late: a run that fails leaves no empty one
        for i, name in enumerate(e.names):
            group = row_group(name)
            for term, values in e.curves.items():
                curve(self.writer, tag(group, term), values[:, i])
            for frame, iteration in enumerate(e.iterations):  # not of the parameter, which need not lie in [0,1]
                self.writer.add_histogram(f"{group}/saliency", e.frame_saliency[frame, i] / 255, iteration, bins=BINS)
            frames, last = chosen(e.iterations), e.iterations[-1]
            for frame, strip in zip(frames, evolution_strips(e, i, frames)):
                self._image(f"{group}/evolution", encode_jpeg(to_image(strip)), e.iterations[frame])
            self._image(f"{group}/panel", encode_jpeg(draw_panel(e, i)), last)
            self._image(f"{group}/animation", animation_gif(e, i), last)  # the viewer plays a GIF
        self.writer.flush()

    def _image(self, tag: str, encoded: bytes, step: int) -> None:
        width, height = Image.open(io.BytesIO(encoded)).size
        image = Summary.Image(encoded_image_string=encoded, colorspace=3, width=width, height=height)
        self.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    @best_effort
    def close(self) -> None:
        if self.writer:
            self.writer.close()


def write_whole(
    folder: Path, rows: list[dict], means: dict, shown: list[str], config: dict, texts: dict[str, str], metrics: dict
) -> None:
    """What is said of the run as a whole. A run that is continued says it again, so its file is replaced.

    rows: of the results table; means: term -> (steps,) over all; shown: names of the rows that have a group;
    config: flat hyper-parameters, the axes of a comparison; texts: under run/, as markdown; metrics: name -> its "value".
    """
    try:
        for old in folder.glob("events.out.tfevents.*" + WHOLE):
            old.unlink()
        writer = open_writer(str(folder), filename_suffix=WHOLE)
        for term, values in means.items():
            curve(writer, tag("mean", term), values)
        # what Lightning's log_hyperparams writes, but without placeholder values
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in config.items() if v is not None}
        values = {name: describe((row[name] for row in rows), draws=0)["mean"] for name in METRICS}
        values |= {name: metric["value"] for name, metric in metrics.items() if metric["value"] is not None}
        for part in hparams(plain, {f"metric/{name}": 0 for name in values}):
            writer.file_writer.add_summary(part)
        for name, value in values.items():
            if value is not None:
                writer.add_scalar(f"metric/{name}", value)
        for name, text in {**texts, "summary": markdown(rows)}.items():  # a file name may not be text
            writer.add_text(f"run/{name}", text.encode("utf-8", "backslashreplace").decode())
        objective = [term for term in means if term not in ("probability", "area")]
        charts = {"objective": objective, "outcome": ["probability", "area"]}
        writer.add_custom_scalars(
            {
                group: {k: ["Multiline", [f"^{re.escape(tag(group, name))}$" for name in v]] for k, v in charts.items()}
                for group in ["mean", *map(row_group, shown)]
            }
        )
        writer.close()
    except OSError as error:
        log.warning(OFF + str(error))


class Means:
    """The mean over rows of each curve, of what is finite, fed in any order."""

    def __init__(self):
        self.sums = {}  # term -> (2, steps): sum and count

    def add(self, curves: dict) -> None:
        """term -> (steps,B)."""
        for term, values in curves.items():
            new = torch.stack([values.nan_to_num(0, 0, 0).double().sum(1), values.isfinite().double().sum(1)])
            self.add_sums({term: new})

    def add_sums(self, sums: dict) -> None:
        for term, new in sums.items():
            old = self.sums.get(term, torch.zeros_like(new))
            steps = max(old.shape[1], new.shape[1])  # rows that were over before stay as they were
            self.sums[term] = sum(torch.nn.functional.pad(x, (0, steps - x.shape[1]), "replicate") for x in (old, new))

    def __call__(self) -> dict:
        return {term: total / count for term, (total, count) in self.sums.items()}


def row_group(name: str) -> str:
    return f"row {terminal.printable(name)}"


def curve(writer: SummaryWriter, name: str, values) -> None:
    for step in torch.linspace(0, len(values) - 1, min(len(values), POINTS)).round().long().tolist():
        writer.add_scalar(name, values[step].item(), step)


def tag(group: str, name: str) -> str:
    return f"{group}/{name if name in ('probability', 'area') else f'loss_{name}'}"


def chosen(iterations: list[int], most: int = IMAGES) -> list[int]:
    """Indices of at most `most` iterations, the nearest to a geometric schedule; the first and the last are among them."""
    last = iterations[-1]
    wanted = [0, *(last ** (k / (most - 2)) for k in range(most - 1))]
    return sorted({min(range(len(iterations)), key=lambda k: abs(iterations[k] - w)) for w in wanted})


def markdown(rows: list[dict]) -> str:
    """The results table, its mask column and what is beyond TABLE rows left out."""
    columns = [c for c in tables.result_columns(rows) if c != "mask"]
    cells = [[f"{v:.4g}" if isinstance(v := row.get(c), float) else str(v) for c in columns] for row in rows[:TABLE]]
    cells = [[terminal.printable(c).replace("|", "\\|") for c in line] for line in cells]
    lines = [columns, ["---"] * len(columns), *cells]
    rest = f"\n\n{len(rows) - TABLE} more rows in results.csv" if len(rows) > TABLE else ""
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + rest
