"""parallel=samples: ranks that work on the same rows, each with its part of the random samples of every step (DDP)."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy

from mpx.learning.objective import samples_of_rank
from mpx.learning.rows import Row
from mpx.runs.shares import Share


@dataclass(frozen=True)
class SampleGroup:
    """The ranks that share the random samples of every batch. Rank 0 alone reads images and writes rows."""

    rank: int
    devices: tuple[torch.device, ...]  # of the ranks on this machine
    count: int
    rendezvous: str = ""  # folder in which local ranks find each other; empty under torchrun

    def join(self) -> None:
        """Join the process group of all ranks."""
        backend = "nccl" if self.devices[0].type == "cuda" else "gloo"
        if self.rendezvous:  # local processes need no network
            loopback = "lo" if sys.platform == "linux" else "lo0"
            os.environ |= {"RANK": f"{self.rank}", "LOCAL_RANK": f"{self.rank}", "WORLD_SIZE": f"{self.count}"}
            os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
        if backend == "nccl":
            torch.cuda.set_device(self.devices[int(os.environ["LOCAL_RANK"])])
        address = f"file://{self.rendezvous}/ranks" if self.rendezvous else "env://"
        dist.init_process_group(backend, address, rank=self.rank, world_size=self.count)

    def with_rank(self, rank: int, rendezvous: str) -> "SampleGroup":
        """Return the same group as another of its local ranks sees it."""
        return replace(self, rank=rank, rendezvous=rendezvous)

    def trainer_arguments(self) -> dict[str, Any]:
        """Return the arguments of a Trainer that averages the gradients of all ranks."""
        on_gpu = self.devices[0].type == "cuda"
        return {
            "accelerator": "gpu" if on_gpu else "cpu",
            "devices": [device.index for device in self.devices] if on_gpu else len(self.devices),
            "num_nodes": self.count // len(self.devices),
            "strategy": DDPStrategy(),
            "plugins": [TorchElasticEnvironment()],
        }

    def broadcast_rows(self, next_rows: Callable[[int], list[Row]] | None) -> Callable[[int], list[Row]]:
        """Return rank 0's row source as a function that gives every rank the same rows."""

        def same_rows(count: int) -> list[Row]:
            message = [next_rows(count) if next_rows else None]
            dist.broadcast_object_list(message)
            return message[0] or []

        return same_rows


def find_group(parallel: str, samples: int, share: Share, devices: list[torch.device]) -> SampleGroup | None:
    """Return the group of parallel=samples as this process sees it, or None with parallel=rows.

    devices: of the workers that this process starts. A process that starts all ranks itself is rank 0.
    """
    if parallel == "rows":
        return None
    if share.count == 1 and len(devices) > 1:
        group = SampleGroup(0, tuple(devices), len(devices))
    elif share.launcher == "torchrun" and len(devices) == 1:
        on_gpu = devices[0].type == "cuda"
        local = (torch.device("cuda", index) if on_gpu else devices[0] for index in range(share.local_count))
        group = SampleGroup(share.index, tuple(local), share.count)
    else:
        raise ValueError(
            "parallel=samples spreads the samples of one batch over devices: give it trainer.devices=N on one machine, "
            f"or torchrun with one device per process (here: trainer.devices={len(devices)}, share {share})"
        )
    samples_of_rank(samples, group.rank, group.count)  # raises where they cannot be shared out
    return group
