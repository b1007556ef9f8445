"""launch=ray: one run over the machines of a Ray cluster, whose number may change while it works.

The coordinator stays in the process of the command, which alone writes the run's folder. Each worker is a Ray actor with one
GPU, or with CPUs, and Ray finds the machine for it. The run has one call open to each worker: it brings the worker's next
message (claim, store a row, ...) and takes the answer to the last one. A call that fails says that the worker died, alone or
with its machine. Its images are then claimed again, and another actor is started as soon as the cluster has room for it; the
same loop uses machines that join. Ray's own max_restarts would restart the actor under its old name, and its call could not
be told from one that was never answered.
"""

import logging
import math
import os
import pickle
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from mpx.errors import first_line
from mpx.runs.base import ClaimedImage
from mpx.runs.coordinator import RunCoordinator
from mpx.runs.devices import thread_count
from mpx.runs.files import write_file
from mpx.runs.fingerprint import PHOTO
from mpx.runs.launch import CLAIM, coordinator_calls
from mpx.runs.plan import RunPlan
from mpx.runs.ray_worker import END, READ, START, STORE_ROW, RayWorker
from mpx.runs.shares import Share

log = logging.getLogger("mpx")
LOOK_SECONDS = 1.0  # between two looks at what the cluster has
PATIENCE_SECONDS = 60  # in which a worker should begin
CONNECT_SECONDS = 5
AGAIN = "finished rows are kept, and the same command does the others"
MOST_DEATHS = 3  # of workers with the same image; for each worker, in a row before any claimed an image


def run_on_ray(plan: RunPlan, coordinator: RunCoordinator) -> None:
    """Explain the remaining images on the cluster of `launch=`. Raises ValueError, or the error of a worker."""
    with _connected(plan.launch or {}):
        workers = RayWorkers(plan, coordinator)
        coordinator.start(max(1, workers.wanted()))
        try:
            workers.run()
        except RayError as error:
            raise ValueError(f"the Ray cluster failed ({first_line(error)}): {AGAIN}") from error


@contextmanager
def _connected(arguments: dict[str, Any]) -> Iterator[None]:
    """Connect this process to the cluster. arguments: of ray.init."""
    if ray.is_initialized():
        raise ValueError("launch=ray within a job that Ray has started: give cluster=ray or launch=ray, not both")
    address = arguments.get("address") or os.environ.get("RAY_ADDRESS") or ""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here reports to nobody
    handler = signal.getsignal(signal.SIGTERM)
    try:
        host, _, port = address.rpartition("//")[2].rpartition(":")
        if port.isdecimal():  # ray.init would try for minutes
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(**{"logging_level": "warning", **arguments})
    except OSError as error:
        raise ValueError(
            f"launch.address={address or 'null'}: no Ray cluster is reached there ({first_line(error)}): start one with "
            "`ray start --head` and give the address that it prints, or null to start one here (Ray's tokens need "
            "RAY_AUTH_MODE=token)"
        ) from error
    except Exception as error:
        raise ValueError(f"launch=ray: Ray does not start ({first_line(error)}): check the options of launch") from error
    finally:
        signal.signal(signal.SIGTERM, handler)  # ray.init replaces it
    try:
        yield
    finally:
        ray.shutdown()  # which ends the workers; every file here is written whole


@dataclass(eq=False)
class _Worker:
    """An actor as the run sees it."""

    actor: Any
    is_at_work: bool = False  # it has called
    claimed: set[int] = field(default_factory=set)  # indices of images


class RayWorkers:
    """The workers of a run on the connected cluster."""

    def __init__(self, plan: RunPlan, coordinator: RunCoordinator):
        self._coordinator = coordinator
        self._count = plan.trainer_devices
        self._resource = _resource(plan.device)
        threads = thread_count(plan.threads or 1, 1, Share(), plan.deterministic)
        self._amount = 1 if self._resource == "GPU" else threads  # of the resource, for each worker
        actor_class = ray.remote(num_cpus=threads, num_gpus=int(self._resource == "GPU"))(RayWorker)
        device = "cuda:0" if self._resource == "GPU" else "cpu"
        self._new_actor = partial(actor_class.remote, pickle.dumps(plan), device, threads, os.getcwd())
        self._calls: dict[str, Callable[..., Any]] = {
            **coordinator_calls(coordinator),
            START: self._check,
            STORE_ROW: self._store_row,
            READ: self._read,
            END: self._store_files,
        }
        self._workers: dict[Future[bytes], _Worker] = {}  # by the open call
        self._deaths: Counter[int | None] = Counter()  # image, or None before one was claimed -> workers that died
        self._next_look = 0.0
        self._next_warning = time.monotonic() + PATIENCE_SECONDS

    def run(self) -> None:
        """Answer workers until no image is left. Workers that Ray has found no machine for are not waited for."""
        while (at_work := any(worker.is_at_work for worker in self._workers.values())) or self._coordinator.remaining:
            self._start_workers()
            done, _ = wait(self._workers, LOOK_SECONDS, FIRST_COMPLETED)
            for call in done:
                self._answer(self._workers.pop(call), call)
            if at_work or done:
                self._next_warning = time.monotonic() + PATIENCE_SECONDS
            else:
                self._wait_for_room()

    def wanted(self) -> int:
        """Return the number of workers that are asked for, or that the cluster has room for."""
        if isinstance(self._count, int):
            return self._count
        return int(ray.cluster_resources().get(self._resource, 0) // self._amount)

    def _start_workers(self) -> None:
        if not self._coordinator.remaining or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        useful = len(self._coordinator.remaining) + sum(worker.is_at_work for worker in self._workers.values())
        for _ in range(min(self.wanted(), useful) - len(self._workers)):
            self._call(_Worker(self._new_actor()), None)

    def _wait_for_room(self) -> None:
        if not self._workers:
            time.sleep(LOOK_SECONDS)
        if time.monotonic() > self._next_warning:
            self._next_warning = math.inf
            log.warning(f"still waiting for a machine of the Ray cluster that has {self._amount} {self._resource} free")

    def _call(self, worker: _Worker, answer: bytes | None) -> None:
        self._workers[worker.actor.exchange.remote(answer).future()] = worker

    def _answer(self, worker: _Worker, call: Future[bytes]) -> None:
        """Do what a worker's message says, and fetch its next one."""
        try:
            name, arguments = pickle.loads(call.result())
        except RayError as error:
            self._bury(worker, error)
            return
        worker.is_at_work = True
        result = self._claim(worker, *arguments) if name == CLAIM else self._calls[name](*arguments)
        if name == END:
            ray.kill(worker.actor)  # which frees its place
        else:
            self._call(worker, pickle.dumps(result) if name in (CLAIM, READ) else None)

    def _bury(self, worker: _Worker, error: RayError) -> None:
        """Take back the images of a worker that died. Raises ValueError where that happens again and again."""
        ray.kill(worker.actor)  # it may be cut off and alive
        images = self._coordinator.give_back(worker.claimed)
        log.warning(f"a worker died ({first_line(error)}): {len(images)} images are claimed again")
        keys: list[int | None] = [*images] or [None]
        self._deaths.update(keys)
        key = max(keys, key=self._deaths.__getitem__)
        if self._deaths[key] < MOST_DEATHS * (max(1, self.wanted()) if key is None else 1):
            return
        when = "before they claimed an image" if key is None else f"while they explained {self._coordinator.items[key].name}"
        reason = "perhaps for lack of memory (a smaller batch_size needs less)"
        raise ValueError(f"{self._deaths[key]} workers died {when}, {reason}: {AGAIN}")

    # ---- messages

    def _check(self, host: str, configuration: str, versions: str) -> None:
        """End the run where a machine would make other rows."""
        own = self._coordinator.fingerprint
        if versions != own.versions:
            raise ValueError(f"{host} has {versions}, and this machine {own.versions}: install the same on both")
        if configuration != own.configuration:
            raise ValueError(
                f"a file that the configuration names, such as the network's code or weights, is missing or another one on "
                f"{host}: copy it there under the same path"
            )
        log.info(f"a worker on {host} has joined")

    def _claim(self, worker: _Worker, count: int) -> list[tuple[ClaimedImage, str]]:
        """Return images, each with the SHA-256 of its file, empty where it cannot be read here."""
        self._deaths.pop(None, None)
        images = self._coordinator.claim(count)
        worker.claimed.update(image.image_index for image in images)
        files = [self._coordinator.fingerprint.of_image(image.item)["files"] for image in images]
        return [(image, made_from.get(PHOTO, {}).get("sha256", "")) for image, made_from in zip(images, files)]

    def _read(self, image_index: int) -> bytes | None:
        """Return the photo's file, None where it cannot be read."""
        with suppress(OSError):
            return self._coordinator.items[image_index].path.read_bytes()
        return None

    def _store_row(self, files: dict[str, bytes], *arguments: Any) -> None:
        self._store_files(files)
        self._coordinator.add_row(*arguments)

    def _store_files(self, files: dict[str, bytes]) -> None:
        folder = self._coordinator.folder
        os.stat(folder)  # a folder that somebody removed must not come back with a part of its rows
        for name, content in files.items():
            write_file(folder / name, content)


def _resource(device: str) -> str:
    """Return what each worker takes of the cluster, GPU or CPU. device: `device=`."""
    has_gpus = ray.cluster_resources().get("GPU", 0) >= 1
    if device == "cuda" and not has_gpus:
        raise ValueError("device=cuda: the Ray cluster has no GPU: take device=cpu, or add a machine with one")
    return "GPU" if has_gpus and device != "cpu" else "CPU"
