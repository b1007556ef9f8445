"""Laws of the files: whole or not at all, no formula, no NaN, a table that fits."""

import csv
import io
import json
import math
import os

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_explanation import set_values

from mpx.runs import files, store, summaries, tables, terminal
from mpx.tasks.classification import CLASSIFICATION


def test_a_crash_between_write_and_rename_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    files.write_file(path, "old")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    for target in (path, tmp_path / "new.csv"):
        with pytest.raises(KeyboardInterrupt):
            files.write_file(target, "n" * 100_000)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_what_is_renamed_is_on_the_disk(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(("fsync", os.fstat(fd).st_size)))
    monkeypatch.setattr(os, "replace", lambda a, b: done.append(("replace", a.parent == b.parent)))
    files.write_file(tmp_path / "a", b"four")
    assert done == [("fsync", 4), ("replace", True)]


def test_a_mask_says_that_the_row_is_complete(tmp_path, explanation, monkeypatch):
    e = explanation()
    written = []
    real = store.write_file
    monkeypatch.setattr(store, "write_file", lambda path, data: (written.append(path.parent.name), real(path, data)))
    store.save_row(tmp_path, e, 1)
    assert written[-1] == "masks" and sorted(written) == ["evolution", "masks", "panels"]
    assert Image.open(tmp_path / "panels/cat-2-tabby.png").format == "PNG"
    assert Image.open(tmp_path / "evolution/cat-2-tabby.webp").n_frames == 6
    with np.load(tmp_path / "masks/cat-2-tabby.npz", allow_pickle=False) as z:
        assert np.array_equal(z["parameter"], e.parameter[1, 0].numpy()) and z["parameter"].dtype == np.float32
        assert np.array_equal(z["saliency"], e.saliency[1, 0].half().numpy())
        assert [str(z[k]) for k in ("name", "image", "class", "game")] == ["cat-2-tabby", "cat", "tabby cat", "deletion"]
        assert int(z["target"]) == 2
        assert Image.open(io.BytesIO(z["photo"].tobytes())).size == (56, 40)
        assert float(z["value_before"]) == pytest.approx(0.9) and float(z["value_reference"]) == pytest.approx(0.1)


def test_table_rows(explanation):
    e = explanation()
    e.value_before[1] = e.value_reference[1]
    set_values(e, 0.2)
    first, second = tables.table_rows(e)
    assert tuple(first) == tables.RESULT_COLUMNS
    assert first["value_normalised"] == pytest.approx((0.2 - 0.1) / (0.9 - 0.1)) and math.isnan(second["value_normalised"])
    assert (first["image"], first["target"], first["class"], first["mask"]) == ("cup", 1, "mug", "masks/cup-1-mug.npz")
    assert first["seconds"] == 1.5 and first["area"] == pytest.approx(float(e.area[0]))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "＝1", '=HYPERLINK("http://x","y")'])
def test_no_cell_is_a_formula(tmp_path, text):
    tables.write_csv(tmp_path / "a.csv", [{"image": text, "p": -0.25}], ("image", "p"))
    tables.write_skipped(tmp_path / "b.csv", [(text, text)])
    for name in ("a.csv", "b.csv"):
        with open(tmp_path / name, newline="") as file:
            _, row = csv.reader(file)
        assert row[0] == "'" + text
        assert row[1] == ("-0.25" if name == "a.csv" else "'" + text)


def test_csv_written_at_once_or_line_by_line(tmp_path):
    rows = [{"a": 1}, {"a": 2, "b": "x,\ny \udcff"}]
    tables.write_csv(tmp_path / "a.csv", rows, ("a", "b"))
    for row in rows:
        tables.append_csv(tmp_path / "b.csv", [row], ("a", "b"))
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{"a": "1", "b": ""}, {"a": "2", "b": "x,\ny \\udcff"}]
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    tables.write_csv(tmp_path / "none.csv", [])
    assert (tmp_path / "none.csv").read_text().strip() == ",".join(tables.RESULT_COLUMNS)


def test_json_knows_no_nan(tmp_path):
    values = {"a": [math.nan, 1.0, {"b": math.inf}], "c": np.float32("nan"), "d": torch.tensor([1.0, -math.inf])}
    values |= {"e": None, 3: tmp_path}
    files.write_json(tmp_path / "a.json", values)

    def reject(constant):
        raise ValueError(constant)

    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=reject)
    assert read == {"a": [None, 1.0, {"b": None}], "c": None, "d": [1.0, None], "e": None, "3": str(tmp_path)}


def test_summary(tmp_path, explanation):
    rows = [
        {"image": f"p{i}", "value_normalised": x, "value_after": x, "area": 0.1}
        | {"passes": 9.0, "forwards": 0.0, "seconds": 1.0, "verdict": "falls short" if x > 0.1 else "works"}
        for i, x in enumerate((-0.7, 0.1, 0.2, 0.9, math.nan))  # below its scale: 0
    ]
    summary = summaries.summarise_rows(rows, 1, 2, {"value_normalised": "how"})
    p = summary["value_normalised"]
    assert (summary["n"], summary["n_skipped"], summary["n_missing"], p["n"]) == (5, 1, 2, 4)
    assert p["mean"] == pytest.approx(0.3) and p["median"] == pytest.approx(0.15)
    low, high = p["interval95"]
    assert 0 <= low < p["mean"] < high <= 0.9
    assert summary == summaries.summarise_rows(rows, 1, 2, summary["protocol"])
    assert {"python", "torch", "torchvision", "pytorch_lightning", "mpx"} == set(summary["versions"])
    assert summary["verdicts"] == {"works": 3, "falls short": 2}
    files.write_json(tmp_path / "a.json", summaries.summarise_rows([], 0, 0, {}))


@pytest.mark.parametrize("names", [["cup"], ["x" * 300, "日本語" * 60, "e\u0301" * 90, "ok"], ["\x1b[31mred\nline\r", ""]])
def test_the_table_fits_the_terminal_and_is_aligned(names):
    numbers = {"requested_area": "", "value_before": 0.987, "value_after": math.nan, "area": 0.5, "seconds": 1234.56}
    numbers["verdict"] = "only under its own perturbation"
    lines = terminal.format_rows([{"image": n, "class": n[::-1], **numbers} for n in names], CLASSIFICATION).split("\n")
    assert len(lines) == 1 + len(names)
    assert all(terminal.cell_width(line) <= 100 and line.isprintable() for line in lines)
    starts = [line.index(verdict) for line, verdict in zip(lines, ["verdict", *[numbers["verdict"]] * len(names)])]
    assert len({terminal.cell_width(line[:start]) for line, start in zip(lines, starts)}) == 1  # the last is not padded
    assert terminal.format_rows([], CLASSIFICATION).split()[0] == "image"


def test_terminal_cells_of_wide_and_combining_characters():
    assert [terminal.cell_width(text) for text in ("cup", "日本", "e\u0301", "")] == [3, 4, 1, 0]


def test_a_short_neighbour_leaves_its_room():
    numbers = {"requested_area": "", "value_before": 0.5, "value_after": 0.5, "area": 0.5, "seconds": 1.0, "verdict": ""}
    row = {"image": "x", "class": "c" * 60, **numbers}
    assert "c" * 54 in terminal.format_rows([row], CLASSIFICATION)
