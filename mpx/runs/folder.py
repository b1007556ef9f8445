"""A run's folder is the run's state: masks/ says which rows are finished, and the same command does the others.

One process at a time works in a folder, or several that share its images (torchrun, srun, job arrays). The locks are the
kernel's (flock): they end with their owner, however it ends. filelock has no lock that passes from exclusive to shared while
it is held, which shares need to compare their configurations one by one; so this module uses fcntl, on Linux and macOS.
"""

import fcntl
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from mpx.runs import store
from mpx.runs.files import write_file

log = logging.getLogger("mpx")
JOIN_TIMEOUT = 10  # seconds in which the first share checks the configuration
LOCK = ".lock"  # also says that the folder is a run's
INDEX = "rows.index"
FILES = ("results.csv", INDEX, "summary.json", "skipped.csv", "smallest_areas.csv", "area_sums.csv", "report.html",
         ".hydra/config.yaml", ".hydra/overrides.yaml", "run.log", store.FAILED)  # of the whole run # fmt: skip
ROW_FILES = ("masks/{}.npz", "panels/{}.png", "pairs/{}.png", "evolution/{}.webp")  # of the row of a name
LOG_FOLDERS = ("tensorboard", "csv", "wandb", "mlflow", "batches")
RESULTS = ("summary.json", "batches", "masks/*", "parts/*")  # patterns of what a run that made something leaves
OUTPUT_FOLDERS = (".hydra", "masks", "panels", "pairs", "evolution", "parts", "tensorboard/*")  # patterns
PARTIAL = ".*." + "[0-9a-f]" * 8 + ".tmp"  # pattern of mpx.runs.files.open_atomically's partial files


class FolderRefusedError(ValueError):
    """Another process works in the folder, or it holds files of somebody else."""


def no_check(joins: bool) -> None:
    """Do nothing when a lock is taken."""


@contextmanager
def claim_folder(folder: Path, index: int, count: int, on_lock: Callable[[bool], None]) -> Iterator[None]:
    """Lock the folder for share `index` of `count`; on_lock: see `lock`. Refuses a folder with files of somebody else."""
    _check_owner(folder)
    with ExitStack() as stack:
        if count == 1:
            stack.enter_context(lock(folder / LOCK, "one process", on_lock=on_lock))
        else:
            stack.enter_context(lock(folder / LOCK, f"{count} shares", JOIN_TIMEOUT, on_lock, shared=True))
            stack.enter_context(lock(folder / f".lock-{index}", f"share {index} of {count}"))
        yield


def _check_owner(folder: Path) -> None:
    """Refuse a folder in which no run has worked, and that holds a file that a run writes; refuse a pipe in its place."""
    for path in (folder / name for name in FILES):
        if path.exists() and not path.is_file():  # a pipe would block
            raise FolderRefusedError(f"{path} is not a regular file: remove it")
    if (folder / LOCK).exists():
        return
    patterns = [*(name for name in FILES if name != store.FAILED), *(name.format("*") for name in ROW_FILES), *LOG_FOLDERS]
    others = [path for pattern in patterns for path in folder.glob(pattern) if not _is_own_log(path)]
    if others:
        raise FolderRefusedError(
            f"{folder} holds {others[0].relative_to(folder)}, which mpx did not write: give a folder that is new or empty, "
            "or move this file"
        )


def _is_own_log(path: Path) -> bool:
    """Return whether this process logs to a file, as it does with hydra.verbose=true before it claims the folder."""
    files = [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]
    return any(file.stream and file.baseFilename == os.path.abspath(path) for file in files)


@contextmanager
def lock(
    path: Path, owner: str, timeout: float = 0, on_lock: Callable[[bool], None] = no_check, shared: bool = False
) -> Iterator[None]:
    """Lock a file, alone or shared with processes of the same `owner`; an error names the process in the way.

    timeout: seconds to wait; on_lock(joins): called while the lock is exclusive, or when this process joins others.
    """
    deadline = time.monotonic() + timeout
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+") as file:
            while (joins := _try_lock(file, owner, shared)) is None:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    raise FolderRefusedError(
                        f"{path.parent} is in use ({' '.join(file.read().split())}): wait until that process ends, "
                        "or give another name="
                    )
                time.sleep(0.05)
            if not _is_open_file(path, file):  # a failed run has removed it meanwhile
                continue
            on_lock(joins)
            if shared and not joins:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_SH)
            yield
            return


def _is_open_file(path: Path, file: IO[str]) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    return False


def _try_lock(file: IO[str], owner: str, shared: bool) -> bool | None:
    """Return whether this process joins others, or None if the lock is taken."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        if not shared or file.readline().strip() != owner:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return None
    except OSError as error:  # some network file systems have no locks
        log.warning(f"cannot lock {file.name} ({error.strerror}): make sure that no other process works in this folder")
        return False
    file.truncate(0)
    print(f"{owner}\npid {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
    return False


def clear(folder: Path) -> None:
    """Remove the files of a run, and no others: the rows that mpx wrote with their pictures, tables and logs."""
    for path in list(store.mask_files(folder)):
        if store.is_row(path):
            for name in ROW_FILES:
                (folder / name.format(path.stem)).unlink(missing_ok=True)
    for name in FILES:
        if name != "run.log":  # this session logs to it
            (folder / name).unlink(missing_ok=True)
    for name in LOG_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def remove_unused(folder: Path, keep_log: bool = False) -> None:
    """Remove the folder of a failed run that made nothing; files of others stay."""
    with suppress(OSError):
        folder.rmdir()  # nothing but Hydra's own
    if not (folder / LOCK).exists():
        return
    with suppress(FolderRefusedError), lock(folder / LOCK, "one process"):
        remove_partial_files(folder)
        if any(True for pattern in RESULTS for _ in folder.glob(pattern)):
            return
        clear(folder)
        for path in (folder / ".lock-merge", *folder.glob(".lock-[0-9]*"), *([] if keep_log else [folder / "run.log"])):
            path.unlink(missing_ok=True)
        for inner in (path for pattern in OUTPUT_FOLDERS for path in folder.glob(pattern)):
            with suppress(OSError):
                inner.rmdir()
        if {path.name for path in folder.iterdir()} == {LOCK}:
            (folder / LOCK).unlink()
            with suppress(OSError):
                folder.rmdir()


def write_failure(folder: Path, reason: str) -> None:
    """Write why a sweep's job failed into its folder, unless another process works there: its end says what the job is."""
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FolderRefusedError), claim_folder(folder, 0, 1, no_check):
        write_file(folder / store.FAILED, f"{reason}\n")


def remove_partial_files(folder: Path) -> None:
    """Remove the partial files that killed processes left."""
    for pattern in (".", *OUTPUT_FOLDERS):
        for path in list(folder.glob(f"{pattern}/{PARTIAL}")):
            path.unlink()
