"""The command `mpx`, the same as scripts/run.py.

Exit codes: 0 success; 1 an error, one sentence on stderr; 3 success except for skipped images; above 128 stopped by a signal
(130 Ctrl-C, 143 SIGTERM): finished images are stored, and the same command continues.

Nothing here imports torch before a run begins, so that --help, --version, --cfg and tab completion answer at once.
"""

import logging
import os
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

import mpx
from mpx.cli import arguments as command_line
from mpx.cli import menu
from mpx.cli.job import FAILURE, Job
from mpx.config_errors import error_sentence
from mpx.config_schema import CONFIGS
from mpx.runs.signals import Stopped, raise_on_signal


def main() -> None:
    """Run the command line in sys.argv and exit."""
    logging.raiseExceptions = False  # a message that cannot be written, as in `mpx ... | head`, stops no run
    code = 0
    with command_line.reader_may_end():
        code = _answer(sys.argv[1:])
    sys.exit(code)


def _answer(arguments: list[str]) -> int:
    """Answer the command line; return the exit code."""
    if {"--help", "-h"} & set(arguments):
        print(menu.help_text())
    elif "--version" in arguments:
        print(f"mpx {mpx.__version__}")
    else:
        return _run(command_line.order(arguments))
    return 0


def _run(arguments: list[str]) -> int:
    """Run Hydra with these arguments; return the exit code."""
    sys.path.append(os.getcwd())  # model.network=my_module:build finds a module in the working folder
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs every retry; mpx reports the failure once
    warnings.formatwarning = lambda message, *_: f"mpx: {message}\n"  # a warning is a sentence, without the line of code
    job = Job(arguments, show_traceback=os.environ.get("HYDRA_FULL_ERROR") == "1")
    hydra_main = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")
    try:
        with raise_on_signal(), _hydra_raises_errors():
            sys.argv[1:] = command_line.prepare(arguments)
            with command_line.unnamed_folder(arguments):
                hydra_main(job.run)()
    except BrokenPipeError:  # nobody reads stdout any more
        raise
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        if job.show_traceback:
            raise
        print(f"mpx: {error_sentence(error)}", file=sys.stderr)
        job.exit_codes.append(FAILURE)
    except Stopped as stop:
        print(f"mpx: stopped; continue with: {shlex.join(['mpx', *arguments, *job.name_override])}", file=sys.stderr)
        job.exit_codes.append(128 + stop.signum)
    return max(job.exit_codes, default=0, key=lambda code: (code > 128, code == FAILURE, code))


@contextmanager
def _hydra_raises_errors() -> Iterator[None]:
    """Set HYDRA_FULL_ERROR=1: without it Hydra prints several lines for an error and exits."""
    previous = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if previous is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = previous
