"""ExplainCallback: the masks of fixed images while a network learns, in the loggers of its Trainer.

    explain = mpx.ExplainCallback(images, targets, every_n_epochs=2)
    pl.Trainer(max_epochs=10, callbacks=[explain], logger=TensorBoardLogger("logs")).fit(network, loader)
    explain.strip().save("strip.png")  # epoch 0 ... 10
"""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor, nn

from mpx.api import explain
from mpx.errors import names_unknown_arguments
from mpx.explanation import Explanation
from mpx.learning.method import Method
from mpx.models.classifier import Classifier
from mpx.pictures.cells import Cell, draw_cells, fit, saliency_over
from mpx.pictures.colours import as_rgb
from mpx.pictures.encoding import to_image, to_uint8
from mpx.pictures.text import format_percent
from mpx.runs.loggers.entries import geometric_frames
from mpx.tasks.base import Task

TAG = "explanation"  # what names in loggers begin with


class Epoch(NamedTuple):
    """The masks after an epoch."""

    saliency: Tensor  # (B,1,H,W) uint8
    value: Tensor  # (B,) the task's value of the target, e.g. its probability
    area: Tensor  # (B,) of the evidence


class ExplainCallback(pl.Callback):
    """Explains images before the first epoch and after every n-th, and logs the pictures and numbers.

    images, target, task, method, options: as in `mpx.explain`. The targets should be fixed: a class that changes between
    epochs makes no comparison. model: a function from the LightningModule to what `mpx.explain` takes as model; by default
    the module itself, which then takes images in [0,1]. A network that wants normalised ones:
    `model=lambda module: mpx.Classifier(module, mean, std, categories)`.

    Every logger that shows pictures gets `explanation/<row>` and, at the end, `explanation/strip`; all get
    `explanation/<row>/value` and `/area`. The network trains on as if nothing had happened. Under several processes the
    first explains.
    """

    @names_unknown_arguments()
    def __init__(
        self,
        images: Any,
        target: Any,
        *,
        every_n_epochs: int = 1,
        model: Callable[[pl.LightningModule], nn.Module] = Classifier,
        task: str | Task | None = None,
        method: Method | None = None,
    ):
        super().__init__()
        if isinstance(every_n_epochs, bool) or not isinstance(every_n_epochs, int) or every_n_epochs < 1:
            raise ValueError(f"every_n_epochs={every_n_epochs!r} must be a whole number, at least 1")
        self.images = images
        self.target = target
        self.every_n_epochs = every_n_epochs
        self.model = model
        self.task = task
        self.method = method
        self.epochs: dict[int, Epoch] = {}  # by the number of epochs that the network has learnt
        self._last: Explanation | None = None
        self._warnings: list[str] = []  # of the last explanation

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Explain what the network says before it has learnt, or where it continues."""
        self._explain(trainer, pl_module, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Explain what the network has learnt."""
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._explain(trainer, pl_module, trainer.current_epoch + 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the strip of all epochs, and warn of the last masks that say little."""
        if trainer.is_global_zero and self.epochs:
            for logger in trainer.loggers:
                log_picture(logger, f"{TAG}/strip", self.strip(), trainer.global_step)
            for sentence in self._warnings:
                warnings.warn(sentence, stacklevel=2)

    def _explain(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int) -> None:
        if not trainer.is_global_zero:
            return
        options = {} if self.method is None else {"method": self.method}
        with warnings.catch_warnings(record=True) as caught:  # once, at the end, and not after each epoch
            warnings.simplefilter("always")
            e = explain(self.model(pl_module), self.images, self.target, task=self.task, frames=2, progress=False, **options)
        self._warnings = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
        self.epochs[epoch] = Epoch(to_uint8(e.saliency), e.value_before, e.area)
        self._last = e
        for logger in trainer.loggers:
            for i, name in enumerate(e.names):
                numbers = {f"{TAG}/{name}/value": float(e.value_before[i]), f"{TAG}/{name}/area": float(e.area[i])}
                logger.log_metrics(numbers, trainer.global_step)
                log_picture(logger, f"{TAG}/{name}", e.panel(i), trainer.global_step)

    def strip(self, epochs: int = 10) -> Image.Image:
        """Draw the photo of each row, and its saliency after at most so many epochs, close together at first."""
        if self._last is None:
            raise ValueError("nothing is explained yet: fit a network with this callback first")
        numbers = sorted(self.epochs)
        shown = [numbers[k] for k in geometric_frames(numbers, epochs)]
        rows = [self._cells(self._last, row, shown) for row in range(len(self._last))]
        return draw_cells(rows, [["epoch", *map(str, shown)]])

    def _cells(self, e: Explanation, row: int, epochs: Sequence[int]) -> list[Cell]:
        photo = as_rgb(e.images[row], e.bands)
        cells = [Cell(fit(to_image(photo)), e.classes[row], e.image_names[row])]
        for epoch in epochs:
            masks = self.epochs[epoch]
            value, area = e.task.format(float(masks.value[row])), format_percent(float(masks.area[row]))
            cells.append(Cell(saliency_over(photo, masks.saliency[row] / 255), value, f"area {area}"))
        return cells

    def state_dict(self) -> dict[str, Any]:
        """Return the masks of all epochs, for a checkpoint."""
        return {"epochs": {epoch: tuple(masks) for epoch, masks in self.epochs.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the strip of a checkpoint."""
        self.epochs = {epoch: Epoch(*masks) for epoch, masks in state_dict["epochs"].items()}


def log_picture(logger: Logger, name: str, picture: Image.Image, step: int) -> None:
    """Log a picture where a logger can show one."""
    if isinstance(logger, TensorBoardLogger):
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(picture.height, picture.width, 3)
        logger.experiment.add_image(name, pixels, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [picture], step)
    elif isinstance(logger, MLFlowLogger):
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / f"{step:08}.png"
            picture.save(path)
            logger.experiment.log_artifact(str(logger.run_id), str(path), name)
