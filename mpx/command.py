"""run(): what the command does, in Python."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from reprlib import repr
from typing import Any

from mpx.config_errors import run_error_sentence
from mpx.config_plan import plan_of
from mpx.config_schema import claim_name, composed, given_name, has_log, is_composed
from mpx.errors import Error
from mpx.runs.folder import remove_unused
from mpx.runs.run import run as run_plan
from mpx.stored_run import Run

log = logging.getLogger("mpx")
COMMAND_KEYS = ("sweep=", "versus=", "cluster=", "hydra.", "hydra/", "name=")  # name is an argument
COMPOSED_KEYS = ("hydra/job_logging=", "hydra/hydra_logging=", "hydra.searchpath=")  # which run() takes


def run(
    *overrides: Any, name: str | None = None, config_dir: str | PathLike | None = None, outputs: str | PathLike = "outputs"
) -> Run:
    """Explain and evaluate images as the command does, and return what its folder holds.

    overrides: arguments of the command line, e.g. "experiment=fong2017", "images=photos"; or one DictConfig that Hydra
        composed of mpx's configs/, with its node `hydra`. name: of the folder in `outputs`; None: the DictConfig's, else the
        time. The same call with the same name continues a run. config_dir: a folder of options of your own.

    What the command prints goes to the logger "mpx" and to run.log. Raises Error, one sentence, where the command would end
    with one; finished rows stay.
    """
    _check_overrides(overrides)
    root = Path(outputs).expanduser()
    folder, plan = None, None
    try:
        cfg = composed(*overrides, config_dir=config_dir)
        name = given_name(cfg) if name is None else name
        name = claim_name(root) if name is None else name
        folder = root / name
        with _log_to(folder) if has_log(cfg) else nullcontext():
            plan = plan_of(cfg, folder, name)
            run_plan(plan)
    except Exception as error:
        if folder:
            remove_unused(folder)
        if sentence := run_error_sentence(error, plan.config if plan else {}):
            raise Error(sentence) from error
        raise
    return Run(folder)


def _check_overrides(overrides: Sequence[Any]) -> None:
    for override in () if is_composed(overrides) else overrides:
        if not isinstance(override, str) or override.startswith("-"):
            raise Error(
                f'{repr(override)} is no override: write it as on the command line, e.g. "steps=30"; a composed '
                "configuration stands alone"
            )
        if override.startswith(COMMAND_KEYS) and not override.startswith(COMPOSED_KEYS):
            raise Error(f"{override} is for the command: give name= and outputs= to run(), and call it once for each value")


@contextmanager
def _log_to(folder: Path) -> Iterator[None]:
    """Write what is logged to run.log, too, which is opened by the first message."""
    handler = logging.FileHandler(folder / "run.log", encoding="utf-8", delay=True)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()
