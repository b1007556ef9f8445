"""Who does which rows on which device: rows are shared, gradients are not.

Every worker is an ordinary process with a single-device Trainer and its own rows: no process group, nothing to stall. Local
workers draw their rows from the parent, a few at a time, so that a slow one holds nobody up. Processes that torchrun, srun
or a job array started find their share in the environment. A `Group` is for the one case where gradients are averaged: the
random samples of one batch, spread over ranks.
"""

import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import connection, parent_process, resource_tracker

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # that stop a run; the last is what Slurm's --signal often sends


@dataclass(frozen=True)
class Share:
    """Share `index` of `count`; `local` of `local_count` on this machine."""

    index: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1
    launcher: str = ""

    def __str__(self):
        return f"{self.index} of {self.count}"


def share(asked: str) -> Share:
    """auto: what torchrun or srun says, else all; array: what the Slurm job array says; 2/8: the third of eight."""
    if asked == "auto":
        return launched(os.environ)
    if asked == "array":
        env, outer = _array(os.environ), launched(os.environ)
        return Share(env[0] * outer.count + outer.index, env[1] * outer.count, outer.local, outer.local_count, "array")
    index, slash, count = str(asked).partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(
            f"share={asked} must be auto, array, or like 0/4, 1/4, ..., 3/4: which part of the images is done here"
        )
    return Share(int(index), int(count), launcher="share")


def launched(env) -> Share:
    """What torchrun (RANK) or srun (SLURM_PROCID within a step) says of this process."""
    if "TORCHELASTIC_RUN_ID" in env or {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= set(env):
        names, launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"), "torchrun"
    elif "SLURM_STEP_NUM_TASKS" in env:  # only srun sets it: a batch script alone is one process whatever its --ntasks
        names, launcher = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"), "srun"
    else:
        return Share()
    index, count, local, per_node = (str(env.get(name, "")).partition("(")[0] for name in names)
    if int(count) == 1:
        return Share()
    return Share(int(index), int(count), int(local or 0), int(per_node.partition(",")[0] or 1), launcher)


def _array(env) -> tuple[int, int]:
    try:
        task, first, count = (int(env[f"SLURM_ARRAY_TASK_{k}"]) for k in ("ID", "MIN", "COUNT"))
    except KeyError as error:
        raise ValueError(
            f"share=array needs a Slurm job array, and {error.args[0]} is not set: use share=0/4, 1/4, ..."
        ) from None
    return (task - first) // int(env.get("SLURM_ARRAY_TASK_STEP", 1)), count


def devices(name: str, count, share: Share) -> list[torch.device]:
    """The device of each worker that this process starts. count: a number, "all" GPUs, or a list of GPU indices."""
    first = device(name)
    if isinstance(count, list) and first.type == "cuda":
        return [device(f"cuda:{i}") for i in count]
    here = [first]
    if first.type == "cuda" and ":" not in name:
        here = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
        if share.local_count <= len(here):  # else each task sees only its own
            here = here[share.local :: share.local_count]
    if count == "all":
        if first.type != "cuda":
            raise ValueError(f"trainer.devices=all means GPUs, and device={name} is {first.type} here: give a number")
        count = len(here)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"trainer.devices={count!r} must be a number from 1, all, or a list of GPUs like [0,2]")
    if first.type == "cpu":
        return [first] * count
    if count > len(here):
        raise ValueError(f"trainer.devices={count} is more than the {len(here)} that device={name} has here")
    return here[:count]


def device(name: str) -> torch.device:
    """The device that `device=` names; auto takes an accelerator where there is one."""
    usable = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda", 0) if "cuda" in usable else torch.device(usable[-1])
    try:
        found = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name!r} must be auto, cpu, cuda, cuda:N or mps") from None
    if found.type not in usable or (found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"device={name!r} is not on this machine: usable here are auto, {', '.join(usable)}")
    return torch.device("cuda", found.index or 0) if found.type == "cuda" else found


def threads(asked: int | None, workers: int, share: Share, deterministic: bool) -> int:
    """CPU threads of each worker: together as many as there are cores, for threads that contend are many times slower.

    One where bits must not depend on the number of workers: the order of a sum does depend on its threads.
    """
    if asked is not None and asked < 1:
        raise ValueError(f"threads={asked} must be at least 1, or null to share out the cores")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pinned = "OMP_NUM_THREADS" in os.environ or cores < os.cpu_count()  # by the launcher, to this process's part
    here = workers * (1 if pinned else share.local_count)
    return asked or (1 if deterministic else max(1, torch.get_num_threads() // here))


@dataclass(frozen=True)
class Group:
    """The ranks that share the random samples of every batch. Rank 0 leads: it alone reads and writes."""

    rank: int
    devices: tuple[torch.device, ...]  # of the ranks on this machine
    count: int
    meeting: str = "env://"  # where they find each other

    def join(self) -> "Group":
        backend = "nccl" if self.devices[0].type == "cuda" else "gloo"
        if self.meeting != "env://":  # local processes, which need no network
            os.environ |= {"RANK": f"{self.rank}", "LOCAL_RANK": f"{self.rank}", "WORLD_SIZE": f"{self.count}"}
            os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
        if backend == "nccl":
            torch.cuda.set_device(self.devices[int(os.environ["LOCAL_RANK"])])
        dist.init_process_group(backend, self.meeting, rank=self.rank, world_size=self.count)
        return self

    def of(self, rank: int) -> "Group":
        return replace(self, rank=rank)

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
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # children inherit this: signals are the parent's affair
    try:
        for given in arguments:
            pipe, end = context.Pipe()
            process = context.Process(target=_work, args=(target, end, threads, desk.answered, given), daemon=True)
            process.start()
            end.close()
            processes.append(process)
            pipes[pipe] = process
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        while pipes:
            for pipe in connection.wait(list(pipes)):
                try:
                    name, given = pickle.loads(pipe.recv_bytes())
                except (EOFError, ConnectionError):
                    _ended(pipes.pop(pipe))
                    continue
                if name == "raise":
                    raise given[0]
                answer = getattr(desk, name)(*given)
                if name in desk.answered:
                    pipe.send_bytes(pickle.dumps(answer))
    finally:
        for process in processes:
            process.kill()  # no file is ever half written, so there is nothing to wait for
            process.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _ended(process) -> None:
    process.join()
    if process.exitcode:
        how = f"was killed by signal {-process.exitcode}" if process.exitcode < 0 else f"ended with code {process.exitcode}"
        raise ValueError(
            f"a worker process {how}, perhaps for want of memory (a smaller trainer.devices or batch_size needs less): "
            "finished rows are kept, and the same command goes on with the others"
        )


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
        getattr(remote, "raise")(error)


def _die_with_parent() -> None:
    connection.wait([parent_process().sentinel])
    os._exit(1)
