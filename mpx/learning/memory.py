"""Freed memory that is kept for the next pass, while masks are learnt on a CPU."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # parameters of mallopt(3)
KEEPING = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}  # no block is a mapping of its own, and the heap does not shrink
# glibc's own settings, once blocks of 32 MB have been freed: from then on it adapts no further
USUAL = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20}

_lock = Lock()
_contexts = 0  # that are open, in all threads


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let glibc keep large freed blocks in this process; at the end they are returned to the system.

    By default it returns them at once, and the next pass has to fetch and clear new pages: with EfficientNet-Lite0 that
    takes as long as the pass itself. Another C library is left as it is.
    """
    global _contexts
    try:
        libc = ctypes.CDLL("libc.so.6")
        set_option, trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):
        yield
        return
    with _lock:
        _contexts += 1
        for parameter, value in KEEPING.items():
            set_option(parameter, value)
    try:
        yield
    finally:
        with _lock:
            _contexts -= 1
            if not _contexts:
                for parameter, value in USUAL.items():
                    set_option(parameter, value)
                trim(0)
