"""Fitting a prepared batch with Lightning: without announcements, and with one sentence for callbacks that do not fit."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from mpx.errors import first_line
from mpx.learning.batch import RowBatch
from mpx.learning.learner import BatchLearner

# a range is all the data, the eval mode of the classifier is meant, LeafSpec is Lightning's own affair, and a batch that is
# optimized again replaces its files
EXPECTED_WARNINGS = ".*(does not have many workers|modules? in eval mode|LeafSpec|exists and is not empty).*"


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's announcements of the available devices at every fit, and warnings that a batch expects."""
    announcements = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    level = announcements.level
    announcements.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", EXPECTED_WARNINGS)
            yield
    finally:
        announcements.setLevel(level)


@contextmanager
def misfits_as_value_errors() -> Iterator[None]:
    """Raise ValueError, in one sentence, where a callback, logger or profiler does not fit the Trainer or the learner."""
    try:
        yield
    except (MisconfigurationException, ModuleNotFoundError) as error:
        raise ValueError(f"a callback, logger or profiler does not fit: {first_line(error)}") from error
    except RuntimeError as error:
        if "conditioned on metric" not in str(error):  # EarlyStopping's words for a monitor that is never logged
            raise
        raise ValueError(f"callbacks: {first_line(error)}") from error


def fit(batch: RowBatch, trainer: pl.Trainer) -> None:
    """Optimize a batch with a Trainer until it pauses."""
    learner = BatchLearner(batch)
    try:
        with quiet_lightning(), misfits_as_value_errors():
            trainer.fit(learner)
        _check_monitors(trainer)
    finally:
        del learner.batch, learner.parameter  # trainer and learner refer to each other: the batch would outlive the fit


def _check_monitors(trainer: pl.Trainer) -> None:
    """Raise ValueError where a checkpoint monitors a value that nothing logged, which Lightning only warns of."""
    for callback in trainer.checkpoint_callbacks:
        monitor = callback.monitor if isinstance(callback, ModelCheckpoint) else None
        if monitor is not None and monitor not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics))
            raise ValueError(f"callbacks: ModelCheckpoint(monitor={monitor!r}) names no logged value; there are {logged}")
