"""CSV: csv/<row>/metrics.csv, csv/mean/metrics.csv and csv/mean/hparams.yaml in the run's folder."""

import shutil

from pytorch_lightning.loggers import CSVLogger

from mpx.runs.loggers.base import MEAN, LogWriter, last_iteration, log_scalars
from mpx.runs.loggers.entries import RowEntry, SummaryEntry


class CSVWriter(LogWriter):
    """A CSVLogger for each row, and one for the mean: csv/<row>/metrics.csv, csv/mean/hparams.yaml."""

    def write_row(self, row: RowEntry) -> None:
        logger = self._logger(row.name)
        log_scalars(logger, row.curves)
        logger.finalize("success")

    def write_summary(self, summary: SummaryEntry) -> None:
        logger = self._logger(MEAN)
        logger.log_hyperparams(summary.hyperparameters)
        log_scalars(logger, summary.curves)
        logger.log_metrics({**summary.metrics}, last_iteration(summary.curves))
        logger.finalize("success")

    def _logger(self, run: str) -> CSVLogger:
        shutil.rmtree(self.folder / self.name / run, ignore_errors=True)  # of a run that is continued
        return self.factory(save_dir=self.folder, name=self.name, version=run)
