"""The share of a run's images that this process works on, when several processes are started on one run."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Share:
    """Share `index` of `count` of the images; process `local` of `local_count` on this machine."""

    index: int = 0
    count: int = 1
    local: int = 0
    local_count: int = 1
    launcher: str = ""
    own_gpus_only: bool = False  # the launcher hides the GPUs of other processes from this one

    def __str__(self) -> str:
        return f"{self.index} of {self.count}"


def find_share(setting: str) -> Share:
    """Return the share that `share=` names.

    auto: the rank given by torchrun or srun, else all images; array: the task of a Slurm job array; 2/8: the third of eight.
    """
    if setting == "auto":
        return launched_share(os.environ)
    if setting == "array":
        task, count = _array_task(os.environ)
        rank = launched_share(os.environ)
        return replace(rank, index=task * rank.count + rank.index, count=count * rank.count, launcher="array")
    index, slash, total = str(setting).partition("/")
    if not (slash and index.isdecimal() and total.isdecimal() and int(index) < int(total)):
        raise ValueError(
            f"share={setting} must be auto, array, or a part of the images such as 0/4, 1/4, 2/4 or 3/4"
        )
    return Share(int(index), int(total), launcher="share")


def launched_share(env: Mapping[str, str]) -> Share:
    """Return this process's rank under torchrun (RANK) or srun (SLURM_PROCID within a job step); without either, all."""
    if "TORCHELASTIC_RUN_ID" in env or {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= set(env):
        launcher = "torchrun"
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    elif "SLURM_STEP_NUM_TASKS" in env:  # srun alone sets it: a batch script is one process whatever its --ntasks
        launcher = "srun"
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
    else:
        return Share()
    texts = [str(env.get(name, "")).partition("(")[0].partition(",")[0] for name in names]
    try:
        rank, count, local, local_count = (int(text or default) for text, default in zip(texts, ("none", "none", "0", "1")))
    except ValueError:
        values = [text or "none" for text in texts]
        raise ValueError(
            f"{launcher} must set {names[0]} and {names[1]} to numbers, and they are {values[0]} and {values[1]}"
        ) from None
    if count == 1:
        return Share()
    return Share(rank, count, local, local_count, launcher, own_gpus_only="SLURM_GPUS_PER_TASK" in env)


def _array_task(env: Mapping[str, str]) -> tuple[int, int]:
    """Return the index of this task in its Slurm job array, and the number of tasks."""
    try:
        task, first, count = (int(env[f"SLURM_ARRAY_TASK_{key}"]) for key in ("ID", "MIN", "COUNT"))
    except KeyError as error:
        raise ValueError(
            f"share=array needs a Slurm job array, and {error.args[0]} is not set: use share=0/4, 1/4, ..."
        ) from None
    return (task - first) // int(env.get("SLURM_ARRAY_TASK_STEP", 1)), count
