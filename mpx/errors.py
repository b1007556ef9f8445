"""Sentences for user errors: near matches for a misspelt name, another library's message, where the user's code failed."""

import os
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

PACKAGE = str(Path(__file__).parent) + os.sep
Function = TypeVar("Function", bound=Callable)
INSTALLED = ("site-packages", "dist-packages")  # folders of packages


class Error(ValueError):
    """What a user can put right, in one sentence: the value, what is allowed, and what to do."""


class OwnCodeError(Exception):
    """An error inside the user's own code, whose frames are kept without the traceback, so that a process can send it.

    error: its type and first line; frames: those of the user's code; caller: file of mpx that called it.
    """

    def __init__(self, error: str, frames: list[traceback.FrameSummary], caller: str):
        super().__init__(error, frames, caller)
        self.error = error
        self.frames = frames
        self.caller = caller

    @property
    def lines(self) -> str:
        """The frames as in a traceback, with paths as seen from the working folder."""
        return "\n".join(f'  File "{_seen(f)}", line {f.lineno}, in {f.name}\n    {f.line}' for f in self.frames)


def near_matches(name: object, names: Iterable[str], limit: int = 3, cutoff: float = 0.5) -> list[str]:
    """Return the names most like `name`, best first."""
    return get_close_matches(str(name), list(names), limit, cutoff)


def near(name: object, names: Iterable[str]) -> str:
    """Return "; near it: a, b" for the closest names, all names where there are at most 12, else an empty string."""
    names = sorted(names)
    close = near_matches(name, names) or (names if len(names) <= 12 else [])
    return f"; near it: {', '.join(close)}" if close else ""


def names_unknown_arguments(hint: str = "") -> Callable[[Function], Function]:
    """Return a decorator by which the error for an unknown argument names those that are near. hint: in place of names."""

    def decorate(function: Function) -> Function:
        names = signature(function).parameters
        caller = function.__qualname__.removesuffix(".__init__")

        @wraps(function)
        def wrapper(*args: Any, **options: Any) -> Any:
            for key in options:
                if key not in names:
                    raise TypeError(f"{caller}() has no argument {key}{hint or near(key, set(names) - {'self'})}")
            return function(*args, **options)

        return wrapper  # type: ignore[return-value]  # of the same signature

    return decorate


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, and the next one where it ends with a colon; else the error's type."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0]} {lines[1].strip()}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]


def with_place(error: BaseException) -> str:
    """Return an error's first line and, where the user's own code raised it, the line of that code."""
    frames = _own_frames(traceback.extract_tb(error.__traceback__))
    return f"{first_line(error)} (at {place(frames[-1])})" if frames else first_line(error)


def place(frame: traceback.FrameSummary) -> str:
    """Return e.g. "net.py:15"."""
    return f"{_seen(frame)}:{frame.lineno}"


def own_code_error(error: BaseException) -> OwnCodeError | None:
    """Return an error as one of the user's own code; None where mpx or another package is to blame.

    A ValueError or OSError that mpx raises is a sentence about what the user's code gave to it.
    """
    if isinstance(error, OwnCodeError):
        return error
    stack = traceback.extract_tb(error.__traceback__)
    own = _own_frames(stack)
    known = [frame for frame in stack if frame in own or frame.filename.startswith(PACKAGE)]
    if not own or isinstance(error, (ValueError, OSError)) and known[-1] not in own:
        return None
    callers = [frame.filename for frame in stack[: stack.index(own[0])] if frame.filename.startswith(PACKAGE)]
    message = first_line(error)
    name = type(error).__name__
    return OwnCodeError(name if message == name else f"{name}: {message}", own, callers[-1] if callers else "")


def _own_frames(stack: Iterable[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Return the frames of code that is neither mpx nor Python's nor of an installed package."""
    foreign = (PACKAGE, "<", *(sysconfig.get_paths()[key] + os.sep for key in ("stdlib", "purelib", "platlib")))
    return [
        frame for frame in stack
        if not frame.filename.startswith(foreign) and not any(folder in frame.filename for folder in INSTALLED)
    ]  # fmt: skip


def _seen(frame: traceback.FrameSummary) -> str:
    """Return the path of a frame's file, as seen from the working folder where it lies there."""
    path = Path(frame.filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def as_told(error: BaseException) -> BaseException:
    """Return an error as a run tells it: a sentence where memory ran out, an error of the user's own code, or itself."""
    if is_out_of_memory(error):
        return ValueError(f"out of memory ({first_line(error)}): a smaller batch_size, model.size or network needs less")
    return own_code_error(error) or error


@contextmanager
def memory_error_as_sentence() -> Iterator[None]:
    """Raise an error of memory that ran out as the sentence of `as_told`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise as_told(error) from error
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device or the machine has run out of memory; torch has an error class of its own for CUDA only."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    import torch  # errors of the command line are written before torch is imported

    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    )
