"""Boxes in a file beside the images."""

import json
import pickle
import re

import pytest

from mpx.data import datasets
from mpx.data.annotations import Region

CSV = "image,label,x0,y0,x1,y1\n"


def given(tmp_path, text, name="boxes.csv"):
    for image in ("a/1.png", "b/2.png"):
        (tmp_path / image).parent.mkdir(exist_ok=True)
        (tmp_path / image).write_bytes(b"broken")
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_csv_with_each_kind_of_dataset(tmp_path):
    file = given(tmp_path, CSV + "a/1.png,cat,0,1,5,6\na/1.png, dog,2,2,3.5,4\na/1.png,cat,7,7,9,9\nc.png,cat,0,0,1,1\n")
    regions = {"cat": Region(((0, 1, 5, 6), (7, 7, 9, 9))), "dog": Region(((2, 2, 3.5, 4),))}
    by_folder = datasets.folder(tmp_path, file)
    assert [(item.label, item.regions) for item in by_folder] == [("a", regions), ("b", {})]
    by_images = datasets.images(f"{tmp_path}/*/*.png", file)
    assert [(item.label, item.regions) for item in by_images] == [(("cat", "dog"), regions), (None, {})]
    (tmp_path / "a/t.csv").write_text("image,label\n1.png,cat\n")
    (item,) = datasets.table(tmp_path / "a/t.csv", boxes=file)
    assert item.label == "cat" and item.regions == regions
    assert pickle.loads(pickle.dumps(item)) == item and hash(item) == hash(pickle.loads(pickle.dumps(item)))


def test_cells_written_by_spreadsheets_and_pandas(tmp_path):
    file = given(tmp_path, CSV + "a/1.png ,1.0,0,1,5,6\nb/2.png, 2.50 ,0,1,5,6\n")
    assert [item.label for item in datasets.images(f"{tmp_path}/*/*.png", file)] == ["1", "2.50"]


def test_json(tmp_path):
    text = json.dumps([{"file": "b/2.png", "label": 7, "boxes": [[1, 2, 3, 4]], "name": "unread"}])
    for mark in ("", "\ufeff"):  # as some editors on Windows save it
        items = datasets.images(f"{tmp_path}/*/*.png", given(tmp_path, mark + text, "boxes.json"))
        assert [(item.label, item.regions) for item in items] == [(None, {}), (7, {7: Region(((1, 2, 3, 4),))})]


def test_without_a_file_nothing_changes(tmp_path):
    given(tmp_path, "")
    assert all(item.regions == {} and item.label is None for item in datasets.images(f"{tmp_path}/*/*.png"))


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("b.csv", "image,label,x,y\n", "no column 'x0': it must have image,label,x0,y0,x1,y1"),
        ("b.csv", CSV.replace(",", ";"), "no column 'image': .* columns are 'image;label;x0;y0;x1;y1'"),
        ("b.csv", CSV, "holds no box"),
        ("b.csv", CSV + "a/1.png,cat,0,0,1\n", "line 2 of"),
        ("b.csv", CSV + "\na/1.png,cat,5,0,5,1\n", "line 3 of"),
        ("b.csv", CSV + "a/1.png,cat,0,0,1,nan\n", "y1 beyond y0"),
        ("b.csv", CSV + "a/1.png,,0,0,1,1\n", "has no label"),
        ("b.csv", CSV + ",cat,0,0,1,1\n", "has no image"),
        ("b.csv", CSV + "1.png,cat,0,0,1,1\n", "none for these 2 images"),
        ("b.json", "{", "is no JSON"),
        ("b.json", "{}", "holds a dict"),
        ("b.json", '[{"file": "a", "label": 1}]', "entry 0 of .* has no 'boxes'"),
        ("b.json", '[{"file": "a", "label": null, "boxes": []}]', "label None"),
        ("b.json", '[{"file": 5, "label": 1, "boxes": []}]', "entry 0 of .*: file 5 must be a path"),
        ("b.json", '[{"file": "a", "label": 1, "boxes": null}]', "entry 0 of .*: boxes None must be a list"),
        ("b.json", '[{"file": "a", "label": 1, "boxes": [[0, 0, 1]]}]', re.escape("[0, 0, 1] is no box")),
    ],
)
def test_unusable_files_are_refused(tmp_path, name, text, words):
    file = given(tmp_path, text, name)
    with pytest.raises(ValueError, match=words) as error:
        datasets.images(f"{tmp_path}/*/*.png", file)
    assert "\n" not in str(error.value)


def test_no_file(tmp_path):
    given(tmp_path, "")
    with pytest.raises(ValueError, match="is no file: give a CSV"):
        datasets.images(f"{tmp_path}/*/*.png", tmp_path / "bxs.csv")
