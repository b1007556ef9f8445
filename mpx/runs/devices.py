"""Which images this process does, on which devices, with how many threads: what the launcher and the config say of it."""

import ctypes
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Share:
    """Share `index` of `count`; `local` of `local_count` on this machine."""

    index: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1
    launcher: str = ""
    bound: bool = False  # does it see its own GPUs only?

    def __str__(self):
        return f"{self.index} of {self.count}"


def share(asked: str) -> Share:
    """auto: what torchrun or srun says, else all; array: what the Slurm job array says; 2/8: the third of eight."""
    if asked == "auto":
        return launched(os.environ)
    if asked == "array":
        env, outer = _array(os.environ), launched(os.environ)
        index, count = env[0] * outer.count + outer.index, env[1] * outer.count
        return replace(outer, index=index, count=count, launcher="array")
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
    texts = index or "none", count or "none", local or "0", per_node.split(",")[0] or "1"
    try:
        numbers = [int(text) for text in texts]
    except ValueError:
        raise ValueError(
            f"{launcher} must give numbers in {names[0]} and {names[1]}, and these are {texts[0]} and {texts[1]}"
        ) from None
    return Share(*numbers, launcher, "SLURM_GPUS_PER_TASK" in env) if numbers[1] > 1 else Share()


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
    if isinstance(count, list) and count:
        if first.type != "cuda":
            raise ValueError(f"trainer.devices={count} names GPUs, and device={name} is {first.type} here: give a number")
        return [device(f"cuda:{i}") for i in count]
    here = [first]
    if first.type == "cuda" and ":" not in name:
        here = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
        if beside := os.environ.get("MPX_GPU"):  # of several jobs at once, each has one: sweeper.gpu
            here = [here[int(beside)]]
        elif not share.bound:
            here = here[share.local :: share.local_count] or [here[share.local % len(here)]]
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
    pinned = "OMP_NUM_THREADS" in os.environ or cores() < os.cpu_count()  # by the launcher, to this process's part
    here = workers * (1 if pinned else share.local_count)
    return asked or (1 if deterministic else max(1, torch.get_num_threads() // here))


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def keep_freed_memory() -> None:
    """Makes glibc keep large blocks that are freed, for the next pass: it returns them to the system else, whose fresh pages
    cost a tenth of a pass on one core and more where several processes ask for them."""
    with suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block is a mapping of its own
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap does not shrink


@contextmanager
def same_bits(wanted: bool):
    """Algorithms whose result does not depend on the order in which a GPU's threads finish."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise ValueError(f"deterministic=true: {str(error).splitlines()[0]} (device=cpu has one)") from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
