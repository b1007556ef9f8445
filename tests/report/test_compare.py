"""Runs beside each other: the numbers of their folders, paired row by row, and what cannot be compared is refused."""

import csv
import math

import pytest
from PIL import Image

from mpx.report import compare
from mpx.report.run_folder import read_run
from mpx.runs import files, summaries, tables

LESS = {"value": 0.3, "interval95": [0.2, 0.4], "n": 12, "better": "lower", "metric": "deletion"}


def run(folder, shift=0.0, metrics=None, images=12, **more):
    """A finished run's folder, whose deletion is a ramp plus `shift`."""
    rows = [
        dict.fromkeys(tables.RESULT_COLUMNS, "x")
        | {"image": f"a{i}", "target": 1, "requested_area": "", "value_normalised": 0.1 * i, "area": 0.2, "passes": 150.0}
        | {"forwards": 3.0, "seconds": 1.0, "value_after": 0.1}
        | {"deletion": 0.01 * i + shift + more.get("noise", 0) * (-1) ** i}
        for i in range(images)
    ]
    tables.write_csv(folder / "results.csv", rows, tables.result_columns(rows))
    summary = summaries.summarise_rows(rows, 0, 0, {"command": "mpx"})
    value = sum(row["deletion"] for row in rows) / images
    summary["metrics"] = {"deletion": LESS | {"value": value, "interval95": [value - 0.1, value + 0.1]} | (metrics or {})}
    summary["metric_protocols"] = {"deletion": {"steps": more.get("steps", 224)}}
    files.write_json(folder / "summary.json", summary)
    return folder


def lines(out):
    with open(out / "table.csv", newline="") as file:
        return {(line["run"], line["metric"]): line for line in csv.DictReader(file)}


def test_values_differences_and_files(tmp_path):
    folders = [run(tmp_path / "first"), run(tmp_path / "worse", 0.1), run(tmp_path / "other", noise=0.01)]
    text = compare.write_comparison(folders, tmp_path / "out")
    table = lines(tmp_path / "out")
    line = table["worse", "deletion"]
    assert float(line["difference"]) == pytest.approx(0.1) and line["pairs"] == "12" and float(line["p_value"]) < 0.01
    assert float(table["other", "deletion"]["p_value"]) > 0.05  # as often better as worse
    assert table["first", "deletion"]["p_value"] == "nan"
    head, _, first, worse, other = text.splitlines()[:5]
    assert "deletion ↓" in head and "**0.055**" in first and "0.155 [0.055, 0.255]*" in worse and "]*" not in other
    assert "12" in text and Image.open(tmp_path / "out" / "cost.png").width > 300
    page = (tmp_path / "out" / "report.html").read_text()  # one page of all runs
    assert all(f'<th scope="row">{folder.name}</th>' in page for folder in folders)
    tex = (tmp_path / "out" / "table.tex").read_text()
    assert r"\textbf{0.055}" in tex and r"value\_normalised" in tex and tex.count(r"\\") == 4


def test_a_metric_without_direction_has_no_best_value(tmp_path):
    folders = [run(tmp_path / "a", metrics={"better": "none"}), run(tmp_path / "b", 0.1, metrics={"better": "none"})]
    text = compare.write_comparison(folders, tmp_path / "out")
    assert "| deletion |" in text.splitlines()[0] and "| 0.055 [" in text and "**0.055**" not in text


def test_only_rows_that_both_have_are_paired(tmp_path):
    few, many = read_run(run(tmp_path / "few", images=5)), read_run(run(tmp_path / "many", 0.1))
    difference, pairs, _ = compare.paired_difference(many, few, "deletion")
    assert pairs == 5 and difference == pytest.approx(0.1)
    assert math.isnan(compare.paired_difference(many, few, "insertion")[0])


def test_a_note_names_protocols_that_differ(tmp_path):
    folders = [run(tmp_path / "a"), run(tmp_path / "b", steps=10)]
    assert "protocols of deletion differ" in compare.write_comparison(folders, tmp_path)
    assert "protocols" not in compare.write_comparison([folders[0], run(tmp_path / "c")], tmp_path)


@pytest.mark.parametrize("folders, words", [(["nowhere", "a"], "not the folder of a finished run"), (["a"], "at least two")])
def test_what_cannot_be_compared(tmp_path, folders, words):
    run(tmp_path / "a")
    with pytest.raises(ValueError, match=words):
        compare.write_comparison([tmp_path / folder for folder in folders], tmp_path)


def test_one_area_is_paired_with_none(tmp_path):
    """A method that is told its area, beside one that finds it."""
    runs = [read_run(run(tmp_path / "a")), read_run(run(tmp_path / "b", 0.1))]
    for row in runs[1].rows:
        row["requested_area"] = "0.1"
    assert compare.paired_difference(runs[1], runs[0], "deletion")[1] == 12


def test_near_0_is_its_own_direction(tmp_path):
    sanity = {"value": -0.4, "better": "near 0", "interval95": [-0.5, -0.3]}
    folders = [run(tmp_path / "a", metrics=sanity), run(tmp_path / "b", metrics=sanity | {"value": 0.1})]
    text = compare.write_comparison(folders, tmp_path, ["deletion"])
    assert "deletion 0" in text and "**0.100**" in text and "**-0.400**" not in text


def test_rows_of_an_image_do_not_make_it_surer(tmp_path):
    """Of 4 images, signs can be flipped in 16 ways, however many rows each has."""
    runs = []
    for name, shift in (("a", 0.0), ("b", 0.1)):
        folder = run(tmp_path / name, shift, images=4)
        rows = tables.read_csv(folder / "results.csv")
        rows = [row | {"requested_area": area} for row in rows for area in (0.05, 0.1, 0.2, 0.4)]
        tables.write_csv(folder / "results.csv", rows, tables.result_columns(rows))
        runs.append(read_run(folder))
    difference, pairs, p = compare.paired_difference(runs[1], runs[0], "deletion")
    assert difference == pytest.approx(0.1) and pairs == 16 and p == pytest.approx(2 / 16)


def test_photos_of_one_name_that_differ_are_not_paired(tmp_path):
    a, b = run(tmp_path / "a"), run(tmp_path / "b", 0.1)
    rows = tables.read_csv(b / "results.csv")
    tables.write_csv(b / "results.csv", [r | {"file_bytes": i} for i, r in enumerate(rows)], tables.result_columns(rows))
    rows = tables.read_csv(a / "results.csv")
    tables.write_csv(a / "results.csv", [r | {"file_bytes": i % 6} for i, r in enumerate(rows)], tables.result_columns(rows))
    assert compare.paired_difference(read_run(b), read_run(a), "deletion")[1] == 6
    assert "deletion: only 6 rows are both in b and in a" in compare.write_comparison([a, b], tmp_path)
