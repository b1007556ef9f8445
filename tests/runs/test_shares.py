"""Which share of the images a process works on: torchrun, srun, a job array, or share=."""

import os

import pytest

from mpx.runs.shares import Share, find_share, launched_share

SRUN = {"SLURM_STEP_NUM_TASKS": "6", "SLURM_PROCID": "4", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "3(x2)"}
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, (0, 1, 0, 1, "")),
        (TORCHRUN, (5, 8, 1, 4, "torchrun")),
        (TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"}, (0, 1, 0, 1, "")),
        ({"RANK": "3"}, (0, 1, 0, 1, "")),  # others use these names too
        (SRUN, (4, 6, 1, 3, "srun")),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3,2"}, (4, 6, 1, 3, "srun")),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, (0, 1, 0, 1, "")),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}, (0, 1, 0, 1, "")),  # a batch script, outside of a step
        (SRUN | TORCHRUN, (5, 8, 1, 4, "torchrun")),  # srun starts one torchrun on each node
    ],
)
def test_a_launcher_is_read_off_the_environment(environment, expected):
    assert launched_share(environment) == Share(*expected)


ARRAY = {
    "SLURM_ARRAY_TASK_ID": "14",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_STEP": "2",
    "SLURM_ARRAY_TASK_COUNT": "4",
}


@pytest.mark.parametrize(
    "asked, environment, expected",
    [
        ("auto", {}, (0, 1)),
        ("auto", SRUN, (4, 6)),
        ("auto", ARRAY, (0, 1)),  # an array may be one of configurations: it must be asked for
        ("array", ARRAY, (2, 4)),
        ("array", {k: v for k, v in ARRAY.items() if "STEP" not in k} | {"SLURM_ARRAY_TASK_ID": "11"}, (1, 4)),
        ("array", ARRAY | SRUN, (16, 24)),
        ("0/1", {}, (0, 1)),
        ("3/4", SRUN, (3, 4)),
    ],
)
def test_share_comes_from_the_option_or_the_launcher(monkeypatch, asked, environment, expected):
    monkeypatch.setattr(os, "environ", environment)
    result = find_share(asked)
    assert (result.index, result.count) == expected


def test_the_shares_of_an_array_of_steps_are_all_there_are(monkeypatch):
    result = []
    for task in range(10, 18, 2):
        for rank in range(6):
            monkeypatch.setattr(os, "environ", ARRAY | SRUN | {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_PROCID": str(rank)})
            result.append(find_share("array"))
    assert sorted(s.index for s in result) == list(range(24)) and {s.count for s in result} == {24}


@pytest.mark.parametrize("asked", ["4/4", "-1/4", "1", "a/b", "1/", "array"])
def test_a_share_that_cannot_be_is_refused(monkeypatch, asked):
    monkeypatch.setattr(os, "environ", {})
    with pytest.raises(ValueError, match=f"share={asked}"):
        find_share(asked)
