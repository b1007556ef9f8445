"""Reading files of the user's: what is wrong with one is a ValueError of one sentence."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from mpx.errors import first_line


def regular_file(path: str | os.PathLike) -> Path:
    """Return the path, with ~ expanded. Raises ValueError for a folder, and for a pipe, which would block."""
    path = Path(path).expanduser()
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    return path


def read_lines(path: str | os.PathLike) -> list[str]:
    """Return the lines of a text file that are not blank."""
    try:
        return [line for line in regular_file(path).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no text: {first_line(error)}") from error


def load_numpy(path: str | os.PathLike) -> np.ndarray | dict[str, np.ndarray]:
    """Return the array in a .npy file, or the arrays in a .npz file by name; nothing is unpickled."""
    try:
        loaded = np.load(regular_file(path), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # OSError, EOFError, BadZipFile, zlib.error, TokenError, ...
        if "pickle" in str(error):
            raise ValueError("it holds pickled objects, which are not loaded; save an array of numbers") from error
        raise ValueError(first_line(error)) from error


def read_json(path: str | os.PathLike, key: str) -> Any:
    """Return what a JSON file holds; key: of the configuration that names it."""
    try:
        return json.loads(regular_file(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{key}={str(path)!r} is no JSON: {first_line(error)}") from error
