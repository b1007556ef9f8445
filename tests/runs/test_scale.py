"""A large run costs what its rows cost: neither memory nor the work for a row grows with it."""

import gc
import json
import resource
import sys
import weakref
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import PLAIN, done, summary, workplace
from PIL import Image
from planted import SquareNet, square_photo

from mpx import Classifier, config, config_plan
from mpx.learning.batch import RowBatch
from mpx.learning.fitting import fit
from mpx.learning.objective import Objective
from mpx.runs.launch import single_device

MANY, FEW, BATCH = 160, 16, 8
QUICK = [a for a in PLAIN if not a.startswith(("model.network", "noise", "flip"))]
QUICK += [
    "model.network=net.py:SquareNet",
    "steps=1",
    "frames=2",
    "noise=0",
    "flip=0",
    "other_perturbations=[noise]",
    f"batch_size={BATCH}",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with many photos."""
    home = workplace(tmp_path_factory.mktemp("scale"), 0)
    pixels = np.random.default_rng(0).integers(0, 256, (MANY, 32, 32, 3), np.uint8)
    for i, photo in enumerate(pixels):
        Image.fromarray(photo).save(home / "photos" / f"p{i:04}.png", compress_level=1)
    return home


def _measured(file: str, main):
    """Writes peak memory (MiB), how many functions each batch called, and how often each file was opened."""
    from mpx.runs.coordinator import RunCoordinator

    ends, opened, found, calls = [], Counter(), RunCoordinator.add_row, 0

    def called(*_):
        nonlocal calls
        calls += 1

    def counted(*given):
        found(*given)
        ends.append(calls)

    def hook(event, given):
        if event == "open" and isinstance(given[0], str) and given[0].endswith((".png", ".npz")):
            opened[Path(given[0]).name] += 1

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


def test_ten_times_the_rows_take_no_more_memory_and_no_more_for_each(home):
    small, _, _ = measured(home, f"limit={FEW}", "name=few")
    large, calls, opened = measured(home, "name=many")
    assert summary(home / "outputs" / "many")["n"] == MANY
    assert large < 1.1 * small
    first, *_, last = np.array_split(calls, 4)  # not seconds, which neighbours lengthen
    assert np.median(last) < 1.01 * np.median(first)
    photos = {name: count for name, count in opened.items() if name.startswith("p") and name.endswith(".png")}
    assert len(photos) == MANY and set(photos.values()) == {1}


def test_a_run_that_goes_on_reads_each_row_once_and_no_photo_again(home):
    done(home, *QUICK, f"limit={FEW}", "name=few")
    _, _, opened = measured(home, f"limit={FEW + 16}", "name=few")
    new = {f"p{i:04}" for i in range(FEW, FEW + 16)}
    assert {Path(name).stem for name in opened if name.endswith(".png")} == new
    rows = {name: count for name, count in opened.items() if name.endswith(".npz") and name.split("-")[0] not in new}
    assert len(rows) == FEW and set(rows.values()) == {1}


@pytest.mark.parametrize("more", [["perturbation.sigma=3"], ["perturbation=noise", "scheduler=cosine", "game=dual"]])
def test_a_batch_is_gone_when_it_is_done_and_not_when_the_collector_comes(more):
    """Else its tensors fill a GPU: what is old is collected once in a hundred batches."""
    cfg = config.compose("steps=12", "mask_size=8", "jitter=1", *more)
    method, make_trainer, net = config.build_method(cfg), config_plan.build_trainer(cfg), SquareNet()

    def solved():
        problem = Objective(method, classifier, square_photo(net)[None], torch.tensor([1]), ["photo"])
        batch = RowBatch(problem)
        fit(batch, make_trainer(**single_device(torch.device("cpu"))))
        return [weakref.ref(x) for x in (problem, batch, problem.images, batch.rows[0].snapshots[0])]

    gc.collect()
    gc.disable()
    try:
        with Classifier(net).frozen() as classifier:
            assert [ref() for ref in solved()] == [None] * 4
    finally:
        gc.enable()
