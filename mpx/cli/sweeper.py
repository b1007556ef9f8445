"""The sweeper of `mpx -m`: Hydra's basic one with three additions.

An axis may consist of `cases`, each a name for several overrides (configs/sweep/blur.yaml). A job whose folder holds its
finished result is not started again. A failed job does not end the others, and all results are summarised at the end.
"""

import logging
from pathlib import Path
from typing import Any

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

log = logging.getLogger("mpx")


class JobSweeper(Sweeper):
    """Starts the jobs of a sweep that are not finished.

    params: key -> its values, "7,14,28". cases: axis -> label -> overrides. Both as in configs/sweep/.
    """

    hydra_context: HydraContext
    config: DictConfig
    launcher: Launcher

    def __init__(self, params: dict[str, str] | None = None, cases: dict[str, Axis] | None = None):
        self.params = params or {}
        self.cases = cases or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what sweep() needs; Hydra calls this once, before it."""
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Start the unfinished jobs, then summarise all. Raises ValueError where one failed."""
        from mpx.report import sweep
        from mpx.runs import files

        folder = Path(self.config.hydra.sweep.dir)
        parse = OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides
        jobs = list_jobs(parse([f"{k}={v}" for k, v in self.params.items()]), self.cases, parse(arguments))
        unfinished = self._unfinished(jobs, folder)
        names = dict.fromkeys([*sweep.recorded_jobs(folder), *jobs])
        files.write_file(folder / sweep.JOBS_FILE, "".join(f"{name}\n" for name in names))
        log.info(f"{len(jobs) - len(unfinished)} of {len(jobs)} jobs are finished in {folder}")
        try:
            returns = list(self.launcher.launch(unfinished, initial_job_idx=0)) if unfinished else []
        except Exception as error:  # of the launcher; a failed job leaves its reason in its folder
            if sweep.job_names(folder):
                log.info(f"\n{sweep.write_sweep_results(folder)}")
            raise ValueError(
                f"the launcher failed ({first_line(error)}): the same command starts the missing jobs again"
            ) from error
        log.info(f"\n{sweep.write_sweep_results(folder)}")
        _raise_for_failed(list(jobs), folder)
        return returns

    def _unfinished(self, jobs: dict[str, list[str]], folder: Path) -> list[list[str]]:
        """Return the overrides of the unfinished jobs. Composes all first: a misspelt value starts none."""
        from mpx.cli.finished import FinishedJobs

        loader = self.hydra_context.config_loader
        finished = FinishedJobs()
        unfinished = []
        for name, overrides in jobs.items():
            overrides = [*overrides, f"hydra.sweep.subdir='{name}'"]
            if not finished.holds(loader.load_sweep_config(self.config, overrides), folder / name):
                unfinished.append(overrides)
        return unfinished


def _raise_for_failed(names: list[str], folder: Path) -> None:
    from mpx.runs import store

    failed = [name for name in names if (folder / name / store.FAILED).exists()]
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(names)} jobs failed, {', '.join(failed)}: see {folder}/table.md; the same "
            "command starts only these again"
        )


class SummariseSweep(Callback):
    """Summarises the jobs of another sweeper, e.g. sweep=optuna."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        from mpx.report import sweep

        log.info(f"\n{sweep.write_sweep_results(Path(config.hydra.sweep.dir))}")


def register() -> None:
    """Replace Hydra's basic sweeper by JobSweeper. Only for sweeps, since Hydra then scans all its plugins."""
    target = "hydra_plugins.mpx.JobSweeper"  # Hydra accepts plugins of this package only
    Plugins.instance().class_name_to_class[target] = JobSweeper
    ConfigStore.instance().store("basic", {"_target_": target, "params": None, "cases": None}, "hydra/sweeper")
