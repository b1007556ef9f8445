"""The contract of a writer, which writes rows and summaries with one logger, and the writer for any Lightning logger."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from mpx.runs.loggers.entries import Curves, RowEntry, SummaryEntry

MEAN = "mean"  # name of the run of all rows; a row's name has a "-"


class LogWriter(ABC):
    """Writes entries with one logger. factory: makes the logger. folder: of the run."""

    def __init__(self, name: str, factory: Callable[..., Any], folder: Path) -> None:
        self.name = name
        self.factory = factory
        self.folder = folder

    @abstractmethod
    def write_row(self, row: RowEntry) -> None:
        """Log one row."""

    @abstractmethod
    def write_summary(self, summary: SummaryEntry) -> None:
        """Log the whole run, in place of an earlier summary."""

    def close(self) -> None:  # noqa: B027 - not abstract: most writers have nothing to finish
        """Finish the logger's run, where one is open."""


class ScalarWriter(LogWriter):
    """Any other Lightning logger: scalars under <row>/... and hyperparameters."""

    def __init__(self, name: str, factory: Callable[..., Any], folder: Path) -> None:
        super().__init__(name, factory, folder)
        self.logger: Logger = factory()

    def write_row(self, row: RowEntry) -> None:
        log_scalars(self.logger, row.curves, f"{row.name}/")

    def write_summary(self, summary: SummaryEntry) -> None:
        self.logger.log_hyperparams(summary.hyperparameters)
        log_scalars(self.logger, summary.curves, f"{MEAN}/")
        self.logger.log_metrics(summary.metrics, last_iteration(summary.curves))

    def close(self) -> None:
        self.logger.finalize("success")


def log_scalars(logger: Logger, curves: Curves, prefix: str = "") -> None:
    """Log curves iteration by iteration."""
    for k, iteration in enumerate(curves.iterations):
        logger.log_metrics({prefix + name: values[k] for name, values in curves.values.items()}, iteration)


def last_iteration(curves: Curves) -> int:
    """Return the last iteration, 0 where there are no curves."""
    return curves.iterations[-1] if curves.iterations else 0
