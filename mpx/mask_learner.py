"""MaskLearner: the masks of images as an ordinary LightningModule, whatever Trainer fits it.

    learner = mpx.MaskLearner(model, images, targets)
    pl.Trainer(max_epochs=1, callbacks=[EarlyStopping("loss/total", patience=20)]).fit(learner)
    learner.explanation().panel(0)
"""

import warnings
from contextlib import ExitStack
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import nn

from mpx import config
from mpx.errors import names_unknown_arguments
from mpx.explanation import Explanation
from mpx.learning.batch import RowBatch, without_gradient
from mpx.learning.batching import prepare_batch
from mpx.learning.inputs import as_images, make_rows, with_task
from mpx.learning.learner import BatchLearner, SilentCallback
from mpx.learning.memory import kept_memory
from mpx.learning.method import Method
from mpx.learning.outcome import to_explanation
from mpx.learning.rows import Row
from mpx.models.bare import as_classifier
from mpx.models.classifier import Classifier
from mpx.tasks.base import Task
from mpx.verdicts import judge_and_warn


class RestoreModel(SilentCallback):
    """Restores a MaskLearner's model also when its fit ends with an exception or an interrupt."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the model."""
        assert isinstance(pl_module, MaskLearner)
        pl_module.restore_model()


class MaskLearner(BatchLearner):
    """Learns the masks of images under a frozen model, which is restored at the end.

    model: an mpx.Classifier, or any nn.Module from images in [0,1] to logits (B,K). images: (B,C,H,W) in [0,1], or files
    as in `mpx.explain`. target: as in `mpx.explain`; a list gives a mask for each of its targets and each image. task: what
    is explained, an option's name or an mpx.Task, e.g. mpx.task("detection", "task.min_score=0.1"); None: the Classifier's.
    method: e.g. mpx.method("fong2017"); None: the command's default. snapshots: most snapshots of each mask, from the first
    to the last iteration.
    """

    @names_unknown_arguments()
    def __init__(
        self,
        model: nn.Module | str,
        images: Any,
        target: Any = None,
        *,
        task: str | Task | None = None,
        method: Method | None = None,
        snapshots: int = 24,
    ):
        super().__init__()
        method = config.build_method(config.compose()) if method is None else Method.check(method)
        if method.explainer:
            raise ValueError("a method with an explainer learns no mask: use mpx.explain")
        self.method = method
        self.snapshots = snapshots
        # in a tuple, so that the network is no submodule: no checkpoint, optimizer or process group sees it
        classifier, target = with_task(as_classifier(model), config.named_task(task), target)
        self._network = (classifier,)
        self._frozen = ExitStack()  # the model, during a fit
        pixels, names, contexts = as_images(images, self.classifier)
        with self.classifier.frozen_and_folded(pixels):
            self.rows: list[Row] = make_rows(self.classifier, pixels, names, contexts, target, method.areas)

    @property
    def classifier(self) -> Classifier:
        """The model, as a Classifier."""
        return self._network[0]

    def setup(self, stage: str) -> None:
        """Freeze the model on the trainer's device and, before the first fit, prepare the batch."""
        super().setup(stage)
        if self.batch is not None and self.batch.finished:
            raise ValueError("these masks are learnt: explanation() returns them, and another fit needs a new MaskLearner")
        self._frozen.enter_context(kept_memory())
        self._frozen.callback(self.classifier.to, self.classifier.device)
        self.classifier.to(self.trainer.strategy.root_device)
        self._frozen.enter_context(self.classifier.frozen_and_folded(self.rows[0].image[None]))
        if self.batch is None:
            batch = prepare_batch(self.method, self.classifier, self.rows, self.snapshots, keep_together=True)
            assert isinstance(batch, RowBatch)
            self.batch = batch
            self.parameter = batch.parameter

    def teardown(self, stage: str) -> None:
        """Restore the model's mode, gradient flags and device."""
        self.restore_model()

    def configure_callbacks(self) -> list[Callback]:
        """Return the callback that restores the model also when a fit is interrupted."""
        return [RestoreModel()]

    def restore_model(self) -> None:
        """Restore the model's mode, gradient flags and device."""
        self._frozen.close()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the rows' progress, history and snapshots, from which a fit is resumed."""
        checkpoint["rows"] = self.row_batch.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue from a checkpoint's progress."""
        self.row_batch.load_state_dict(checkpoint["rows"])

    def explanation(self) -> Explanation:
        """Return the explanation of all rows. Raises ValueError where the network's output was not finite."""
        with self.classifier.frozen():
            explanation, failures = to_explanation(self.row_batch.objective, self.row_batch.rows, self.rows)
        if failures:
            raise ValueError(next(iter(failures.values())))
        if sentence := without_gradient(self.row_batch.rows):
            warnings.warn(sentence, stacklevel=2)
        judge_and_warn(explanation)
        return explanation
