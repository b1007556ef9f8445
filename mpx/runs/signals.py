"""Signals that stop a run. What is finished by then is stored, and the same command continues."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last is what Slurm's --signal often sends
PARENT_CHECK_SECONDS = 0.5
REPEATED_SIGNAL_SECONDS = 1  # a launcher may pass on the signal that the terminal has already sent


class Stopped(BaseException):
    """A signal stopped the run."""

    def __init__(self, signum: int):
        self.signum = signum


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Raise Stopped at the first signal; end the process at once at the second, since files are complete at any instant."""

    def stop(signum: int, _: FrameType | None) -> None:
        stopped_at = time.monotonic()

        def end(signum: int, _: FrameType | None) -> None:
            if time.monotonic() - stopped_at > REPEATED_SIGNAL_SECONDS:
                os._exit(128 + signum)

        for number in SIGNALS:
            signal.signal(number, end)
        raise Stopped(signum)

    handlers = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def end_with_parent(pid: int) -> None:
    """End this process soon after its parent, if that is process `pid`: joblib's workers outlive a parent that is killed."""
    if os.getppid() != pid:
        return

    def watch() -> None:
        while os.getppid() == pid:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
