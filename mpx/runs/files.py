"""Files that appear whole or not at all.

A file is written under a temporary name in the same folder, flushed to disk and then renamed. A reader, or a process that is
killed, never leaves or sees a part of it.
"""

import errno
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def write_file(path: str | Path, data: bytes | str) -> None:
    """Write the whole file or leave the old one. Text is UTF-8; characters that UTF-8 lacks are escaped."""
    with open_atomically(Path(path)) as file:
        file.write(data if isinstance(data, bytes) else data.encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write a dictionary as JSON; NaN and infinity become null."""
    write_file(path, json.dumps(_json_value(values), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that replaces `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # several machines may share the folder: the suffix is random
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with path_in_error(path):
            with open(partial, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def append_file(path: Path, data: bytes) -> None:
    """Append in one write, so that a reader sees whole lines; a full disk leaves the file as it was."""
    with path_in_error(path), open(path, "ab", buffering=0) as file:
        size = file.tell()
        if file.write(data) < len(data):  # the disk had no room for all of it
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def file_state(path: str | Path) -> str:
    """Return size, times and inode of a file: whoever changes it changes these. OSError where it is no regular file."""
    now = os.stat(path)
    if not stat.S_ISREG(now.st_mode):
        raise OSError(f"{str(path)!r} is not a regular file")
    return f"{now.st_size} {now.st_mtime_ns} {now.st_ctime_ns} {now.st_ino}"


@contextmanager
def path_in_error(path: Path) -> Iterator[None]:
    """Raise an OSError again with the path: the error of a full disk names no file."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _json_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(v) for v in value]
    if hasattr(value, "tolist"):  # foreign: an array or tensor, or a number of either
        return _json_value(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
