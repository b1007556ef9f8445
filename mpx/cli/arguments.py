"""The command line before Hydra reads it: whether it is a sweep, what is refused, what is added."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from mpx.cli import sweeper, versus
from mpx.cli.folders import sweep_folder
from mpx.config_errors import check_yaml_files
from mpx.config_schema import SCHEMA, claim_name, groups, without_null_groups
from mpx.runs.shares import find_share, launched_share

MULTIRUN = ("-m", "--multirun", "hydra.mode=MULTIRUN")
PRINTS_ONLY = ("-c", "--cfg", "-i", "--info", "-sc", "--shell-completion", "--shell_completion", "--hydra-help")
FOLDER_KEYS = ("name=", "hydra.run.dir=", "hydra.sweep.dir=")
FLAGS_WITH_VALUES = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c", "--package", "-p",
                     "--experimental-rerun")  # fmt: skip
ROOT_KEYS = {*SCHEMA, *groups()}
HYDRA_FLAGS = ("config-", "hydra-", "cfg", "package", "experimental", "shell", "info")


def answer_help(text: str | None) -> None:
    """Print a script's text and end it where its command line asks for help."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        with reader_may_end():
            print(text)
        sys.exit()


@contextmanager
def reader_may_end() -> Iterator[None]:
    """Take it as no error where nobody reads stdout any more, as in `mpx --help | head -1`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python writes as it ends goes there


def order(arguments: list[str]) -> list[str]:
    """Return the arguments with flags first, where Hydra expects them."""
    first: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        is_first = argument.startswith("-") and argument not in ("--info", "-i")  # whose value is optional
        (first if is_first else others).append(argument)
        if argument in FLAGS_WITH_VALUES:
            first += islice(rest, 1)
    return first + others


def prepare(arguments: list[str]) -> list[str]:
    """Return the arguments for Hydra. Raises ValueError for those that would fail after Hydra has made a folder."""
    _refuse_dashes(arguments)
    _check_flags(arguments)
    folders = _own_configs(arguments)
    for folder in folders:
        check_yaml_files(folder)
    _refuse_two_experiments(arguments)
    given = [_expand_home(argument) for argument in without_null_groups(arguments)]
    sweeps = is_sweep(given)
    arguments = versus.as_sweep(given, folders)
    if sweeps:
        sweeper.register()
    if any(argument.startswith(PRINTS_ONLY) for argument in arguments):
        return arguments
    _check_processes(arguments, sweeps)
    if sweeps and not names_folder(arguments):
        return [
            *arguments,
            f"hydra.sweep.dir='outputs/sweeps/{sweep_folder(given)}'",
        ]  # the same command continues in it
    return arguments


@contextmanager
def unnamed_folder(arguments: list[str]) -> Iterator[None]:
    """Make a folder of its own for a run without a name, and remove it where the run left nothing in it."""
    if is_sweep(arguments) or names_folder(arguments) or any(argument.startswith(PRINTS_ONLY) for argument in arguments):
        yield
        return
    folder = Path("outputs", claim_name(Path("outputs")))
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()


def is_sweep(arguments: list[str]) -> bool:
    """Return whether the command starts many runs: -m, sweep=..., versus=... or cluster=..."""
    return any(argument in MULTIRUN or re.match("(sweep|versus|cluster)=(?!null$)", argument) for argument in arguments)


def names_folder(arguments: list[str]) -> bool:
    """Return whether the command fixes the folder of its run or sweep."""
    return any(argument.startswith(FOLDER_KEYS) for argument in arguments)


def _own_configs(arguments: list[str]) -> list[Path]:
    """Return the folders that --config-dir names."""
    given = [argument.partition("=")[2] for argument in arguments if argument.startswith("--config-dir=")]
    following = zip(arguments, arguments[1:])
    return [Path(folder) for folder in [*given, *(value for key, value in following if key in ("--config-dir", "-cd"))]]


def _refuse_dashes(arguments: list[str]) -> None:
    value = next((argument for argument in arguments if "=" not in argument and not argument.startswith("-")), "...")
    for argument in arguments:
        key, sign, _ = argument.partition("=")
        if re.match(r"--[a-z0-9_.]+$", key) and not key[2:].startswith(HYDRA_FLAGS) and (sign or key[2:] in ROOT_KEYS):
            override = argument.lstrip("-") + ("" if sign else f"={value}")
            raise ValueError(f"{argument}: keys are written without dashes, {override}")


def _expand_home(argument: str) -> str:
    """Return key=~/folder with the home folder's path, quoted; Hydra's grammar has no ~, and no shell expands it there."""
    key, _, path = argument.partition("=~/")
    is_path = path and re.fullmatch(r"[\w.+]+", key) and not set("',") & set(path)
    return f"{key}='{Path.home()}/{path}'" if is_path else argument


def _check_flags(arguments: list[str]) -> None:
    """Raise ValueError for flags that Hydra would refuse with its usage and another exit code."""

    def refuse(message: str) -> NoReturn:
        raise ValueError(f"{message} (mpx --help shows what may be given)")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    parser.parse_args(arguments)


def _refuse_two_experiments(arguments: list[str]) -> None:
    experiments = [argument for argument in arguments if argument.startswith("experiment=")]
    if len(experiments) > 1:
        names = ",".join(argument.partition("=")[2] for argument in experiments)
        raise ValueError(f"{' '.join(experiments)}: give one method; -m experiment={names} runs each of them")


def _check_processes(arguments: list[str], sweeps: bool) -> None:
    """Raise ValueError where several processes would each make a folder of their own."""
    process = launched_share(os.environ)
    shares = [find_share(argument.removeprefix("share=")) for argument in arguments if argument.startswith("share=")]
    if process.count == 1 and not any(share.launcher for share in shares):
        return
    if sweeps:
        raise ValueError(
            f"a sweep under {process.launcher or 'share='} would start every job in every process: start the sweep in one "
            "process and its jobs with trainer.devices=N, or start one run per process"
        )
    if not names_folder(arguments):
        raise ValueError("processes that share a run need one folder: give each the same name=, e.g. name=night1")
