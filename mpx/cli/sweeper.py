"""The sweeper of `mpx -m`: Hydra's basic one with three additions.

An axis may consist of `cases`, each a name for several overrides (configs/sweep/blur.yaml). A job whose folder holds its
finished result is not started again. A failed job does not end the others, and all results are summarised at the end. Which
jobs are finished is read from their folders, before and after.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from mpx.cli.axes import Axis, list_jobs
from mpx.errors import first_line
from mpx.runs.signals import end_with_parent

log = logging.getLogger("mpx")


class JobSweeper(Sweeper):
    """Starts the jobs of a sweep that are not finished.

    params: key -> its values, "7,14,28". cases: axis -> label -> overrides. Both as in configs/sweep/. max_batch_size: jobs
    that the launcher gets at once, as in Hydra; None: all.
    """

    hydra_context: HydraContext
    config: DictConfig
    launcher: Launcher

    def __init__(
        self,
        params: dict[str, str] | None = None,
        cases: dict[str, Axis] | None = None,
        max_batch_size: int | None = None,
    ):
        if max_batch_size is not None and not (isinstance(max_batch_size, int) and max_batch_size >= 1):
            raise ValueError(f"hydra.sweeper.max_batch_size={max_batch_size} must be a number of jobs, at least 1, or null")
        self.params = params or {}
        self.cases = cases or {}
        self.max_batch_size = max_batch_size

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what sweep() needs; Hydra calls this once, before it."""
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Start the unfinished jobs, then summarise all. Raises ValueError where one is not done at the end."""
        parse = OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides
        axes = list_jobs(parse([f"{k}={v}" for k, v in self.params.items()]), self.cases, parse(arguments))
        jobs = {name: self._compose(name, overrides) for name, overrides in axes.items()}  # a misspelt value starts none
        folder = Path(self.config.hydra.sweep.dir)
        with lock_sweep(folder):
            return self._sweep(jobs, folder)

    def _compose(self, name: str, overrides: list[str]) -> "SweepJob":
        overrides = [*overrides, f"hydra.sweep.subdir='{name}'"]
        return SweepJob(overrides, self.hydra_context.config_loader.load_sweep_config(self.config, overrides))

    def _sweep(self, jobs: dict[str, "SweepJob"], folder: Path) -> list[JobReturn]:
        from mpx.cli.finished import FinishedJobs
        from mpx.report import sweep
        from mpx.runs import files

        finished = FinishedJobs()
        unfinished = [name for name, job in jobs.items() if not finished.holds(job.cfg, folder / name)]
        names = dict.fromkeys([*sweep.recorded_jobs(folder), *jobs])
        files.write_file(folder / sweep.JOBS_FILE, "".join(f"{name}\n" for name in names))
        log.info(f"{len(jobs) - len(unfinished)} of {len(jobs)} jobs are finished in {folder}")
        logging.getLogger("hydra._internal.core_plugins.basic_launcher").setLevel(logging.WARNING)  # a job has its own line
        _end_workers_with_command(self.launcher)
        try:
            returns: list[JobReturn] = []
            for k in range(0, len(unfinished), size := self.max_batch_size or max(1, len(unfinished))):
                overrides = [jobs[name].overrides for name in unfinished[k : k + size]]
                returns += self.launcher.launch(overrides, initial_job_idx=k)
        except Exception as error:  # of the launcher; a failed job leaves its reason in its folder
            if sweep.job_names(folder):
                log.info(f"\n{sweep.summarise_sweep(folder)}")
            raise ValueError(
                f"the launcher failed ({first_line(error)}): the same command starts the missing jobs again"
            ) from error
        log.info(f"\n{sweep.summarise_sweep(folder)}")
        finished = FinishedJobs()
        failed = [name for name in unfinished if not finished.holds(jobs[name].cfg, folder / name, after_run=True)]
        if failed:
            raise ValueError(
                f"{len(failed)} of {len(jobs)} jobs failed, {', '.join(failed)}: see {folder}/table.md; the same "
                "command starts only these again"
            )
        return returns


def _end_workers_with_command(launcher: Launcher) -> None:
    """Let joblib's workers, also idle ones, end when this process is killed."""
    options = vars(launcher).get("joblib")  # foreign: arguments of joblib.Parallel in the launcher of cluster=joblib
    if options is not None:
        options.update(initializer=end_with_parent, initargs=(os.getpid(),))


class SweepJob(NamedTuple):
    overrides: list[str]
    cfg: DictConfig  # composed of them


@contextmanager
def lock_sweep(folder: Path) -> Iterator[None]:
    """Refuse a sweep in whose folder another one works, before anything is written."""
    from mpx.runs.folder import LOCK, lock

    with lock(folder / LOCK, "one sweep"):
        yield


class LockAndSummariseSweep(Callback):
    """Locks the folder of another sweeper, e.g. sweep=optuna, and summarises its jobs."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self._stack.enter_context(lock_sweep(Path(config.hydra.sweep.dir)))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        from mpx.report import sweep

        log.info(f"\n{sweep.summarise_sweep(Path(config.hydra.sweep.dir))}")
        self._stack.close()


def register() -> None:
    """Replace Hydra's basic sweeper by JobSweeper. Only for sweeps, since Hydra then scans all its plugins."""
    target = "hydra_plugins.mpx.JobSweeper"  # Hydra accepts plugins of this package only
    Plugins.instance().class_name_to_class[target] = JobSweeper
    options = dict.fromkeys(("params", "cases", "max_batch_size"))
    ConfigStore.instance().store("basic", {"_target_": target, **options}, "hydra/sweeper")
