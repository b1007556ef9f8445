"""TensorBoard: event files in tensorboard/<row>/ and tensorboard/mean/ of the run's folder."""

import io
import tempfile
from pathlib import Path

from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

from mpx.pictures.encoding import encode_jpeg
from mpx.runs.files import write_file
from mpx.runs.loggers.base import MEAN, LogWriter
from mpx.runs.loggers.entries import Curves, RowEntry, SummaryEntry

HISTOGRAM_BINS = [k / 30 for k in range(31)]


class TensorBoardWriter(LogWriter):
    """A TensorBoardLogger for each row, and one for the mean, whose event files appear whole in tensorboard/<row>/.

    Events are written to a temporary folder first: TensorBoard writes in a thread of its own, where a full disk would end
    in a traceback, and a continued run replaces the files of the row.
    """

    def write_row(self, row: RowEntry) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            logger = self._logger(temporary)
            writer = logger.experiment
            self._add_curves(logger, row.curves)
            for iteration, time, values in row.saliency:
                writer.add_histogram("mask/saliency", values, iteration, bins=HISTOGRAM_BINS, walltime=time)
            for iteration, time, image in row.evolution:
                self._add_image(logger, "pictures/evolution", encode_jpeg(image), iteration, time)
            self._add_image(logger, "pictures/panel", encode_jpeg(row.panel), *row.end)
            if row.animation:
                self._add_image(logger, "pictures/animation", row.animation, *row.end)  # TensorBoard plays a GIF
            self._publish(logger, temporary, row.name)

    def write_summary(self, summary: SummaryEntry) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            logger = self._logger(temporary)
            self._add_curves(logger, summary.curves)
            logger.log_hyperparams(summary.hyperparameters, summary.metrics)
            for title, text in summary.texts.items():
                logger.experiment.add_text(title, text)
            self._publish(logger, temporary, MEAN)

    def _logger(self, temporary: str) -> TensorBoardLogger:
        return self.factory(save_dir=temporary, name="", version="")

    def _add_curves(self, logger: TensorBoardLogger, curves: Curves) -> None:
        for name, values in curves.values.items():
            for iteration, time, value in zip(curves.iterations, curves.times, values):
                logger.experiment.add_scalar(name, value, iteration, walltime=time)

    def _add_image(self, logger: TensorBoardLogger, tag: str, encoded: bytes, iteration: int, time: float) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = Image.open(io.BytesIO(encoded)).size
        image = Summary.Image(encoded_image_string=encoded, colorspace=3, width=width, height=height)
        logger.experiment.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), iteration, time)

    def _publish(self, logger: TensorBoardLogger, temporary: str, run: str) -> None:
        """Move the event files to tensorboard/<run>/, in place of those there."""
        logger.experiment.close()
        target = self.folder / self.name / run
        old = set(target.glob("events.out.tfevents.*"))
        for path in Path(temporary).rglob("events.out.tfevents.*"):
            write_file(target / path.name, path.read_bytes())
        for path in old:
            path.unlink(missing_ok=True)
