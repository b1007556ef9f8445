"""run(): what the command does, in Python."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from mpx.config_errors import run_error_sentence
from mpx.config_plan import compose_plan
from mpx.config_schema import claim_name
from mpx.errors import Error
from mpx.runs.folder import remove_unused
from mpx.runs.run import run as run_plan
from mpx.stored_run import Run

log = logging.getLogger("mpx")
COMMAND_KEYS = ("sweep=", "cluster=", "hydra.", "hydra/", "name=")  # name is an argument


def run(
    *overrides: str, name: str | None = None, config_dir: str | PathLike | None = None, outputs: str | PathLike = "outputs"
) -> Run:
    """Explain and evaluate images as the command does, and return what its folder holds.

    overrides: arguments of the command line, e.g. "experiment=fong2017", "images=photos". name: of the folder in `outputs`;
        None: the time. The same call with the same name continues a run. config_dir: a folder of options of your own.

    What the command prints goes to the logger "mpx" and to run.log. Raises Error, one sentence, where the command would end
    with one; finished rows stay.
    """
    _check_overrides(overrides)
    folder = Path(outputs).expanduser()
    folder /= claim_name(folder) if name is None else name
    arguments = [f"name={folder.name if name is None else name}", *overrides]
    plan = None
    try:
        with _log_to(folder):
            plan = compose_plan(*arguments, folder=folder, config_dir=config_dir)
            run_plan(plan)
    except Exception as error:
        remove_unused(folder)
        if sentence := run_error_sentence(error, plan.config if plan else {}):
            raise Error(sentence) from error
        raise
    return Run(folder)


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        if not isinstance(override, str) or override.startswith("-"):
            raise Error(f'{override!r} is no override: write it as on the command line, e.g. "steps=30"')
        if override.startswith(COMMAND_KEYS):
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
