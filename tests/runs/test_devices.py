"""Devices and threads of workers."""

import os

import pytest
import torch

from mpx.devices import find_device
from mpx.runs.devices import thread_count, worker_devices
from mpx.runs.shares import Share


def test_device_names():
    assert find_device("cpu") == torch.device("cpu") and find_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="device='gpu' must be auto, cpu, cuda"):
        find_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device='cuda' is not on this machine: usable here are auto, cpu"):
            find_device("cuda")


@pytest.fixture
def gpus(monkeypatch):
    """Four of them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


ON_NODE = Share(3, 4, local=1, local_count=2)


@pytest.mark.parametrize(
    "name, count, share, expected",
    [
        ("cpu", 3, Share(), ["cpu"] * 3),
        ("auto", 1, Share(), ["cuda:0"]),
        ("cuda", "all", Share(), ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("auto", [1, 3], Share(), ["cuda:1", "cuda:3"]),
        ("cuda:2", 1, Share(), ["cuda:2"]),
        ("auto", 1, ON_NODE, ["cuda:1"]),  # tasks of one machine take turns at its GPUs
        ("auto", "all", ON_NODE, ["cuda:1", "cuda:3"]),
        ("auto", 1, Share(5, 8, local=5, local_count=8), ["cuda:1"]),  # more processes than GPUs
        ("auto", "all", Share(1, 2, local=1, local_count=2, own_gpus_only=True), ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
    ],
)
def test_a_worker_for_each_device(gpus, name, count, share, expected):
    assert [str(device) for device in worker_devices(name, count, share)] == expected


@pytest.mark.parametrize(
    "name, count, names",
    [
        ("cpu", "all", "trainer.devices=all need a GPU"),
        ("cpu", 0, "trainer.devices=0"),
        ("cpu", True, "trainer.devices=True"),
        ("cpu", "two", "trainer.devices='two'"),
        ("auto", 5, "more than the 4"),
        ("cuda:1", 2, "more than the 1"),
        ("auto", [4], "cuda:4"),
    ],
)
def test_devices_that_are_not_there_are_refused(gpus, name, count, names):
    with pytest.raises(ValueError, match=names):
        worker_devices(name, count, Share())


@pytest.mark.parametrize(
    "asked, here, local, deterministic, environment, bound, expected",
    [
        (None, 1, 1, False, {}, 8, 8),
        (None, 2, 1, False, {}, 8, 4),
        (None, 2, 2, False, {}, 8, 2),  # two tasks on the machine
        (None, 1, 4, False, {}, 4, 8),  # which are bound to cores of their own
        (None, 1, 4, False, {"OMP_NUM_THREADS": "8"}, 8, 8),  # or were given their threads
        (None, 16, 1, False, {}, 8, 1),
        (None, 1, 1, True, {}, 8, 1),
        (3, 2, 2, True, {}, 8, 3),
    ],
)
def test_workers_share_the_cores(monkeypatch, asked, here, local, deterministic, environment, bound, expected):
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert thread_count(asked, here, Share(0, local, 0, local), deterministic) == expected


def test_no_threads_are_refused():
    with pytest.raises(ValueError, match="threads=0"):
        thread_count(0, 1, Share(), False)
