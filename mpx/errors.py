"""Sentences for user errors: near matches for a misspelt name, and the first line of another library's message."""

from collections.abc import Iterable
from difflib import get_close_matches


def near_matches(name: object, names: Iterable[str], limit: int = 3, cutoff: float = 0.5) -> list[str]:
    """Return the names most like `name`, best first."""
    return get_close_matches(str(name), list(names), limit, cutoff)


def near(name: object, names: Iterable[str]) -> str:
    """Return "; near it: a, b" for the closest names, all names where there are at most 12, else an empty string."""
    names = sorted(names)
    close = near_matches(name, names) or (names if len(names) <= 12 else [])
    return f"; near it: {', '.join(close)}" if close else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, and the next one where it ends with a colon; else the error's type."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0]} {lines[1].strip()}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether a device or the machine has run out of memory; torch has an error class of its own for CUDA only."""
    import torch  # errors of the command line are written before torch is imported

    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    )
