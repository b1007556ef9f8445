"""mpx commands as processes of their own, to be signalled and waited for.

They are forked from a server that has imported everything, so that one starts in a third of a second. The worker processes
that they start are made in the same way, unless `spawned`.
"""

import csv
import io
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from planted import SQUARE, SquareNet, square_photo
from torchvision.transforms.v2.functional import to_pil_image
from tqdm import tqdm

CONTEXT = multiprocessing.get_context("forkserver")
HERE = Path(__file__).parent
# a row is the same to the bit in any company, and nothing is drawn
PLAIN = [
    *(a for a in SQUARE if not a.startswith("model.network")),
    *(
        "model.network=net.py:RoundingNet",
        "images=photos",
        "noise=0.1",
        "flip=0.5",
        "frames=3",
        "pictures=none",
        "log_images=0",
    ),
]
SAME = [*PLAIN, "deterministic=true", "batch_size=4"]


def workplace(folder: Path, photos: int) -> Path:
    """A folder with photos/p00.png, p01.png, ... and the networks of planted.py in net.py."""
    (folder / "photos").mkdir()
    for seed in range(photos):
        to_pil_image(square_photo(SquareNet(), seed)).save(folder / "photos" / f"p{seed:02}.png")
    (folder / "net.py").write_text(f"import sys\nsys.path.insert(0, {str(HERE)!r})\nfrom planted import *\n")
    (folder / "names.txt").write_text("nothing\nchecker board\n")
    return folder


class Command:
    """`mpx arguments...` in a folder, in a process group of its own. inside: calls what it is given, e.g. under a limit."""

    def __init__(self, folder: Path, *arguments: str, inside=None, spawned: bool = False, **environment: str):
        serve()
        self.files = [folder / f".{name}-{time.monotonic_ns()}" for name in ("out", "err")]
        given = (str(folder), arguments, inside, spawned, environment, *map(str, self.files))
        self.process = CONTEXT.Process(target=_command, args=given)
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return self.files[0].read_text() if self.files[0].exists() else ""

    @property
    def err(self) -> str:
        return self.files[1].read_text() if self.files[1].exists() else ""

    def until(self, condition, seconds: float = 120) -> "Command":
        """Waits for the condition, which must come while the command runs."""
        end = time.monotonic() + seconds
        while not condition():
            assert (self.process.is_alive() or condition()) and time.monotonic() < end, self.out + self.err
            time.sleep(0.005)
        return self

    def end(self, seconds: float = 120) -> int:
        """Waits for its end; the exit code, minus the signal where one killed it."""
        self.process.join(seconds)
        if self.process.is_alive():
            os.killpg(self.pid, signal.SIGKILL)
            raise AssertionError(f"still running after {seconds} s: {self.out}{self.err}")
        return self.process.exitcode

    def signal(self, number: int, group: bool = False) -> "Command":
        (os.killpg if group else os.kill)(self.pid, number)
        return self


def done(folder: Path, *arguments: str, code: int = 0, **options) -> Command:
    """A command that has ended with this code."""
    command = Command(folder, *arguments, **options)
    assert command.end() == code, command.out + command.err
    return command


def masks(run: Path) -> dict[str, tuple]:
    """row -> what was found of it, to be compared to the bit."""
    result = {}
    for path in sorted((run / "masks").glob("*.npz")):
        with np.load(path) as row:
            result[path.stem] = tuple(
                row[key].tobytes() for key in ("parameter", "saliency", "curves", "value_after", "row_keys")
            )
    return result


def table(run: Path) -> list[dict]:
    return list(csv.DictReader((run / "results.csv").open()))


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def whole(run: Path) -> None:
    """No file that is to be seen is a part of one."""
    read = {".npz": _npz, ".png": _image, ".webp": _image, ".csv": _csv, ".json": json.loads, ".yaml": yaml.safe_load}
    for path in run.rglob("*"):
        if path.is_file() and path.suffix in read:
            assert read[path.suffix](path.read_bytes()), path


def drafts(run: Path) -> list[Path]:
    return [path for path in run.rglob(".*") if path.name.endswith(".tmp")]


def _npz(data: bytes) -> bool:
    with np.load(io.BytesIO(data)) as file:
        return {"parameter", "saliency", "curves", "file_bytes"} <= {key for key in file.files if file[key] is not None}


def _image(data: bytes) -> bool:
    image = Image.open(io.BytesIO(data))
    for frame in range(getattr(image, "n_frames", 1)):
        image.seek(frame)
        image.load()
    return True


def _csv(data: bytes) -> bool:
    lines = list(csv.reader(io.StringIO(data.decode())))
    return data.endswith(b"\n") and len({len(line) for line in lines}) == 1


def serve() -> None:
    """Starts the server, once, with this checkout's modules."""
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "OMP_NUM_THREADS")}
    os.environ.update(PYTHONPATH=os.pathsep.join([str(HERE), str(HERE.parent)]), OMP_NUM_THREADS="1")
    CONTEXT.set_forkserver_preload(["commands", "preloaded"])
    forkserver.ensure_running()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def fork_workers() -> None:
    """In a process that the server has started: so are those that it starts."""
    torch.multiprocessing.get_context = lambda _: CONTEXT
    forkserver._forkserver.ensure_running = lambda: None  # or this process would start a server of its own


def _command(folder, arguments, inside, spawned, environment, out, err) -> None:
    os.setpgid(0, 0)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666), number)
    os.chdir(folder)
    os.environ.update(environment)
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that outlives a SIGKILL
    if not spawned:
        fork_workers()
    sys.argv = ["mpx", *arguments]
    from mpx.cli.main import main

    inside(main) if inside else main()


class SilentCoordinator:
    """A coordinator without images that keeps nothing."""

    def claim(self, count):
        return []

    def add_row(self, row, curve_sums, explanation):
        pass

    def skip(self, image_name, reason):
        pass

    def report_progress(self, images, note=""):
        pass

    def log(self, text):
        pass

    def warn(self, text):
        pass
