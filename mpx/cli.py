"""The console command `mpx`, the same as scripts/run.py.

Exit codes: 0 done, 1 it could not be done (one sentence on stderr), 3 done except skipped images, and above 128 a signal
stopped it (130 Ctrl-C, 143 SIGTERM): what was finished is kept, and the same command goes on.
"""

import logging
import os
import re
import shlex
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mpx import config, menu
from mpx.run import Stopped, run
from mpx.solver import shares, workers

FAILED, SKIPPED = 1, 3
NAMES = ("name=", "hydra.run.dir=", "hydra.sweep.dir=")  # what says where a run is


def main() -> None:
    """Runs the command line in sys.argv and exits."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(menu.help_text())
        return
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry; the sentence says enough
    sys.path.append(os.getcwd())  # so that model.network=my_module:build finds the user's own
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda a: a not in ("-m", "--multirun"))  # Hydra wants it first
    codes = []

    @hydra.main(version_base="1.3", config_path=str(config.CONFIGS), config_name="config")
    def job(cfg: DictConfig) -> None:
        this = HydraConfig.get()
        try:
            skipped = run(cfg, Path(this.runtime.output_dir), dict(this.runtime.choices), list(this.overrides.task))
            codes.append(SKIPPED if skipped else 0)
        except Stopped:
            named = any(given.startswith(NAMES) for given in sys.argv)
            again = shlex.join(["mpx", *sys.argv[1:], *([] if named else [f"name={cfg.name}"])])
            print(f"mpx: stopped; to go on: {again}", file=sys.stderr)
            raise
        except (ValueError, OSError, OmegaConfBaseException) as error:
            if asked_for_traceback:
                raise
            codes.append(_complain(error))

    before = os.environ.get("HYDRA_FULL_ERROR")
    asked_for_traceback = before == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra would print several lines of its own and exit
    try:
        with stoppable():
            _check(sys.argv[1:])
            job()
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        if asked_for_traceback:
            raise
        codes.append(_complain(error))
    except Stopped as stop:
        codes.append(128 + stop.signum)
    finally:
        os.environ.pop("HYDRA_FULL_ERROR") if before is None else os.environ.update(HYDRA_FULL_ERROR=before)
    sys.exit(max(codes, default=0, key=lambda code: (code > 128, code == FAILED, code)))


def _check(arguments: list[str]) -> None:
    """What must be told before Hydra makes a folder."""
    for given in arguments:
        if re.match(r"--(?!config-|hydra-|cfg|package|experimental|shell|info)[a-z0-9_.]+=", given):
            raise ValueError(f"{given}: keys are written without dashes, {given.lstrip('-')}")
    launched = shares.launched(os.environ)
    if launched.count == 1 and not any(given.startswith("share=") and given != "share=auto" for given in arguments):
        return
    if {"-m", "--multirun"} & set(arguments):
        raise ValueError(
            f"-m with {launched.launcher or 'share='} would start every job of the sweep in every process: start the sweep "
            "alone, its jobs with trainer.devices=N, or one run each"
        )
    if not any(given.startswith(NAMES) for given in arguments):
        raise ValueError("processes that share a run must know its folder: give each the same name=, e.g. name=night1")


@contextmanager
def stoppable():
    """The first signal raises Stopped, a second one ends the process at once: files are whole at every instant."""

    def stop(number, _):
        since = time.monotonic()

        def again(number, _):
            if time.monotonic() - since > 1:  # a launcher may pass on what the terminal has told already
                os._exit(128 + number)

        for other in workers.SIGNALS:
            signal.signal(other, again)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in workers.SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _complain(error: Exception) -> int:
    hydras = isinstance(error, (HydraException, OmegaConfBaseException))
    text = config.sentence(error) if hydras else str(error)
    if isinstance(error, OSError) and error.filename and not hydras:
        text = f"cannot use {error.filename}: {error.strerror}"
    print(f"mpx: {text}", file=sys.stderr)
    return FAILED
