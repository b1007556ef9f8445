"""MLflow: one run of metrics and artifacts, in mlflow/ of the run's folder or on a server."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import MLFlowLogger

from mpx.runs.files import write_file
from mpx.runs.loggers.base import MEAN, LogWriter, last_iteration
from mpx.runs.loggers.entries import Curves, RowEntry, SummaryEntry


class MLFlowWriter(LogWriter):
    """One MLflow run: metrics named <row>/..., pictures and texts as artifacts, hyperparameters as its parameters."""

    def __init__(self, name: str, factory: Callable[..., Any], folder: Path) -> None:
        super().__init__(name, factory, folder)
        self.run_id = folder / name / "run_id.txt"
        stored_id = self.run_id.read_text() if self.run_id.is_file() else None
        self.logger: MLFlowLogger = factory(save_dir=str((folder / name).resolve()), run_name=folder.name, run_id=stored_id)
        self.is_open = False

    def write_row(self, row: RowEntry) -> None:
        self._log_curves(row.curves, f"{row.name}/")
        run, client = self._open(), self.logger.experiment
        for iteration, _, image in row.evolution:
            client.log_image(run, image, f"{row.name}/evolution/{iteration:06}.png")
        client.log_image(run, row.panel, f"{row.name}/panel.png")
        if row.animation:
            with tempfile.TemporaryDirectory() as temporary:
                path = Path(temporary) / "animation.webp"
                path.write_bytes(row.animation)
                client.log_artifact(run, str(path), row.name)

    def write_summary(self, summary: SummaryEntry) -> None:
        run = self._open()
        self.logger.log_hyperparams(summary.hyperparameters)
        self._log_curves(summary.curves, f"{MEAN}/")
        self.logger.log_metrics(summary.metrics, last_iteration(summary.curves))
        for title, text in summary.texts.items():
            self.logger.experiment.log_text(run, text, f"{title}.md")

    def close(self) -> None:
        if self.is_open:
            self.logger.finalize("success")

    def _open(self) -> str:
        """Return the id of the run, which a continued run finds again."""
        self.is_open = True
        run = self.logger.run_id
        if not self.run_id.is_file():
            write_file(self.run_id, str(run))
        return str(run)

    def _log_curves(self, curves: Curves, prefix: str) -> None:
        """Log all points in few requests, with their times, which MLFlowLogger.log_metrics does not take."""
        from mlflow.entities import Metric

        run = self._open()
        points = [
            Metric(mlflow_name(prefix + name), value, round(time * 1000), iteration)
            for name, values in curves.values.items()
            for iteration, time, value in zip(curves.iterations, curves.times, values)
        ]
        for k in range(0, len(points), 1000):  # the most that a request may hold
            self.logger.experiment.log_batch(run, metrics=points[k : k + 1000])


def mlflow_name(name: str) -> str:
    """Return a name of the characters that MLflow allows."""
    return re.sub(r"[^a-zA-Z0-9_/. -]", "_", name)
