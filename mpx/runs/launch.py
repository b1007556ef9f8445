"""Worker processes on this machine, one per device, that share the images of a run.

When to take what; all workers call one interface (`mpx.runs.base.Coordinator`), and do the same work (`mpx.runs.worker`):

- trainer.devices=N, trainer=gpus: one machine. The processes of this module.
- launch=ray: several machines, without a common file system, or whose number changes while the run works: workers claim
  images one by one, those of a machine that dies are claimed again, and machines that join are used (mpx.runs.ray_cluster).
- torchrun, srun, job arrays, share=0/4: where these start the processes anyway. Each does a fixed part of the images, and
  all write to one folder on a common file system (mpx.runs.shares).
- parallel=samples: one image, sooner, on several devices (mpx.runs.distributed).

Why this is not Trainer(devices=N): Lightning's strategies give each device a part of one batch and average the gradients.
The parameters here are the masks of different images, so an average of their gradients would be wrong, and ranks that wait
for each other at every step would stall whenever one image takes longer. Each worker is therefore an ordinary process with a
single-device Trainer that claims a few images at a time from the parent. Take Trainer(devices=N, strategy="ddp") when the
devices work on the same images and each draws a part of the random samples: that is parallel=samples (mpx.runs.distributed).

A worker talks to the parent through one pipe. multiprocessing.managers would answer each worker in a thread of its own; one
loop over all pipes needs no locks, keeps the order of calls, and sees at once which process ended.
"""

import os
import pickle
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import connection, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol

import torch
import torch.multiprocessing as mp
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import Tensor

from mpx.errors import OwnCodeError, as_told
from mpx.explanation import Explanation
from mpx.runs.base import ClaimedImage, Coordinator
from mpx.runs.signals import SIGNALS

CLAIM = "claim"  # message that is answered
RAISE = "raise"  # message that carries a worker's error


class Pipe(Protocol):
    """What a worker needs of a `Connection`."""

    def send_bytes(self, message: bytes, /) -> None: ...

    def recv_bytes(self) -> bytes: ...


class RemoteCoordinator:
    """The coordinator as a worker process sees it: each call is a message to the parent."""

    def __init__(self, pipe: Pipe):
        self._pipe = pipe

    def claim(self, count: int) -> list[ClaimedImage]:
        return self._ask(CLAIM, count)

    def add_row(self, row: dict[str, Any], curve_sums: dict[str, Tensor], explanation: Explanation | None) -> None:
        self._send("add_row", row, curve_sums, explanation)

    def skip(self, image_name: str, reason: str) -> None:
        self._send("skip", image_name, reason)

    def report_progress(self, images: float, note: str = "") -> None:
        self._send("report_progress", images, note)

    def log(self, text: str) -> None:
        self._send("log", text)

    def warn(self, text: str) -> None:
        self._send("warn", text)

    def raise_in_parent(self, error: Exception) -> None:
        """End the run with this error."""
        self._send(RAISE, error)

    def _send(self, call: str, *arguments: Any) -> None:
        self._pipe.send_bytes(pickle.dumps((call, arguments)))

    def _ask(self, call: str, *arguments: Any) -> Any:
        self._send(call, *arguments)
        return pickle.loads(self._pipe.recv_bytes())


def single_device(device: torch.device) -> dict[str, Any]:
    """Return the arguments of a Trainer on one device that ignores the ranks of torchrun and Slurm."""
    return {
        "accelerator": "gpu" if device.type == "cuda" else device.type,
        "devices": [device.index] if device.type == "cuda" else 1,
        "plugins": [LightningEnvironment()],
    }


def run_processes(
    target: Callable[..., None], arguments: list[tuple[Any, ...]], threads: int, coordinator: Coordinator
) -> None:
    """Run target(remote coordinator, *arguments) in one process for each tuple, until all have ended.

    Whatever ends this function ends the processes. Raises the ValueError, OSError or OwnCodeError of a process.
    """
    context = mp.get_context("spawn")
    processes: dict[Connection, SpawnProcess] = {}
    resource_tracker.ensure_running()  # its start unblocks signals
    try:
        # Workers ignore the signals that stop a run, as this process handles them. They inherit the mask of the thread that
        # starts them; blocked in the main thread, a signal would still be handled in the middle of a start.
        with ThreadPoolExecutor(1, initializer=signal.pthread_sigmask, initargs=(signal.SIG_BLOCK, SIGNALS)) as starter:
            for worker_arguments in arguments:
                parent_end, worker_end = context.Pipe()
                process_arguments = (target, worker_end, threads, worker_arguments)
                process = context.Process(target=_run_worker, args=process_arguments, daemon=True)
                processes[parent_end] = process
                starter.submit(process.start).result()
                worker_end.close()
        _answer_until_all_end(dict(processes), coordinator)
    finally:
        started = [process for process in processes.values() if process.pid]
        for process in started:
            process.kill()  # every file is written whole, so there is nothing to wait for
        for process in started:
            process.join()


def coordinator_calls(coordinator: Coordinator) -> dict[str, Callable[..., Any]]:
    """Return message -> what it calls, with its arguments."""

    def fail(error: Exception) -> None:
        raise error

    return {
        CLAIM: coordinator.claim,
        "add_row": coordinator.add_row,
        "skip": coordinator.skip,
        "report_progress": coordinator.report_progress,
        "log": coordinator.log,
        "warn": coordinator.warn,
        RAISE: fail,
    }


def _answer_until_all_end(processes: dict[Connection, SpawnProcess], coordinator: Coordinator) -> None:
    calls = coordinator_calls(coordinator)
    while processes:
        for pipe in connection.wait(list(processes)):
            assert isinstance(pipe, Connection)
            try:
                message = pipe.recv_bytes()
            except (EOFError, OSError):  # the worker may have died in the middle of a message
                _check_exit(processes.pop(pipe))
                continue
            call, arguments = pickle.loads(message)
            result = calls[call](*arguments)
            if call == CLAIM:
                with suppress(ConnectionError):  # a worker that died meanwhile is found in the next round
                    pipe.send_bytes(pickle.dumps(result))


def _check_exit(process: SpawnProcess) -> None:
    process.join()
    code = process.exitcode
    if not code:
        return
    reason = f"ended with code {code} (see above)"
    if code < 0:
        reason = f"was killed by signal {-code}, perhaps for lack of memory (a smaller batch_size needs less)"
    raise ValueError(f"a worker process {reason}: finished rows are kept, and the same command does the others")


def _run_worker(target: Callable[..., None], pipe: Connection, threads: int, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    coordinator = RemoteCoordinator(pipe)
    try:
        target(coordinator, *arguments)
    except (Exception, SystemExit) as error:  # a network may call sys.exit
        told = as_told(error)
        if not isinstance(told, (OwnCodeError, ValueError, OSError)):
            raise
        with suppress(OSError):  # the parent may have ended, which caused the error
            coordinator.raise_in_parent(told)


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
