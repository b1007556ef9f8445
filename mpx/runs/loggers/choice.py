"""The writer for a logger, by the logger's class."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from mpx.errors import with_place
from mpx.operators import unwrap
from mpx.runs.loggers.base import LogWriter, ScalarWriter
from mpx.runs.loggers.csv import CSVWriter
from mpx.runs.loggers.mlflow import MLFlowWriter
from mpx.runs.loggers.tensorboard import TensorBoardWriter
from mpx.runs.loggers.wandb import WandbWriter

WRITERS: dict[type[Logger], type[LogWriter]] = {
    TensorBoardLogger: TensorBoardWriter,
    CSVLogger: CSVWriter,
    WandbLogger: WandbWriter,
    MLFlowLogger: MLFlowWriter,
}


def make_writer(name: str, factory: Callable[..., Any], folder: Path) -> LogWriter:
    """Return the writer for the class behind `factory`. Raises ValueError where the logger cannot be made."""
    logger_class = unwrap(factory)
    bases = [base for base in WRITERS if isinstance(logger_class, type) and issubclass(logger_class, base)]
    try:
        return WRITERS[bases[0]](name, factory, folder) if bases else ScalarWriter(name, factory, folder)
    except ModuleNotFoundError as error:
        raise ValueError(f"logger={name} needs a package that is not installed: pip install {name} ({error})") from error
    except Exception as error:  # each logger's package has errors of its own
        raise ValueError(
            f"logger={name} cannot be made ({type(error).__name__}: {with_place(error)}): check its options, logger.{name}.*"
        ) from error
