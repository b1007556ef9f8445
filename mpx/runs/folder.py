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
from typing import IO, Any

from mpx.runs import store

log = logging.getLogger("mpx")
JOIN_TIMEOUT = 10  # seconds in which the first share checks the configuration
OUTPUTS = ("masks/*.npz", "panels/*.png", "pairs/*.png", "evolution/*.gif", ".hydra/*.yaml", "results.csv",
           "summary.json", "skipped.csv", "smallest_areas.csv", "area_sums.csv", "report.html", store.FAILED)  # fmt: skip
OUTPUT_FOLDERS = (".", ".hydra", "masks", "panels", "pairs", "evolution", "parts", "tensorboard/*")  # patterns
LOG_FOLDERS = ("tensorboard", "csv", "wandb", "mlflow", "batches")


def no_check(joins: bool) -> None:
    """Do nothing when a lock is taken."""


@contextmanager
def claim_folder(folder: Path, index: int, count: int, on_lock: Callable[[bool], None]) -> Iterator[None]:
    """Lock the folder for share `index` of `count`; on_lock: see `lock`."""
    with ExitStack() as stack:
        if count == 1:
            stack.enter_context(lock(folder / ".lock", "one process", on_lock=on_lock))
        else:
            stack.enter_context(lock(folder / ".lock", f"{count} shares", JOIN_TIMEOUT, on_lock, shared=True))
            stack.enter_context(lock(folder / f".lock-{index}", f"share {index} of {count}"))
        yield


@contextmanager
def lock(
    path: Path, owner: str, timeout: float = 0, on_lock: Callable[[bool], None] = no_check, shared: bool = False
) -> Iterator[None]:
    """Lock a file, alone or shared with processes of the same `owner`; a ValueError names the process in the way.

    timeout: seconds to wait; on_lock(joins): called while the lock is exclusive, or when this process joins others. The file
    is never removed: then two processes could hold a lock of the same name.
    """
    with open(path, "a+") as file:
        deadline = time.monotonic() + timeout
        while (joins := _try_lock(file, owner, shared)) is None:
            if time.monotonic() >= deadline:
                file.seek(0)
                raise ValueError(
                    f"{path.parent} is in use ({' '.join(file.read().split())}): wait until that process ends, "
                    "or give another name="
                )
            time.sleep(0.05)
        on_lock(joins)
        if shared and not joins:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_SH)
        yield


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


def scan(
    folder: Path, in_share: Callable[[str], bool], is_current: Callable[[dict[str, Any]], bool]
) -> Iterator[dict[str, Any]]:
    """Yield the intact rows of this run on disk, as `store.load_row` returns them.

    in_share(image name): arrays of other images are not read; is_current(row): whether the row is of today's image file.
    """
    for path in _files(folder / "masks"):
        row = None if path.name.startswith(".") else store.load_row(path, in_share)
        if row and is_current(row) and _has_pictures(folder, row):
            yield row


def _has_pictures(folder: Path, row: dict[str, Any]) -> bool:
    files = (folder / "panels" / f"{row['name']}.png", folder / "evolution" / f"{row['name']}.gif")
    return not row["pictures"] or all(file.is_file() for file in files)


def clear(folder: Path) -> None:
    """Remove the files that a run writes, and no others."""
    for path in [path for pattern in OUTPUTS for path in folder.glob(pattern)]:
        path.unlink()
    for name in LOG_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def remove_partial_files(folder: Path) -> None:
    """Remove the partial files that killed processes left."""
    for pattern in OUTPUT_FOLDERS:
        for path in list(folder.glob(f"{pattern}/.*.tmp")):
            path.unlink()


def _files(folder: Path) -> Iterator[Path]:
    return (Path(entry.path) for entry in os.scandir(folder)) if folder.is_dir() else iter(())
