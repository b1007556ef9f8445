"""The curves, pictures and numbers of a run in any of Lightning's loggers.

The main process logs a row when it is stored, and the summary at the end. In TensorBoard and CSV each row is its own run,
named by the row, and `mean` is the run of all rows. W&B and MLflow have one run, in which names begin with the row's.
A logger that fails causes one warning; the run continues without it.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mpx.errors import first_line
from mpx.explanation import Explanation
from mpx.runs.loggers.entries import row_entry, summary_entry
from mpx.runs.tables import TableRow

if TYPE_CHECKING:
    from mpx.runs.loggers.base import LogWriter

log = logging.getLogger("mpx")


class RunLoggers:
    """folder: of the run. factories: name -> a Lightning logger's class, or functools.partial of it with options.

    Raises ValueError where a logger cannot be made, e.g. because its package is not installed.
    """

    def __init__(self, folder: str | Path, factories: Mapping[str, Callable[..., Any]]) -> None:
        self.hyperparameters: dict[str, Any] = {}
        self.writers: dict[str, LogWriter] = {}  # without those that failed
        if factories:
            from mpx.runs.loggers.choice import make_writer  # imports Lightning

            for name, factory in factories.items():
                self.writers[name] = make_writer(name, factory, Path(folder))

    def log_hyperparameters(self, values: Mapping[str, Any]) -> None:
        """Set the hyperparameters of the run, flat; they are written with its summary, where their metrics are known."""
        self.hyperparameters = dict(values)

    def log_row(self, explanation: Explanation) -> None:
        """Log curves, the mask's evolution, panel and animation of every row of the explanation."""
        for i in range(len(explanation) if self.writers else 0):
            entry = row_entry(explanation, i)
            self._call({name: partial(writer.write_row, entry) for name, writer in self.writers.items()})

    def log_summary(
        self, rows: Sequence[TableRow], means: Mapping[str, Tensor], metrics: Mapping[str, Mapping[str, Any]],
        texts: Mapping[str, str],
    ) -> None:  # fmt: skip
        """Log the whole run; a later call, of a continued run, replaces it.

        rows: all lines of results.csv. means: term -> (steps,) mean curve. metrics: as in summary.json.
        texts: title -> Markdown.
        """
        if self.writers:
            entry = summary_entry(rows, means, metrics, texts, self.hyperparameters)
            self._call({name: partial(writer.write_summary, entry) for name, writer in self.writers.items()})

    def close(self) -> None:
        """Finish the runs of all loggers."""
        self._call({name: writer.close for name, writer in self.writers.items()})

    def _call(self, actions: Mapping[str, Callable[[], None]]) -> None:
        """Run each logger's action; drop a logger whose action fails."""
        for name, action in actions.items():
            try:
                with logging_on_every_rank():
                    action()
            except Exception as error:  # each logger's package has errors of its own; none is worth the masks
                del self.writers[name]
                log.warning(f"logger={name} is off for the rest of this run: {type(error).__name__}: {first_line(error)}")


@contextmanager
def logging_on_every_rank() -> Iterator[None]:
    """Let Lightning's loggers write in this process: they are silent where torchrun or Slurm gives a rank other than 0.

    The processes of a run share its rows, so each has rows of its own to log.
    """
    from pytorch_lightning.utilities import rank_zero_only

    state: Any = rank_zero_only  # a function with an attribute
    rank = state.rank
    state.rank = 0
    try:
        yield
    finally:
        state.rank = rank
