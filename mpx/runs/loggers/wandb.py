"""Weights & Biases: one run of scalars, pictures and tables, in wandb/ of the run's folder."""

import secrets
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger

from mpx.runs.files import write_file
from mpx.runs.loggers.base import MEAN, LogWriter, log_scalars
from mpx.runs.loggers.entries import RowEntry, SummaryEntry


class WandbWriter(LogWriter):
    """One W&B run: scalars and pictures under <row>/..., the results as a table, hyperparameters as its config."""

    def __init__(self, name: str, factory: Callable[..., Any], folder: Path) -> None:
        super().__init__(name, factory, folder)
        folder.mkdir(parents=True, exist_ok=True)
        run_id = stored_id(folder / name / "run_id.txt")
        self.logger: WandbLogger = factory(save_dir=folder, name=folder.name, version=run_id)  # W&B appends /wandb itself
        self.is_open = False

    def write_row(self, row: RowEntry) -> None:
        import wandb

        self.is_open = True
        log_scalars(self.logger, row.curves, f"{row.name}/")
        for iteration, _, image in row.evolution:
            self.logger.log_image(f"{row.name}/evolution", [image], iteration)
        self.logger.log_image(f"{row.name}/panel", [row.panel], row.end[0])
        if row.animation:
            picture = wandb.Html(f'<img src="data:image/webp;base64,{b64encode(row.animation).decode()}">')
            self.logger.experiment.log({f"{row.name}/animation": picture, "trainer/global_step": row.end[0]})

    def write_summary(self, summary: SummaryEntry) -> None:
        self.is_open = True
        self.logger.log_hyperparams(summary.hyperparameters)
        log_scalars(self.logger, summary.curves, f"{MEAN}/")
        self.logger.experiment.summary.update(summary.metrics)
        for title, text in summary.texts.items():
            self.logger.log_text(title, columns=[title], data=[[text]])

    def close(self) -> None:
        if self.is_open:
            self.logger.experiment.finish()


def stored_id(path: Path) -> str:
    """Return the id in a file, which is made where there is none: a continued run logs to the same run."""
    if not path.is_file():
        write_file(path, secrets.token_hex(4))
    return path.read_text().strip()
