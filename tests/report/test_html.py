"""Laws of report.html: names are text whatever they hold, pieces are what was stored, jobs and rows are paired."""

import io
import json
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from finished_run import HOSTILE, save
from PIL import Image
from synthetic_explanation import set_values

from mpx.report import html
from mpx.report.html_data import read_job
from mpx.runs import store, tables


class Pieces(HTMLParser):
    """Every element's attributes, the text of all that is read, and the JSON blocks by their id."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.blocks, self.text, self.block = [], {}, "", None
        self.feed(path.read_text("utf-8"))
        rows = [name for name in self.blocks if name.startswith("rows")]
        self.blocks["page"]["rows"] = [row for name in rows for row in self.blocks.pop(name)]

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        self.block = attributes.get("id") if attributes.get("type") == "application/json" else None

    def handle_data(self, data):
        if self.block:
            self.blocks[self.block] = json.loads(data)
            self.block = None
        else:
            self.text += data


def image(base64):
    return torch.from_numpy(np.array(Image.open(io.BytesIO(b64decode(base64)))))


def test_names_are_text_whatever_they_hold(tmp_path, explanation):
    names = [f"row{k}" for k in range(len(HOSTILE))]
    e = explanation(names=names, classes=HOSTILE)
    e.image_names = HOSTILE
    folder = save(tmp_path / "<b>run", e, skipped=[(name, name) for name in HOSTILE])
    skipped = [("a", "b")] * len(HOSTILE)
    plain = Pieces(html.write_report(save(tmp_path / "plain", explanation(names=names, classes=names), skipped=skipped)))
    pieces = Pieces(html.write_report(folder))
    assert [tag for tag, _ in pieces.elements] == [tag for tag, _ in plain.elements]  # no name made an element
    assert (
        [r["class"] for r in pieces.blocks["page"]["rows"]] == [r["image"] for r in pieces.blocks["page"]["rows"]] == HOSTILE
    )
    assert all(name in pieces.text for name in [*HOSTILE, "<b>run"])
    scripts = [a for tag, a in pieces.elements if tag == "script"]
    assert all(a.get("type") == "application/json" for a in scripts if a) and scripts.count({}) == 1


def test_the_pieces_are_what_was_stored(tmp_path, explanation):
    e = explanation((64, 96), frames=6)
    smooth = torch.linspace(0.1, 0.9, 96).expand(2, 3, 64, 96)
    e.images, e.perturbed, e.complement = smooth.clone(), smooth * 0.5, 1 - smooth
    pieces = Pieces(html.write_report(save(tmp_path, e)))
    block = pieces.blocks["d1-0"]
    assert list(pieces.blocks) == ["page", "p0", "d0-0", "d1-0"]  # the numbers first, a photo that two rows show once
    for result, given in ((pieces.blocks[block["photo"]], e.images), (block["perturbed"], e.perturbed),
                         (block["complement"], e.complement)):  # fmt: skip
        assert (image(result).movedim(-1, 0) / 255 - given[1]).abs().max() < 0.03
    assert (image(block["final"]) / 255 - e.saliency[1, 0]).abs().max() < 0.03
    strip = image(block["frames"]).view(6, 40, 56) / 255
    whole = torch.nn.functional.interpolate(e.frame_evidence[:, 1].float() / 255, (40, 56), mode="area")[:, 0]
    assert (strip - whole).abs().max() < 0.05
    assert block["iterations"] == e.iterations and block["values"] == pytest.approx(e.frame_values[:, 1].tolist(), rel=1e-3)
    assert [name for name, *_ in block["answers"]["perturbed"]] == [answer.name for answer in e.answers_after[1]]
    assert "2 answers of a network, and the evidence without which each vanishes" in pieces.text
    assert list(block["curves"]) == list(e.curves) and block["at"] == list(range(30))
    assert block["curves"]["score"] == pytest.approx(e.curves["score"][:, 1].tolist(), rel=1e-3)
    page = pieces.blocks["page"]
    cell = dict(zip(page["columns"], page["rows"][1]["cells"][0]["values"]))
    assert cell["value_before"] == pytest.approx(0.9) and cell["area"] == pytest.approx(float(e.area[1]), rel=1e-4)
    assert page["aspect"] == "96 / 64" and not {*tables.FILE_COLUMNS} & {*page["columns"]}


def test_what_a_row_keeps_is_small_and_survives_being_measured_again(tmp_path, explanation):
    e = explanation((24, 400), steps=200, frames=120)
    stamp = {"row_keys": np.array(["1"]), "row_key": "1", "made_from": "{}", "file_bytes": 1, "computed_with": "x"}
    store.save_row(tmp_path, e, 0, **stamp)
    path = tmp_path / "masks/cup-1-mug.npz"
    row = store.load_row(path)
    assert Image.open(io.BytesIO(row["photo"].tobytes())).size == (320, 19)
    assert Image.open(io.BytesIO(row["frames"].tobytes())).size == (56, 100 * 8) and len(row["iterations"]) == 100
    store.replace_row(path, row | {"metrics": '{"deletion": {"": 0.5}}', "evaluated_with": "{}"})
    again = store.load_row(path)
    arrays = ("photo", "perturbed", "complement", "frames", "iterations", "frame_values")
    assert all(np.array_equal(again[k], row[k]) for k in arrays)
    assert again["metrics"] == '{"deletion": {"": 0.5}}'


def test_no_picture_is_shown_of_what_acts_inside_the_network(tmp_path, explanation):
    e = explanation()
    e.complement = None
    block = Pieces(html.write_report(save(tmp_path, e))).blocks["d0-0"]
    assert {"photo", "final", "frames"} <= block.keys() and not {"perturbed", "complement"} & block.keys()


def test_rows_without_pictures_have_their_numbers(tmp_path, explanation):
    folder = save(tmp_path, explanation(), pictures=False)
    with np.load(folder / "masks/cup-1-mug.npz") as file:
        assert "photo" not in file
    pieces = Pieces(html.write_report(folder))
    assert [row["class"] for row in pieces.blocks["page"]["rows"]] == ["mug", "tabby cat"] and list(pieces.blocks) == [
        "page"
    ]


def test_a_damaged_row_and_a_killed_run_do_not_lose_the_others(tmp_path, explanation):
    folder = save(tmp_path, explanation(game="preservation"), game="preservation")
    (folder / "summary.json").unlink()
    assert Pieces(html.write_report(folder)).blocks["page"]["jobs"][0]["game"] == "preservation"  # the rows say so
    (folder / "masks/cup-1-mug.npz").write_bytes(b"PK")
    blocks = Pieces(html.write_report(folder)).blocks
    assert "d0-0" not in blocks and "d1-0" in blocks and len(blocks["page"]["rows"]) == 2


def test_no_curves_no_nan(tmp_path, explanation):
    """An explainer has no curves, and a NaN is no number of JSON."""
    e = explanation(frames=1)
    e.curves = {}
    set_values(e, 0.2, 0.9)
    e.frame_values[:] = torch.nan
    blocks = Pieces(html.write_report(save(tmp_path, e))).blocks
    assert "curves" not in blocks["d0-0"] and blocks["d0-0"]["values"] == [None] and blocks["d0-0"]["iterations"] == [0]
    assert blocks["page"]["rows"][0]["cells"][0]["success"] is None
    assert "NaN" not in (tmp_path / "report.html").read_text().replace("isNaN", "").replace("|| NaN", "")


def test_an_explainer_plays_no_game(tmp_path, explanation):
    """Nothing was learnt: no success, no iterations and no animation."""
    for frames, is_learnt in ((2, True), (1, False)):
        e, folder = explanation(frames=frames), tmp_path / f"{frames}"
        e.verdict = ["works" if is_learnt else ""] * 2
        path = html.write_report(save(folder, e))
        assert Pieces(path).blocks["page"]["rows"][0]["cells"][0]["success"] is (True if is_learnt else None)
        for words in ("<dt>game</dt>", "<dt>works</dt>", "A mask works", '<label>show <select id="which">'):
            assert (words in path.read_text()) is is_learnt, words
        assert (folder / "evolution/cup-1-mug.webp").exists() is is_learnt and (folder / "panels/cup-1-mug.png").exists()
        with np.load(folder / "masks/cup-1-mug.npz") as file:
            assert file["iterations"].shape == file["frame_values"].shape == (frames,)


def test_the_verdict_of_each_row_is_shown_and_counted(tmp_path, explanation):
    e = explanation()
    e.verdict, e.value_normalised[1] = ["works", "falls short"], torch.nan
    page = Pieces(html.write_report(save(tmp_path / "a", e))).blocks["page"]
    cells = [row["cells"][0] for row in page["rows"]]
    assert [(cell["verdict"], cell["success"]) for cell in cells] == [("works", True), ("falls short", False)]
    assert {cell["verdict"] for cell in cells} <= page["meanings"].keys()
    job = read_job(tmp_path / "a", "a")
    job.summary = {"area": {"mean": 0.5, "interval95": None, "n": 1}}
    assert job.headline("value_normalised") == {
        "rows": "2", "game": "deletion", "works": "1 of 2 rows", "falls short": "1 of 2 rows",
        "area": "0.500 of 1 of 2 rows",
    }  # fmt: skip


def test_a_sweep_pairs_its_jobs(tmp_path, explanation):
    first, second = explanation(), explanation(names=("cat-2-tabby", "dog-3-pug"), classes=("tabby cat", "pug"))
    second.targets = torch.tensor([2, 3])
    second.images[0] = first.images[1]
    second.areas[:] = 0.1  # asked: one in each row, so it is what differs, not which row it is
    save(tmp_path / "a=1,b=x", first)
    save(tmp_path / "a=2,b=x", second, skipped=[("cup", "no <b>cup")])
    (tmp_path / "a=3,b=x").mkdir()
    (tmp_path / "a=3,b=x" / "failed.txt").write_text("a=3 is <i>too many</i>\n")
    jobs = ["a=1,b=x", "a=2,b=x", "a=3,b=x", "a=4,b=x"]
    pieces = Pieces(html.write_sweep_report(tmp_path, jobs))
    page = pieces.blocks["page"]
    assert [job["name"] for job in page["jobs"]] == jobs
    assert [job["fault"] for job in page["jobs"]] == [None, None, "a=3 is <i>too many</i>", "no results.csv"]
    cells = {row["image"]: [cell and (cell.get("name") or cell["reason"]) for cell in row["cells"]] for row in page["rows"]}
    assert cells == {
        "cup": ["cup-1-mug", "skipped: no <b>cup", None, None],
        "cat": ["cat-2-tabby", "cat-2-tabby", None, None],
        "dog": [None, "dog-3-pug", None, None],
    }
    assert pieces.blocks["d1-0"]["photo"] == pieces.blocks["d1-1"]["photo"] != pieces.blocks["d0-0"]["photo"]
    assert "a=3 is <i>too many</i>" in pieces.text and "i" not in [tag for tag, _ in pieces.elements]


def test_several_areas_of_a_job_are_rows_of_their_own(tmp_path, explanation):
    e = explanation(names=("cup-1-mug-area-0.1", "cup-1-mug-area-0.2"))
    e.targets, e.areas = torch.ones(2, dtype=torch.long), torch.tensor([0.1, 0.2])
    for name in "ab":
        save(tmp_path / name, e)
    rows = Pieces(html.write_sweep_report(tmp_path, [tmp_path / "a", "b"])).blocks["page"]["rows"]
    assert [(row["requested_area"], [c["name"][-3:] for c in row["cells"]]) for row in rows] == [
        (0.1, ["0.1"] * 2),
        (0.2, ["0.2"] * 2),
    ]


def test_a_report_is_complete_or_absent(tmp_path, explanation, monkeypatch):
    with pytest.raises(ValueError, match="not the folder of a run: no results.csv"):
        html.write_report(tmp_path)
    folder = save(tmp_path, explanation())
    monkeypatch.setattr(html, "picture_blocks", lambda *_: (1 / 0 for _ in "x"))
    with pytest.raises(ZeroDivisionError):
        html.write_report(folder)
    assert not [p for p in folder.iterdir() if "report" in p.name]
