"""Workers: processes that share the rows of a run, and the one case where they share gradients.

Every worker is an ordinary process with a single-device Trainer and its own rows: no process group, nothing to stall. Local
ones draw their rows from the parent, a few at a time, so that a slow one holds nobody up. A `Group` averages gradients: its
ranks do the same rows, each with its part of the random samples.
"""

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, parent_process, resource_tracker

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy

from mpx.runs.signals import SIGNALS


@dataclass(frozen=True)
class Group:
    """The ranks that share the random samples of every batch. Rank 0 leads: it alone reads and writes."""

    rank: int
    devices: tuple[torch.device, ...]  # of the ranks on this machine
    count: int
    meeting: str = ""  # a folder where they find each other; without, torchrun says where

    def join(self) -> "Group":
        backend = "nccl" if self.devices[0].type == "cuda" else "gloo"
        if self.meeting:  # local processes, which need no network
            os.environ |= {"RANK": f"{self.rank}", "LOCAL_RANK": f"{self.rank}", "WORLD_SIZE": f"{self.count}"}
            loopback = "lo" if sys.platform == "linux" else "lo0"
            os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
        if backend == "nccl":
            torch.cuda.set_device(self.devices[int(os.environ["LOCAL_RANK"])])
        place = f"file://{self.meeting}/ranks" if self.meeting else "env://"
        dist.init_process_group(backend, place, rank=self.rank, world_size=self.count)
        return self

    def of(self, rank: int, meeting: str) -> "Group":
        return replace(self, rank=rank, meeting=meeting)

    def samples(self, total: int) -> range:
        """This rank's; equally many on each, so that the mean of the ranks' means is the mean."""
        if total % self.count:
            raise ValueError(
                f"samples={total} cannot be shared out equally over {self.count} devices: take a multiple of {self.count}"
            )
        return range(self.rank, total, self.count)

    def trainer(self) -> dict:
        """Options of a Trainer that averages the ranks' gradients."""
        accelerator = {"cuda": "gpu"}.get(self.devices[0].type, "cpu")
        here = [d.index for d in self.devices] if accelerator == "gpu" else len(self.devices)
        nodes = self.count // len(self.devices)
        return {"accelerator": accelerator, "devices": here, "num_nodes": nodes, "strategy": DDPStrategy(),
                "plugins": [TorchElasticEnvironment()]}  # fmt: skip

    def shared(self, take: Callable | None) -> Callable:
        """The leader's take(n), on every rank."""

        def agreed(number: int):
            box = [take(number) if self.rank == 0 else None]
            dist.broadcast_object_list(box)
            return box[0]

        return agreed

    def average(self, history: dict[str, torch.Tensor]) -> None:
        for values in history.values():
            dist.all_reduce(values)
            values /= self.count


def alone(where: torch.device) -> dict:
    """Options of a Trainer on one device that asks neither torchrun nor Slurm who it is."""
    accelerator = {"cuda": "gpu"}.get(where.type, where.type)
    devices = [where.index] if where.type == "cuda" else 1
    return {"accelerator": accelerator, "devices": devices, "plugins": [LightningEnvironment()]}


def start(target: Callable, arguments: list[tuple], threads: int, desk) -> None:
    """Runs target(remote, *arguments) in a process for each, until all have ended; whatever ends this, ends them.

    A call on `remote` is a call on `desk`, which lives here; those that `desk.answered` names wait for the answer.

    Raises the ValueError or OSError that a process raised.
    """
    context, pipes, processes = mp.get_context("spawn"), {}, []
    resource_tracker.ensure_running()  # its start unblocks signals
    try:
        # signals are this process's affair: children inherit from the thread that starts them that they are blocked (blocked
        # in the main thread they would be heard all the same, in the middle of a start)
        with ThreadPoolExecutor(1, initializer=signal.pthread_sigmask, initargs=(signal.SIG_BLOCK, SIGNALS)) as starter:
            for given in arguments:
                pipe, end = context.Pipe()
                process = context.Process(target=_work, args=(target, end, threads, desk.answered, given), daemon=True)
                processes.append(process)
                pipes[pipe] = process
                starter.submit(process.start).result()
                end.close()
        while pipes:
            for pipe in connection.wait(list(pipes)):
                try:
                    message = pipe.recv_bytes()
                except (EOFError, OSError):  # perhaps in the middle of it
                    _ended(pipes.pop(pipe))
                    continue
                name, given = pickle.loads(message)
                if name == "raise":
                    raise given[0]
                answer = getattr(desk, name)(*given)
                if name in desk.answered:
                    with suppress(ConnectionError):  # it died meanwhile, which is seen in a moment
                        pipe.send_bytes(pickle.dumps(answer))
    finally:
        started = [process for process in processes if process.pid]
        for process in started:
            process.kill()  # no file is ever half written, so there is nothing to wait for
        for process in started:
            process.join()


def _ended(process) -> None:
    process.join()
    if process.exitcode:
        how = f"ended with code {process.exitcode} (see above)"
        if process.exitcode < 0:
            how = f"was killed by signal {-process.exitcode}, perhaps for want of memory (a smaller batch_size needs less)"
        raise ValueError(f"a worker process {how}: finished rows are kept, and the same command goes on with the others")


class _Remote:
    def __init__(self, pipe, answered):
        self._pipe, self._answered = pipe, answered

    def __getattr__(self, name):
        def call(*given):
            self._pipe.send_bytes(pickle.dumps((name, given)))
            return pickle.loads(self._pipe.recv_bytes()) if name in self._answered else None

        return call


def _work(target, pipe, threads, answered, arguments) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    remote = _Remote(pipe, answered)
    try:
        target(remote, *arguments)
    except (ValueError, OSError) as error:
        with suppress(OSError):  # perhaps it is that the parent has gone
            getattr(remote, "raise")(error)


def _die_with_parent() -> None:
    connection.wait([parent_process().sentinel])
    os._exit(1)
