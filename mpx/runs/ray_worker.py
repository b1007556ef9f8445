"""A worker of launch=ray, in the process of a Ray actor on any machine of the cluster (mpx.runs.ray_cluster starts it).

It does the work of every worker (mpx.runs.worker) in a thread. Its calls to the coordinator wait here until the run fetches
them. Files are written to a scratch folder and sent with the row. Where this machine has not the very photo that the
coordinator has, the photo is sent here. Everything else that the configuration names, such as the network's code and
weights, must lie on this machine under the same paths; it is compared by its digest.
"""

import os
import pickle
import socket
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from mpx.errors import OwnCodeError, as_told, first_line
from mpx.explanation import Explanation
from mpx.runs.base import ClaimedImage
from mpx.runs.files import write_file
from mpx.runs.fingerprint import Fingerprint, digest_file
from mpx.runs.launch import CLAIM, Pipe, RemoteCoordinator
from mpx.runs.worker import work

START, STORE_ROW, READ, END = "start", "store_row", "read", "end"  # messages besides those of mpx.runs.launch


class RayWorker:
    """The actor. A `Pipe` of its thread, whose other end is `exchange`."""

    def __init__(self, plan: bytes, device: str, threads: int, folder: str):
        """plan: pickled; folder: the working folder of the command, which is this worker's, too, where it is there."""
        self._calls: SimpleQueue[bytes] = SimpleQueue()
        self._answers: SimpleQueue[bytes] = SimpleQueue()
        Thread(target=self._work, args=(plan, device, threads, folder), daemon=True).start()

    def exchange(self, answer: bytes | None) -> bytes:
        """Answer the worker's last call, where it waits for an answer; return its next call, pickled."""
        if answer is not None:
            self._answers.put(answer)
        return self._calls.get()

    def send_bytes(self, message: bytes) -> None:
        self._calls.put(message)

    def recv_bytes(self) -> bytes:
        return self._answers.get()

    def _work(self, pickled_plan: bytes, device: str, threads: int, folder: str) -> None:
        coordinator = SendingCoordinator(self)
        try:
            if os.path.isdir(folder):
                os.chdir(folder)
            sys.path.append(os.getcwd())  # as the command line does
            plan = pickle.loads(pickled_plan)
            coordinator.start(Fingerprint.of(plan))
            torch.set_num_threads(threads)
            with coordinator.scratch_folder() as scratch:
                work(coordinator, replace(plan, folder=scratch), torch.device(device))
                files = coordinator.take_files()
            coordinator.end(files)
        except (Exception, SystemExit) as error:  # a network may call sys.exit
            told = as_told(error)
            if not isinstance(told, (OwnCodeError, ValueError, OSError)):
                coordinator.log(traceback.format_exc())
                told = ValueError(
                    f"a worker on {socket.gethostname()} ended with {type(error).__name__}: {first_line(error)} (see above):"
                    " finished rows are kept, and the same command does the others"
                )
            coordinator.raise_in_parent(told)


class SendingCoordinator(RemoteCoordinator):
    """The coordinator as a worker on another machine sees it: files are sent, too."""

    def __init__(self, pipe: Pipe):
        super().__init__(pipe)
        self._sent_from: dict[str, str] = {}  # path of a photo that was sent here -> its path at the coordinator

    @contextmanager
    def scratch_folder(self) -> Iterator[Path]:
        """Yield the folder of the worker's plan. A worker that is killed leaves it, with what was not sent yet."""
        with tempfile.TemporaryDirectory(prefix="mpx-ray-") as scratch:
            self._folder, self._photos = Path(scratch) / "run", Path(scratch) / "photos"
            self._folder.mkdir()
            yield self._folder

    def start(self, fingerprint: Fingerprint) -> None:
        """Tell what rows would be made from here, and where that is."""
        self._send(START, socket.gethostname(), fingerprint.configuration, fingerprint.versions)

    def end(self, files: dict[str, bytes]) -> None:
        """Tell that there is no work left, and send the last files."""
        self._send(END, files)

    def claim(self, count: int) -> list[ClaimedImage]:
        for copy in self._sent_from:  # of photos that were read after the last claim
            Path(copy).unlink(missing_ok=True)
        self._sent_from.clear()
        return [self._with_photo(image, digest) for image, digest in self._ask(CLAIM, count)]

    def add_row(self, row: dict[str, Any], curve_sums: dict[str, Tensor], explanation: Explanation | None) -> None:
        self._send(STORE_ROW, self.take_files(), row, curve_sums, explanation)

    def skip(self, image_name: str, reason: str) -> None:
        for copy, path in self._sent_from.items():
            reason = reason.replace(copy, path)
        super().skip(image_name, reason)

    def take_files(self) -> dict[str, bytes]:
        """Return path in the run's folder -> content of what was written since the last call, mask files last."""
        paths = sorted((path for path in self._folder.rglob("*") if path.is_file()), key=lambda path: "masks" in path.parts)
        files = {path.relative_to(self._folder).as_posix(): path.read_bytes() for path in paths}
        for path in paths:
            path.unlink()
        return files

    def _with_photo(self, image: ClaimedImage, digest: str) -> ClaimedImage:
        """Return the image with a copy of its file, where there is none of this SHA-256 on this machine."""
        path = image.item.path
        with suppress(OSError):
            if not digest or digest_file(path)["sha256"] == digest:
                return image
        photo = self._ask(READ, image.image_index)
        if photo is None:
            return image
        copy = self._photos / str(image.image_index) / path.name
        write_file(copy, photo)
        self._sent_from[str(copy)] = str(path)
        return image._replace(item=replace(image.item, path=copy), sent_from=path)
