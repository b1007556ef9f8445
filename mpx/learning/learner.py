"""The search under Lightning: the parameter of a whole batch of rows is the module's only parameter.

One `Trainer.fit` is one batch of rows (with method.stop: until one is over and another takes its place) and one step is one
iteration, so that callbacks and stopping mean what a Lightning user thinks they mean. A scheduler is read off beforehand
(solver.search), for rows may be at different iterations. Nothing is logged on the step path: the history stays on the
device.
"""

import logging
import signal
import threading
import warnings

import pytorch_lightning as pl

from mpx.learning.search import Search


class MaskModule(pl.LightningModule):
    """search: its parameter is learnt; the frozen classifier stays outside, so no checkpoint holds it."""

    def __init__(self, search: Search):
        super().__init__()
        self.search, self.parameter = search, search.parameter

        self.on_sigterm = signal.getsignal(signal.SIGTERM)

    def train_dataloader(self):
        return range(self.search.left)

    def on_train_start(self):
        # Lightning's own would only stop the fit, and hangs where ranks talk to each other (a broadcast inside the handler)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.on_sigterm)

    def on_train_batch_start(self, *_):
        return -1 if self.search.paused else None  # the end

    def configure_optimizers(self):
        return self.search.optimizer

    def optimizer_zero_grad(self, *_):
        self.search.parameter.grad = None

    def training_step(self, *_):
        return self.search.loss()

    def on_before_optimizer_step(self, _):
        self.search.before_step()

    def optimizer_step(self, epoch, batch_idx, *arguments, **options):
        super().optimizer_step(epoch, batch_idx, *arguments, **options)
        self.search.after_step()  # here, so that every callback sees the projected mask


def fit(search: Search, trainer) -> Search:
    """Runs the search until it is paused, by a Trainer made by `trainer()`, e.g. a partial of pytorch_lightning.Trainer."""
    announcements = logging.getLogger("pytorch_lightning.utilities.rank_zero")  # which devices there are, at every fit
    level, module = announcements.level, MaskModule(search)
    announcements.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # a range is the whole data, the classifier's eval mode is meant, and one thing is Lightning's own affair
            warnings.filterwarnings("ignore", ".*(does not have many workers|modules? in eval mode|LeafSpec).*")
            trainer().fit(module)
    finally:
        announcements.setLevel(level)
        del module.search, module.parameter  # trainer and module hold each other: the batch would stay till a full gc
    return search.finish()
