"""The Trainer of one batch of a run, with callbacks and loggers of its own.

The rows of a run are logged by its coordinator (mpx.runs.loggers). A batch logs by itself only where a callback is chosen,
because callbacks such as LearningRateMonitor write through the Trainer's loggers. A batch writes to batches/<name>/ of the
run's folder, so that no batch overwrites the files of another: checkpoints/, and a folder for each logger.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger

from mpx.errors import with_place
from mpx.learning.fitting import misfits_as_value_errors, quiet_lightning
from mpx.learning.learner import SilentCallback
from mpx.operators import describe, dotted_name, unwrap
from mpx.runs.plan import RunPlan


def batch_trainer(plan: RunPlan, batch_name: str, progress: SilentCallback | None, **arguments: Any) -> pl.Trainer:
    """Return the Trainer of a batch. arguments: further arguments of the Trainer, such as its device."""
    folder = plan.folder / "batches" / batch_name
    with quiet_lightning(), misfits_as_value_errors():
        callbacks = [_batch_callback(name, factory, folder) for name, factory in plan.callbacks.items()]
        if callbacks:
            loggers = [logger for kind, make in plan.loggers.items() if (logger := _batch_logger(kind, make, folder))]
            arguments |= {"default_root_dir": str(folder), "logger": loggers or False, "log_every_n_steps": 1}
        return plan.build_trainer(**arguments, callbacks=[*callbacks, *([progress] if progress else [])])


def _batch_callback(name: str, factory: Callable[..., pl.Callback], folder: Path) -> pl.Callback:
    """Return a batch's callback. Its checkpoints lie in checkpoints/, whatever loggers there are."""
    try:
        callback = factory()
    except Exception as error:  # of any package's, or the user's own
        reason = f"{type(error).__name__}: {with_place(error)}"
        raise ValueError(f"callbacks.{name} cannot be made ({reason}): check its options") from error
    if not isinstance(callback, pl.Callback):
        returned = f"{dotted_name(factory)} returned {describe(callback)}"
        raise ValueError(f"callbacks.{name}: {returned}: it must return a Lightning Callback")
    if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
        callback.dirpath = str(folder / "checkpoints")
    return callback


def _batch_logger(name: str, factory: Callable[..., Logger], folder: Path) -> Logger | None:
    """Return a batch's logger of the same kind as the run's; None for a kind that mpx does not know where to write.

    W&B has one open run in a process, which is the run's own.
    """
    kind = unwrap(factory)
    if not isinstance(kind, type):
        return None
    if issubclass(kind, (TensorBoardLogger, CSVLogger)):
        return factory(save_dir=str(folder), name=name, version="")
    if issubclass(kind, MLFlowLogger):
        return factory(save_dir=str(folder / name), run_name=folder.name)
    return None
