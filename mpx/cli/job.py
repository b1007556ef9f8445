"""One job, as Hydra starts it: a run, its errors as sentences, and its exit code."""

import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mpx.cli.arguments import is_sweep, names_folder
from mpx.cli.gpus import claim_gpu
from mpx.config_errors import run_error_sentence, warn_of_unread
from mpx.errors import first_line
from mpx.runs.signals import end_with_parent

log = logging.getLogger("mpx")
FAILURE, SKIPPED_IMAGES = 1, 3  # exit codes


@dataclass
class Job:
    """The task that Hydra calls: once for a run, once per job of a sweep."""

    arguments: list[str]  # command line arguments
    show_traceback: bool  # of an error that otherwise becomes one sentence
    exit_codes: list[int] = field(default_factory=list)  # of the jobs that ran in this process
    name_override: list[str] = field(default_factory=list)  # that continues the run, where the command does not name it
    pid: int = field(default_factory=os.getpid)  # of the command; a launcher may run a job in another process

    def run(self, cfg: DictConfig) -> float | None:
        """Run a composed configuration; return the number that a searching sweeper minimises, NaN after an error.

        In a sweep a failed job leaves failed.txt, and the other jobs continue. A command that made nothing leaves no folder.
        """
        sweeps = is_sweep(self.arguments)
        folder = Path(HydraConfig.get().runtime.output_dir)
        end_with_parent(self.pid)
        if not (sweeps or names_folder(self.arguments)):
            self.name_override = [f"name={cfg.name}"]
        try:
            return self._run(cfg, folder, sweeps)
        except BaseException as error:
            reason = self._report(error, cfg, sweeps)
            _clean_up(folder, error, reason if sweeps else "")
            if not reason:
                raise
        finally:
            _close_log()
        return math.nan

    def _report(self, error: BaseException, cfg: DictConfig, sweeps: bool) -> str:
        """Print an error as one sentence, which is returned; an empty string for an error that is raised again."""
        if not isinstance(error, (Exception, SystemExit)):  # a network may call sys.exit
            return ""
        if self.show_traceback and not sweeps:
            return ""
        sentence = run_error_sentence(error, cfg)
        if not sentence and sweeps:
            log.exception("this job failed")
            sentence = f"{type(error).__name__}: {first_line(error)}"
        if not sentence:
            return ""
        print(f"mpx: {sentence}", file=sys.stderr)
        self.exit_codes.append(FAILURE)
        return sentence

    def _run(self, cfg: DictConfig, folder: Path, sweeps: bool) -> float | None:
        from mpx.config_plan import build_plan
        from mpx.report.sweep import job_axes
        from mpx.runs.run import objective, run

        hydra = HydraConfig.get()
        varied = job_axes(folder.name) if sweeps else {}
        warn_of_unread(cfg, list(hydra.overrides.task))
        with claim_gpu(folder.parent), _only_errors_printed() if sweeps else nullcontext():
            plan = build_plan(cfg, folder, dict(hydra.runtime.choices), list(hydra.overrides.task), varied)
            summary = run(plan)
        if sweeps and summary:
            log.info(f"{folder.name}: {summary_line(summary)}")
        self.exit_codes.append(SKIPPED_IMAGES if summary and summary["n_skipped"] else 0)
        return objective(plan, summary)


@contextmanager
def _only_errors_printed() -> Iterator[None]:
    """Keep a job's messages for its run.log, but for errors: of a sweep's jobs the terminal shows a line each."""
    handlers = [h for h in logging.getLogger().handlers if not isinstance(h, logging.FileHandler)]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels):
            handler.setLevel(level)


def summary_line(summary: dict[str, Any]) -> str:
    """Return a run's summary on one line: rows by their verdicts, the mean area and the time."""
    rows = "1 row" if summary["n"] == 1 else f"{summary['n']} rows"
    verdicts = ", ".join(f"{n} {verdict}" for verdict, n in summary["verdicts"].items())
    area = "" if summary["area"]["mean"] is None else f", area {100 * summary['area']['mean']:.1f} %"
    skipped = f", {summary['n_skipped']} images skipped" if summary["n_skipped"] else ""
    return f"{rows}{f' ({verdicts})' if verdicts else ''}{area}{skipped}, {summary['protocol']['session_seconds']:.0f} s"


def _close_log() -> None:
    """Detach run.log, whose folder may be removed later."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).name == "run.log":
            root.removeHandler(handler)
            handler.close()


def _clean_up(folder: Path, error: BaseException, reason: str) -> None:
    """Remove the folder of a failed job that made nothing, save for the reason that a sweep's table gives."""
    from mpx.runs.folder import FolderRefusedError, remove_unused, write_failure

    with suppress(OSError):  # a full disk
        remove_unused(folder, keep_log=bool(reason))
        if reason and not isinstance(error, FolderRefusedError):
            write_failure(folder, reason.splitlines()[0])
