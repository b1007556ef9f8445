"""What a run of many photos costs: memory, functions called for each batch, files opened."""

import json
import resource
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from commands import PLAIN, done, workplace
from PIL import Image

BATCH = 8
QUICK = [a for a in PLAIN if not a.startswith(("model.network", "noise", "flip"))]
QUICK += ["model.network=net.py:SquareNet", "steps=1", "frames=2", "noise=0", "flip=0", "other_perturbations=[noise]"]
QUICK += [f"batch_size={BATCH}"]


def many_photos(folder: Path, number: int) -> Path:
    """Return the folder, with photos of noise."""
    home = workplace(folder, 0)
    pixels = np.random.default_rng(0).integers(0, 256, (number, 32, 32, 3), np.uint8)
    for i, photo in enumerate(pixels):
        Image.fromarray(photo).save(home / "photos" / f"p{i:04}.png", compress_level=1)
    return home


def _measured(file: str, main):
    """Write peak memory (MiB), how many functions each batch called, and how often each file was opened."""
    from mpx.runs.coordinator import RunCoordinator

    ends: list[int] = []  # calls at the end of each row
    opened: Counter[str] = Counter()
    add_row = RunCoordinator.add_row
    calls = 0

    def called(*_):
        nonlocal calls
        calls += 1

    def counted(*arguments):
        add_row(*arguments)
        ends.append(calls)

    def hook(event, arguments):
        if event == "open" and isinstance(arguments[0], str) and arguments[0].endswith((".png", ".npz")):
            opened[Path(arguments[0]).name] += 1

    RunCoordinator.add_row = counted
    sys.addaudithook(hook)
    sys.setprofile(called)
    try:
        main()
    finally:
        sys.setprofile(None)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        Path(file).write_text(json.dumps([peak, np.diff(ends[BATCH - 1 :: BATCH]).tolist(), opened]))


def measured(home: Path, *arguments: str) -> tuple[float, np.ndarray, dict[str, int]]:
    done(home, *QUICK, *arguments, inside=partial(_measured, "measured.json"))
    peak, calls, opened = json.loads((home / "measured.json").read_text())
    return peak, np.array(calls), opened
