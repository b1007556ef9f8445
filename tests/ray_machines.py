"""A Ray cluster of machines with one CPU each, all on this one.

`ray.cluster_utils.Cluster` lives in a process of its own, this module as a script, which reads `add` or `remove` from
stdin. Every wait has an end, and every process that Ray has started is killed by its id: a Ray that hangs fails a test.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from interrupted import children

SMALL = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}


class Machines:
    """The cluster as tests use it; it begins with one machine, where the commands run."""

    def __init__(self):
        self._folder = tempfile.mkdtemp(prefix="ray")  # of its own, or every other test with Ray would find this cluster
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "RAY_USAGE_STATS_ENABLED": "0"}
        environment["RAY_TMPDIR"] = self._folder
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._started: set[int] = set()
        self.address = self._ask("add")

    def add(self) -> None:
        self._ask("add")

    def remove(self) -> None:
        """Kill the newest machine with all that runs there."""
        self._ask("remove")

    def workers(self) -> list[int]:
        """The processes of workers."""
        return [pid for pid in self._descendants() if b"RayWorker" in _command_line(pid)]

    def end(self) -> None:
        self._started |= self._descendants()
        self._process.kill()
        self._process.wait(10)
        for pid in self._started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(self, word: str, seconds: float = 60) -> str:
        self._process.stdin.write(f"{word}\n".encode())
        end, answer = time.monotonic() + seconds, b""
        while not answer.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0, end - time.monotonic()))
            part = os.read(self._process.stdout.fileno(), 4096) if ready else b""
            if not part:
                self.end()
                raise AssertionError(f"the cluster gave no answer to {word!r} within {seconds} s")
            answer += part
        self._started |= self._descendants()
        return answer.decode().split()[-1]

    def _descendants(self) -> set[int]:
        found, new = set(), children(self._process.pid)
        while new:
            found |= new
            new = {child for pid in new for child in children(pid)} - found
        return found


def _command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _serve() -> None:
    from ray.cluster_utils import Cluster

    cluster, machines = Cluster(), []
    for line in sys.stdin:
        if line.strip() == "add":
            machines.append(cluster.add_node(**SMALL))
        else:
            cluster.remove_node(machines.pop(), allow_graceful=False)
        print(cluster.address, flush=True)


if __name__ == "__main__":
    _serve()
