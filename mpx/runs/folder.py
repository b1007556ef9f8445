"""A run's folder is the run's state: masks/ says which rows are done, and the same command does the others.

One process at a time works in it, or several that share its rows (torchrun, srun, job arrays). The locks are the kernel's
(flock): they end with their owner, however it ends.
"""

import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mpx.runs import store

log = logging.getLogger("mpx")


@contextmanager
def held(folder: Path, index: int, count: int, keep: Callable[[bool], None]) -> Iterator[None]:
    """Holds the folder for share `index` of `count`, alone if there is one; `keep`: see `lock`."""
    with ExitStack() as stack:
        if count == 1:
            stack.enter_context(lock(folder / ".lock", "one process", keep=keep))
        else:
            stack.enter_context(lock(folder / ".lock", f"{count} shares", 10, keep, together=True))
            stack.enter_context(lock(folder / f".lock-{index}", f"share {index} of {count}"))
        yield


@contextmanager
def lock(path: Path, what: str, patience: float = 0, keep=lambda joins: None, together: bool = False) -> Iterator[None]:
    """Alone, or together with processes that say the same `what`; ValueError where another is in the way.

    patience: for how many seconds it is waited; keep(joins): called before others may join, or when this one does.
    The file stays: to remove it would let two in.
    """
    with open(path, "a+") as file:
        until = time.monotonic() + patience
        while (joins := _locked(file, what, together)) is None:
            if time.monotonic() >= until:
                file.seek(0)
                raise ValueError(
                    f"{path.parent} is being worked in ({' '.join(file.read().split())}): wait for its end, "
                    "or give another name="
                )
            time.sleep(0.05)
        keep(joins)
        if together and not joins:
            with suppress(OSError):  # where there are no locks
                fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _locked(file, what: str, together: bool) -> bool | None:
    """Whether it joins others; None where it may not."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        if not together or file.readline().strip() != what:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return None
    except OSError as error:  # some network file systems have none
        log.warning(f"cannot lock {file.name} ({error.strerror}): see to it that no other process works in this folder")
        return False
    file.truncate(0)
    print(f"{what}\npid {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
    return False


def scan(folder: Path, mine: Callable[[str], bool], belongs: Callable[[dict], bool]) -> Iterator[dict]:
    """The rows of this run on disk that are whole, one at a time, as `store.load_row` gives them.

    mine(image): is it one of those that are asked for? The others' arrays are not read.
    """
    for path in _files(folder / "masks"):
        row = None if path.name.startswith(".") else store.load_row(path, mine)
        if row and belongs(row) and _pictured(folder, row):
            yield row


def _pictured(folder: Path, row: dict) -> bool:
    files = (folder / "panels" / f"{row['name']}.png", folder / "evolution" / f"{row['name']}.gif")
    return not row["pictures"] or all(file.is_file() for file in files)


def clear(folder: Path) -> None:
    """Removes what a run has written, and nothing else that may be there."""
    written = ("masks/*.npz", "panels/*.png", "evolution/*.gif", "events.out.tfevents.*", ".hydra/*.yaml", "results.csv",
               "summary.json", "skipped.csv", "smallest.csv", "summed.csv", "report.html", store.FAILED)  # fmt: skip
    for path in [path for pattern in written for path in folder.glob(pattern)]:
        path.unlink()


def sweep(folder: Path) -> None:
    """Removes the drafts that killed processes left."""
    for part in (".", ".hydra", "masks", "panels", "evolution", "parts"):
        for path in _files(folder / part):
            if path.name.startswith(".") and path.name.endswith(".tmp"):
                path.unlink()


def _files(folder: Path) -> Iterator[Path]:
    return (Path(entry.path) for entry in os.scandir(folder)) if folder.is_dir() else iter(())
