"""The console command `mpx`, the same as scripts/run.py.

Exit codes: 0 done, 1 it could not be done (one sentence on stderr), 3 done except skipped images, and above 128 a signal
stopped it (130 Ctrl-C, 143 SIGTERM): what was finished is kept, and the same command goes on.
"""

import logging
import math
import os
import re
import shlex
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mpx import config
from mpx.cli import menu, sweeper
from mpx.config_errors import error_sentence
from mpx.errors import first_line
from mpx.report import sweep
from mpx.runs import devices as shares
from mpx.runs import files, store
from mpx.runs import launch as workers
from mpx.runs.run import Stopped, objective, run

log = logging.getLogger("mpx")
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
    typed, sweeps, codes = sys.argv[1:], _sweeps(sys.argv[1:]), []

    @hydra.main(version_base="1.3", config_path=str(config.CONFIGS), config_name="config")
    def job(cfg: DictConfig) -> float | None:
        this = HydraConfig.get()
        folder = Path(this.runtime.output_dir)
        try:
            (folder / store.FAILED).unlink(missing_ok=True)
            with sweeper.gpu(folder.parent, torch.cuda.device_count()):
                varied = sweep.axes(folder.name) if sweeps else {}
                said = run(cfg, folder, dict(this.runtime.choices), list(this.overrides.task), varied)
            codes.append(SKIPPED if said and said["n_skipped"] else 0)
            return objective(cfg, said)
        except Stopped:
            named = any(given.startswith(NAMES) for given in typed)
            again = shlex.join(["mpx", *typed, *([] if named or sweeps else [f"name={cfg.name}"])])
            print(f"mpx: stopped; to go on: {again}", file=sys.stderr)
            raise
        except (ValueError, OSError, OmegaConfBaseException) as error:
            if asked_for_traceback and not sweeps:
                raise
            codes.append(_complain(error))
            if sweeps:  # the others go on; a sweeper that searches sees that there is no number
                files.write_file(folder / store.FAILED, f"{error_sentence(error)}\n")
            return math.nan
        except Exception as error:
            if not sweeps:
                raise
            log.exception("this job failed")
            files.write_file(folder / store.FAILED, f"{type(error).__name__}: {first_line(error)}\n")
            return math.nan

    before = os.environ.get("HYDRA_FULL_ERROR")
    asked_for_traceback = before == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra would print several lines of its own and exit
    try:
        with stoppable():
            _check(typed, sweeps)
            if sweeps:
                sweeper.register()
            if sweeps and not any(given.startswith(NAMES) for given in typed):
                where = f"outputs/sweeps/{sweeper.sweep_name(typed)}"  # not by the clock: the same command goes on
                sys.argv.append(f"hydra.sweep.dir='{where}'")
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


def _sweeps(arguments: list[str]) -> bool:
    """Whether many runs are asked for."""
    presets = any(re.match("(sweep|cluster)=(?!null$)", given) for given in arguments)
    return presets or bool({"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(arguments))


def _check(arguments: list[str], sweeps: bool) -> None:
    """What must be told before Hydra makes a folder."""
    for given in arguments:
        if re.match(r"--(?!config-|hydra-|cfg|package|experimental|shell|info)[a-z0-9_.]+=", given):
            raise ValueError(f"{given}: keys are written without dashes, {given.lstrip('-')}")
    launched = shares.launched(os.environ)
    if launched.count == 1 and not any(given.startswith("share=") and given != "share=auto" for given in arguments):
        return
    if sweeps:
        raise ValueError(
            f"a sweep with {launched.launcher or 'share='} would start every job of the sweep in every process: start the "
            "sweep alone, its jobs with trainer.devices=N, or one run each"
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
    print(f"mpx: {error_sentence(error)}", file=sys.stderr)
    return FAILED
