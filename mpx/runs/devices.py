"""Devices, CPU threads and algorithms of this process and of its workers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mpx.devices import find_device, gpu_count
from mpx.runs.shares import Share


def worker_devices(name: str, count: int | str | list[int], share: Share) -> list[torch.device]:
    """Return the device of each worker that this process starts.

    name: `device=`; count: `trainer.devices=`, a number, "all" GPUs, or a list of GPU indices.
    """
    first = find_device(name)
    if isinstance(count, list) and count:
        if first.type != "cuda":
            raise ValueError(f"trainer.devices={count} names GPUs, and device={name} is {first.type} here: give a number")
        return [find_device(f"cuda:{index}") for index in count]
    usable = _gpus_of_share(share) if first.type == "cuda" and ":" not in name else [first]
    if count == "all":
        if first.type != "cuda":
            raise ValueError(
                f"trainer=gpus and trainer.devices=all need a GPU, and device={name} is {first.type} here: leave them out, "
                "or start CPU processes with trainer.devices=2"
            )
        count = len(usable)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"trainer.devices={count!r} must be a number from 1, all, or a list of GPUs like [0,2]")
    if first.type == "cpu":
        if count > MOST_PROCESSES:
            raise ValueError(f"trainer.devices={count} processes are too many for a machine: give at most {MOST_PROCESSES}")
        return [first] * count
    if count > len(usable):
        raise ValueError(f"trainer.devices={count} is more than the {len(usable)} that device={name} has here")
    return usable[:count]


def _gpus_of_share(share: Share) -> list[torch.device]:
    """Return the GPUs of this process: processes on one machine take them in turn."""
    gpus = [torch.device("cuda", index) for index in range(gpu_count())]
    if index := os.environ.get("MPX_GPU"):  # set by the sweeper, which gives each of its parallel jobs one GPU
        return [gpus[int(index)]]
    if share.own_gpus_only:
        return gpus
    return gpus[share.local :: share.local_count] or [gpus[share.local % len(gpus)]]


MOST_PROCESSES = 1024
MOST_THREADS = 1024  # PyTorch crashes where the system can start no more


def thread_count(setting: int | None, workers: int, share: Share, deterministic: bool) -> int:
    """Return the CPU threads of each worker: all workers together use as many as there are cores.

    More threads than cores are many times slower. A deterministic run uses one: the order of a sum depends on its threads.
    """
    if setting is not None and not 1 <= setting <= MOST_THREADS:
        raise ValueError(f"threads={setting} must be from 1 to {MOST_THREADS}, or null to share out the cores")
    if setting or deterministic:
        return setting or 1
    launcher_shared_out = "OMP_NUM_THREADS" in os.environ or available_cores() < (os.cpu_count() or 1)
    processes = workers * (1 if launcher_shared_out else share.local_count)
    return max(1, torch.get_num_threads() // processes)


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # foreign: absent on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def single_worker(threads: int, deterministic: bool) -> Iterator[None]:
    """Set the threads and algorithms of a worker in this process, and restore both at the end."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with deterministic_algorithms(deterministic):
            yield
    finally:
        torch.set_num_threads(threads_before)


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Use only algorithms whose result does not depend on the order in which a GPU's threads finish."""
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    enabled_before = torch.are_deterministic_algorithms_enabled()
    benchmark_before = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise ValueError(f"deterministic=true: {str(error).splitlines()[0]} (device=cpu has one)") from error
    finally:
        torch.use_deterministic_algorithms(enabled_before)
        torch.backends.cudnn.benchmark = benchmark_before
