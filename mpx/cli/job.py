"""One job, as Hydra starts it: a run, its errors as sentences, and its exit code."""

import logging
import math
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mpx.cli.arguments import is_sweep, names_folder
from mpx.cli.gpus import claim_gpu
from mpx.config_errors import error_sentence, own_code_sentence, warn_of_unread
from mpx.errors import OwnCodeError, as_told, first_line
from mpx.runs.signals import Stopped

log = logging.getLogger("mpx")
FAILURE, SKIPPED_IMAGES = 1, 3  # exit codes


@dataclass
class Job:
    """The task that Hydra calls: once for a run, once per job of a sweep."""

    arguments: list[str]  # command line arguments
    show_traceback: bool  # of an error that otherwise becomes one sentence
    exit_codes: list[int] = field(default_factory=list)  # of the jobs that ran in this process

    def run(self, cfg: DictConfig) -> float | None:
        """Run a composed configuration; return the number that a searching sweeper minimises, NaN after an error.

        In a sweep a failed job leaves failed.txt, and the other jobs continue.
        """
        sweeps = is_sweep(self.arguments)
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            return self._run(cfg, folder, sweeps)
        except Stopped:
            command = ["mpx", *self.arguments, *([] if names_folder(self.arguments) or sweeps else [f"name={cfg.name}"])]
            print(f"mpx: stopped; continue with: {shlex.join(command)}", file=sys.stderr)
            raise
        except (Exception, SystemExit) as error:  # a network may call sys.exit
            if self.show_traceback and not sweeps:
                raise
            told = as_told(error)
            if isinstance(told, OwnCodeError):
                sentence = own_code_sentence(told, cfg)
            elif isinstance(told, (ValueError, OSError, OmegaConfBaseException)):
                sentence = error_sentence(told)
            elif sweeps:
                log.exception("this job failed")
                sentence = f"{type(error).__name__}: {first_line(error)}"
            else:
                raise
            print(f"mpx: {sentence}", file=sys.stderr)
            self.exit_codes.append(FAILURE)
        if sweeps:
            from mpx.runs import files, store

            files.write_file(folder / store.FAILED, f"{sentence.splitlines()[0]}\n")
        return math.nan

    def _run(self, cfg: DictConfig, folder: Path, sweeps: bool) -> float | None:
        from mpx.config_plan import build_plan
        from mpx.report.sweep import job_axes
        from mpx.runs import store
        from mpx.runs.run import objective, run

        hydra = HydraConfig.get()
        (folder / store.FAILED).unlink(missing_ok=True)
        varied = job_axes(folder.name) if sweeps else {}
        warn_of_unread(cfg, list(hydra.overrides.task))
        with claim_gpu(folder.parent):
            plan = build_plan(cfg, folder, dict(hydra.runtime.choices), list(hydra.overrides.task), varied)
            summary = run(plan)
        self.exit_codes.append(SKIPPED_IMAGES if summary and summary["n_skipped"] else 0)
        return objective(plan, summary)
