"""BatchLearner: the masks of a batch of rows as an ordinary LightningModule. A run's workers and `mpx.MaskLearner` fit it.

One fit is one batch of rows, and one training step is one iteration. The masks are the module's only parameter; the network
stays outside, so no checkpoint holds it. Terms are logged as the mean over rows, under these names, at the interval that the
Trainer sets, and only if it has a logger or a callback that reads them:

    loss/total  loss/score  loss/<regularizer>  score/value  mask/area

Under DDP every rank optimizes the same rows with its part of the method's `samples`: the averaged gradient is that of all.
"""

import signal
import threading
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelSummary, ProgressBar
from torch import Tensor
from torch.optim import Optimizer

from mpx.learning.batch import RowBatch
from mpx.learning.log_names import log_name
from mpx.learning.trainer_keys import check_trainer


class BatchLearner(pl.LightningModule):
    """Optimizes a batch of rows that is prepared already. `MaskLearner` prepares its own."""

    def __init__(self, batch: RowBatch | None = None):
        super().__init__()
        self.batch = batch
        if batch is not None:
            self.parameter = batch.parameter
        self._interval = 0  # iterations from one logged iteration to the next; 0: none is logged
        self._sigterm_handler = signal.getsignal(signal.SIGTERM)

    @property
    def row_batch(self) -> RowBatch:
        """The batch that is being optimized."""
        if self.batch is None:
            raise ValueError("the learner has no masks yet: fit it with a Trainer first")
        return self.batch

    # ---- the optimization

    def train_dataloader(self) -> Sequence[int]:
        """Return the iterations of this fit, those before a checkpoint included; the images are part of the objective."""
        return range(self.trainer.global_step + self.row_batch.remaining)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """End the fit where the batch has paused."""
        return -1 if self.row_batch.paused else None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the objective, summed over rows: rows are independent, so a mean would tie lr to the batch size."""
        terms = self.row_batch.terms()
        self._log_terms(terms)
        return terms["total"].sum()

    def configure_optimizers(self) -> Any:
        """Return the method's optimizer and its learning rate schedule."""
        optimizer, scheduler = self.row_batch.make_optimizer()
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Drop the gradient of all rows; the optimizer may hold their views only."""
        self.row_batch.parameter.grad = None

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Record the gradient's norm."""
        self.row_batch.before_step(optimizer)

    def optimizer_step(self, epoch: int, batch_idx: int, *arguments: Any, **options: Any) -> None:
        """Step, then project the masks, so that every callback sees masks in [0,1]."""
        super().optimizer_step(epoch, batch_idx, *arguments, **options)
        self.row_batch.after_step()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Let EarlyStopping check its metric after each iteration: the only epoch ends with the fit."""
        for callback in self.trainer.early_stopping_callbacks:
            assert isinstance(callback, EarlyStopping)
            callback.on_train_epoch_end(self.trainer, self)

    # ---- around a fit

    def setup(self, stage: str) -> None:
        """Refuse trainers whose keys would change the optimization."""
        check_trainer(self.trainer)

    def on_fit_start(self) -> None:
        """Share the samples out over the ranks of a process group, and set how often terms are logged."""
        if self.trainer.world_size > 1:
            self.row_batch.objective.share_samples(self.trainer.global_rank, self.trainer.world_size)
        self._interval = self._logging_interval()

    def on_train_start(self) -> None:
        """Keep the handler of SIGTERM: Lightning's own only stops the fit, and hangs where ranks talk to each other."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._sigterm_handler)

    def on_train_end(self) -> None:
        """Average the history over ranks, and copy it to the rows."""
        if self.trainer.world_size > 1:
            for values in self.row_batch.history.values():
                dist.all_reduce(values)
                values /= self.trainer.world_size
        self.row_batch.finish()

    def _callbacks(self) -> list[Callback]:
        return self.trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning's callback connector

    def _logging_interval(self) -> int:
        """Return 1 where a callback may monitor a term, the Trainer's interval where terms are only shown, else 0."""
        if any(not isinstance(c, (SilentCallback, ProgressBar, ModelSummary)) for c in self._callbacks()):
            return 1
        if self.trainer.loggers or any(isinstance(callback, ProgressBar) for callback in self._callbacks()):
            return self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by Lightning's logger connector
        return 0

    def _log_terms(self, terms: dict[str, Tensor]) -> None:
        if not self._interval or (self.trainer.global_step + 1) % self._interval:
            return
        row_count = len(self.row_batch.rows)
        means = {log_name(name): value.detach()[:row_count].mean() for name, value in terms.items()}
        has_bar = any(isinstance(callback, ProgressBar) for callback in self._callbacks())
        # Lightning reads these at every iteration from then on
        bar_means = {name: means.pop(name) for name in ("loss/total", "mask/area")} if has_bar else {}
        self.log_dict(means, on_step=True, on_epoch=False, batch_size=row_count)
        self.log_dict(bar_means, on_step=True, on_epoch=False, prog_bar=True, batch_size=row_count)


class SilentCallback(Callback):
    """A callback that monitors no logged value, so that terms need not be logged for its sake."""
