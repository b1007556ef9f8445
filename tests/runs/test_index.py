"""A run that reads the index of its rows knows what it would know from the rows themselves, whatever happened to either."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_explanation import make_explanation

from mpx.data.items import Item
from mpx.runs import coordinator, index, store, tables
from mpx.runs.coordinator import RunCoordinator
from mpx.runs.curve_means import CurveMeans

ROWS, BLOCK = 7, 3  # two full blocks, and one row that was stored since
ITEMS = [Item(Path(f"photos/p{k:02}.png"), name=f"p{k:02}") for k in range(ROWS)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(index, "BLOCK", BLOCK)
    monkeypatch.setattr(os, "fsync", lambda _: None)


def store_row(folder: Path, k: int, value: float = 0.2, pictures: bool = False) -> tuple[dict, dict]:
    """Write the files of the row of image k; return what a worker tells the coordinator of it."""
    e = make_explanation((8, 8), names=[f"p{k:02}-1-mug"], classes=["mug, \udcff\n"], steps=3, frames=2)
    e.curves = {term: torch.rand(3, 1, generator=torch.Generator().manual_seed(k)) for term in ("total", "area")}
    e.value_after[:] = value
    entries = {"row_keys": np.array(["1"]), "row_key": "1", "made_from": "{}", "file_bytes": 7, "computed_with": "here",
               "path": f"photos/p{k:02}.png", "metrics": f'{{"m": {{"": {value}}}}}', "evaluated_with": "{}",
               "pictures": pictures}  # fmt: skip
    store.save_row(folder, e, 0, **entries)
    means = CurveMeans()
    means.add(e.curves)
    return tables.row_values(e, 0) | entries, means.sums


@pytest.fixture
def folder(tmp_path):
    """The folder of a run that was killed after its last row."""
    run = RunCoordinator(tmp_path, ITEMS)
    run.start(1)
    for k in range(ROWS):
        run.add_row(*store_row(tmp_path, k, pictures=k == 2), None)
    return tmp_path


def known(folder: Path, monkeypatch, items=ITEMS) -> tuple[tuple, int]:
    """What a coordinator knows of the rows on disk, and how many it read in full."""
    read = Counter()
    load = store.load_row
    monkeypatch.setattr(store, "load_row", lambda path, *more: (read.update([path]), load(path, *more))[1])
    run = RunCoordinator(folder, items)
    monkeypatch.setattr(store, "load_row", load)
    lines = [{key: repr(value) for key, value in line.items()} for line in run.table()]
    means = {term: values.numpy().round(9).tolist() for term, values in run.means.means().items()}
    return (lines, means, list(run.remaining), run.computed_with, run.stale_rows(lambda _: "{}")), read.total()


def check_equals_rows(folder: Path, monkeypatch, items=ITEMS) -> int:
    """Check that the index changes nothing of what is known, now and later; return how many rows were read in full."""
    first, read = known(folder, monkeypatch, items)
    second, _ = known(folder, monkeypatch, items)
    (folder / coordinator.INDEX).unlink(missing_ok=True)
    assert first == second == known(folder, monkeypatch, items)[0]
    return read


def test_rows_are_read_once(folder, monkeypatch):
    assert known(folder, monkeypatch)[1] == ROWS % BLOCK  # those since the last block
    assert known(folder, monkeypatch)[1] == 0
    assert check_equals_rows(folder, monkeypatch) == 0


def _without_bits(file: Path, random: np.random.Generator) -> None:
    data = bytearray(file.read_bytes())
    for bit in random.integers(8 * len(data), size=3).tolist():
        data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def _shuffled(file: Path, random: np.random.Generator) -> None:
    lines = file.read_bytes().splitlines(True)
    file.write_bytes(b"".join(lines[k] for k in random.permutation(len(lines))))


def _without_lines(file: Path, random: np.random.Generator) -> None:
    file.write_bytes(b"".join(line for line in file.read_bytes().splitlines(True) if random.random() < 0.8))


INDEX_DAMAGES = {
    "cut": lambda file, random: os.truncate(file, random.integers(file.stat().st_size)),
    "bits": _without_bits,
    "shuffled": _shuffled,
    "lines gone": _without_lines,
    "twice": lambda file, _: file.write_bytes(2 * file.read_bytes()),
    "garbage": lambda file, _: file.write_bytes(b'00000000 {"block": 0, "sums": {}}\n\xff\n\n{'),
    "gone": lambda file, _: file.unlink(),
    "older": lambda file, _: None,
}
ROW_CHANGES = {
    "gone": lambda folder, k: (folder / f"masks/p{k:02}-1-mug.npz").unlink(),
    "cut": lambda folder, k: os.truncate(folder / f"masks/p{k:02}-1-mug.npz", 900),
    "another": lambda folder, k: store_row(folder, k, 0.3),
    "touched": lambda folder, k: (folder / f"masks/p{k:02}-1-mug.npz").touch(),
    "without panel": lambda folder, _: (folder / "panels/p02-1-mug.png").unlink(missing_ok=True),
}


@pytest.mark.parametrize("damage", INDEX_DAMAGES)
def test_a_damaged_or_old_index_changes_nothing(folder, monkeypatch, damage):
    random = np.random.default_rng(len(damage))
    for k, change in zip(random.permutation(ROWS).tolist(), (None, *ROW_CHANGES)):
        known(folder, monkeypatch)
        if change:
            ROW_CHANGES[change](folder, k)
        INDEX_DAMAGES[damage](folder / coordinator.INDEX, random)
        items = ITEMS[: random.integers(1, ROWS + 1)] if change else ITEMS  # limit= may change too
        check_equals_rows(folder, monkeypatch, items)


def test_rows_that_are_evaluated_again_are_known_by_their_new_numbers(folder, monkeypatch):
    run = RunCoordinator(folder, ITEMS)
    for k in (1, 5):
        path = folder / f"masks/p{k:02}-1-mug.npz"
        row = store.load_row(path) | {"metrics": '{"m": {"": 0.75}}', "evaluated_with": '{"m": 1}'}
        store.replace_row(path, row)
        run.update_rows([row])
    run.close()
    (lines, *_, stale), read = known(folder, monkeypatch)
    assert [line["m"] for line in lines].count("0.75") == 2 and stale == [lines[k]["mask"][1:-1] for k in (1, 5)]
    assert read == 2 * (BLOCK - 1)  # the others of their blocks
    check_equals_rows(folder, monkeypatch)


def test_shares_read_each_others_rows(folder, monkeypatch):
    known(folder, monkeypatch)
    os.unlink(folder / "masks/p03-1-mug.npz")
    share = RunCoordinator(folder, ITEMS, 1, 2)
    assert list(share.remaining) == [3]
    share.start(1)
    share.add_row(*store_row(folder, 3), None)
    share.close()
    check_equals_rows(folder, monkeypatch)
