"""Laws of report.html: names are text whatever they hold, pieces are what was stored, nothing is fetched, sliders move."""

import io
import json
import shutil
import time
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mpx.pictures.colours import overlay
from mpx.pictures.text import format_probability
from mpx.report import html
from mpx.runs import files, store, summaries, tables

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"'&amp;<!--",
    "Größe 日本 \u202e\u2028",
    "=1+1",
]


def save(folder, e, game="deletion", skipped=(), **more):
    """A finished run's folder."""
    for i in range(len(e.names)):
        store.save_row(folder, e, i, **more)
    rows = tables.table_rows(e)
    tables.write_csv(folder / "results.csv", rows, tables.result_columns(rows))
    tables.write_skipped(folder / "skipped.csv", list(skipped))
    files.write_json(folder / "summary.json", summaries.summarize_rows(rows, 0, 0, {"command": "mpx a=1", "game": game}))
    return folder


class Pieces(HTMLParser):
    """Every element's attributes, the text of all that is read, and the JSON blocks by their id."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.blocks, self.text, self.block = [], {}, "", None
        self.feed(path.read_text("utf-8"))

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
    plain = Pieces(
        html.write_report(save(tmp_path / "plain", explanation(names=names, classes=names), skipped=[("a", "b")] * 5))
    )
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
    for found, given in ((pieces.blocks[block["photo"]], e.images), (block["perturbed"], e.perturbed),
                         (block["complement"], e.complement)):  # fmt: skip
        assert (image(found).movedim(-1, 0) / 255 - given[1]).abs().max() < 0.03
    assert (image(block["final"]) / 255 - e.saliency[1, 0]).abs().max() < 0.03
    strip = image(block["frames"]).view(6, 40, 56) / 255
    whole = torch.nn.functional.interpolate(e.frame_saliency[:, 1].float() / 255, (40, 56), mode="area")[:, 0]
    assert (strip - whole).abs().max() < 0.05
    assert block["iterations"] == e.iterations and block["p"] == pytest.approx(e.frame_p[:, 1].tolist(), rel=1e-3)
    assert list(block["curves"]) == list(e.curves) and block["at"] == list(range(30))
    assert block["curves"]["score"] == pytest.approx(e.curves["score"][:, 1].tolist(), rel=1e-3)
    page = pieces.blocks["page"]
    cell = dict(zip(page["columns"], page["rows"][1]["cells"][0]["values"]))
    assert cell["p_before"] == pytest.approx(0.9) and cell["area"] == pytest.approx(float(e.area[1]), rel=1e-4)
    assert page["aspect"] == "96 / 64" and not {*tables.FILE_COLUMNS} & {*page["columns"]}


def test_what_a_row_keeps_is_small_and_survives_being_measured_again(tmp_path, explanation):
    e = explanation((24, 400), steps=200, frames=120)
    stamp = {"row_keys": np.array(["1"]), "row_key": "1", "label": "", "file_bytes": 1, "computed_with": "x"}
    store.save_row(tmp_path, e, 0, **stamp)
    path = tmp_path / "masks/cup-1-mug.npz"
    row = store.load_row(path)
    assert Image.open(io.BytesIO(row["photo"].tobytes())).size == (320, 19)
    assert Image.open(io.BytesIO(row["frames"].tobytes())).size == (56, 100 * 8) and len(row["iterations"]) == 100
    store.replace_row(path, row | {"metrics": '{"deletion": {"": 0.5}}', "measured_with": "me"})
    again = store.load_row(path)
    assert all(
        np.array_equal(again[k], row[k]) for k in ("photo", "perturbed", "complement", "frames", "iterations", "frame_p")
    )
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
    e.curves, e.p_reference = {}, e.p_before.clone()
    e.frame_p[:] = torch.nan
    blocks = Pieces(html.write_report(save(tmp_path, e))).blocks
    assert "curves" not in blocks["d0-0"] and blocks["d0-0"]["p"] == [None]
    assert blocks["page"]["rows"][0]["cells"][0]["success"] is None
    assert "NaN" not in (tmp_path / "report.html").read_text().replace("isNaN", "").replace("|| NaN", "")


def test_what_works(tmp_path, explanation):
    cases = ("deletion", 0.05, True), ("deletion", 0.5, False), ("dual", 0.05, True)
    for game, p, works in (*cases, ("preservation", 0.05, False), ("preservation", 0.88, True)):
        e = explanation(game=game)
        e.p_after, e.p_reference = torch.full((2,), p), torch.zeros(2)
        page = Pieces(html.write_report(save(tmp_path / f"{game}{p}", e, game))).blocks["page"]
        assert page["rows"][0]["cells"][0]["success"] is works, (game, p)


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


def test_a_report_is_whole_or_not_there(tmp_path, explanation, monkeypatch):
    with pytest.raises(ValueError, match="not the folder of a run: no results.csv"):
        html.write_report(tmp_path)
    folder = save(tmp_path, explanation())
    monkeypatch.setattr(html, "picture_blocks", lambda *_: (1 / 0 for _ in "x"))
    with pytest.raises(ZeroDivisionError):
        html.write_report(folder)
    assert not [p for p in folder.iterdir() if "report" in p.name]


# ---- in a browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PIXELS = """id => { const c = document.querySelector(id), scratch = new OffscreenCanvas(c.width, c.height).getContext("2d",
{willReadFrequently: true}); scratch.drawImage(c, 0, 0); return [...scratch.getImageData(0, 0, c.width, c.height).data] }"""
MOVE = "([id, value]) => { const s = document.getElementById(id); s.value = value; s.dispatchEvent(new Event('input')) }"
NAMES = "() => [...document.querySelectorAll('.card .name .faint')].map(e => e.textContent)"
FIRST = "() => performance.getEntriesByName('first picture')[0]?.startTime"


def wait(page, script, seconds=30):
    """Until it is true. Playwright's own waiting evaluates text in the page, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(script):
        assert time.monotonic() < end, script
        page.wait_for_timeout(20)


@pytest.fixture
def browse():
    """browse(file) -> a page of headless Chromium that shows it; at the end nothing was fetched and nothing went wrong."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no Chromium here")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        faults, fetched, files = [], [], []

        def show(path: Path, hash: str = "", until: str = "load"):
            page = browser.new_page()
            page.on("console", lambda message: faults.append(message.text))
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("dialog", lambda dialog: (faults.append("alert"), dialog.dismiss()))
            page.on("request", lambda request: fetched.append(request.url.split("#")[0]))
            files.append(path.as_uri())
            page.goto(path.as_uri() + hash, wait_until=until)
            wait(page, FIRST)
            return page

        yield show
        browser.close()
    assert not faults and [url for url in fetched if not url.startswith("data:image/jpeg;")] == files


@pytest.mark.slow
def test_sliders_and_views(tmp_path, explanation, browse):
    e = explanation((64, 96))
    smooth = torch.linspace(0.1, 0.9, 96)
    e.images = torch.stack([smooth, smooth.flip(0), smooth * 0.5]).view(1, 3, 1, 96).repeat(2, 1, 64, 1)
    page = browse(html.write_report(save(tmp_path, e)), "#cat-2-tabby")
    page.wait_for_selector("#views canvas")
    assert page.inner_text("#class") == "tabby cat"
    picture = torch.tensor(page.evaluate(PIXELS, "#views canvas")).view(64, 96, 4)[..., :3].movedim(-1, 0) / 255
    assert (picture - overlay(e.images[1], e.saliency[1])).abs().mean() < 0.01  # as mpx.pictures.panels has it
    captions = page.eval_on_selector_all("figcaption", "all => all.map(e => e.textContent.replaceAll('\u00a0', ' '))")
    assert captions[0] == "photo · p 0.900" and captions[1].endswith("p " + format_probability(float(e.frame_p[-1, 1])))
    assert captions[2:] == ["evidence deleted, in the end · p 0.200", "evidence kept, in the end"]
    page.evaluate(MOVE, ["iteration", 2])
    moved = torch.tensor(page.evaluate(PIXELS, "#views canvas")).view(64, 96, 4)[..., :3].movedim(-1, 0) / 255
    assert (moved - overlay(e.images[1], e.frame_saliency[2, 1] / 255)).abs().mean() < 0.01 < (moved - picture).abs().mean()
    assert page.inner_text("#iterated") == f"{e.iterations[2]} of 30"
    assert format_probability(float(e.frame_p[2, 1])) in page.inner_text("figure:nth-child(2) figcaption")
    page.evaluate(MOVE, ["opacity", 0])
    bare = torch.tensor(page.evaluate(PIXELS, "#views canvas")).view(64, 96, 4)[..., :3].movedim(-1, 0) / 255
    assert (bare - e.images[1]).abs().mean() < 0.01
    page.focus("#iteration")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#iterated") == f"{e.iterations[3]} of 30"
    assert page.locator(".chart path:not(.now)").count() == len(e.curves) + 1
    page.focus("#next")
    page.keyboard.press("Enter")
    wait(page, "document.getElementById('class').textContent === 'mug' && location.hash === '#cup-1-mug'")
    page.keyboard.press("Escape")
    wait(page, "!document.getElementById('detail').open && !location.hash")


@pytest.mark.slow
def test_filters_sorting_and_hostile_names(tmp_path, explanation, browse):
    names = [f"row{k}" for k in range(5)]
    e = explanation(names=names, classes=HOSTILE)
    e.image_names = ["b10", "b9", "c", "a", "<i>d"]
    e.p_after = torch.tensor([0.1, 0.5, 0.3, 0.15, 0.8])
    e.saliency = e.saliency * torch.tensor([0.5, 0.1, 0.9, 0.2, 0.3]).view(-1, 1, 1, 1)
    page = browse(html.write_report(save(tmp_path, e, skipped=[("x.png", "is <b>no</b> image")])))
    assert page.evaluate(NAMES) == e.image_names and page.text_content("#skipped td") == "is <b>no</b> image"
    assert page.locator(".card b").all_text_contents() == HOSTILE

    def sort(by):
        page.select_option("#sort", by)
        return page.evaluate(NAMES)

    assert sort("name") == ["<i>d", "a", "b9", "b10", "c"]
    assert sort("area") == ["b9", "a", "<i>d", "b10", "c"]
    assert sort("failure") == ["<i>d", "b9", "c", "a", "b10"]
    assert sort("drop of p") == ["b10", "a", "c", "b9", "<i>d"]
    page.click("#turn")
    assert page.evaluate(NAMES) == ["<i>d", "b9", "c", "a", "b10"]
    page.select_option("#which", "succeeds")
    assert page.evaluate(NAMES) == ["a", "b10"] and page.inner_text("#count") == "2 of 5"
    page.select_option("#which", "")
    page.fill("#find", "日本")
    assert page.evaluate(NAMES) == ["a"]
    page.fill("#find", "nobody")
    assert page.inner_text("#gallery") == "No row matches."


@pytest.mark.slow
def test_a_sweep_side_by_side(tmp_path, explanation, browse):
    for name, frames in (("a=1", 6), ("a=2", 4)):
        save(tmp_path / name, explanation(frames=frames))
    (tmp_path / "a=3").mkdir()
    page = browse(html.write_sweep_report(tmp_path, ["a=1", "a=2", "a=3"]), "#cat-2-tabby/a%3D2")
    page.wait_for_selector("#views canvas")
    assert page.locator("#views canvas").count() == 2 and page.locator("[aria-pressed=true]").inner_text() == "a=2"
    before = page.evaluate(PIXELS, "#views figure:nth-child(1) canvas")
    page.evaluate(MOVE, ["iteration", 0])
    assert page.evaluate(PIXELS, "#views figure:nth-child(1) canvas") != before  # one slider for all
    page.click("text=a=1 >> visible=true >> nth=-1")
    wait(page, "location.hash === '#cat-2-tabby/a%3D1'")
    assert page.locator(".card").first.locator(".cell").count() == 3


@pytest.mark.slow
def test_a_thousand_images_are_seen_at_once(tmp_path, explanation, browse):
    """And those further down when they are scrolled to; what is out of sight is not kept."""
    save(tmp_path, explanation((224, 224), frames=24))
    lines = tables.read_csv(tmp_path / "results.csv")
    for kind, suffix in (("masks", "npz"), ("panels", "png")):
        for k in range(1000):
            (tmp_path / kind / f"i{k}-1-mug.{suffix}").hardlink_to(tmp_path / kind / f"cup-1-mug.{suffix}")
    rows = [lines[0] | {"image": f"i{k}", "mask": f"masks/i{k}-1-mug.npz"} for k in range(1000)]
    tables.write_csv(tmp_path / "results.csv", rows, tables.result_columns(rows))
    start = time.perf_counter()
    path = html.write_report(tmp_path)
    wrote = time.perf_counter() - start
    page = browse(path, until="commit")
    first = page.evaluate(FIRST)
    print(
        f"1,000 images, {path.stat().st_size / 1e6:.0f} MB: written in {wrote:.1f} s, first picture at {first / 1000:.2f} s"
    )
    assert first < 10_000
    page.wait_for_load_state("load")
    assert page.locator(".card").count() < 400 and page.inner_text("#count") == "1000 of 1000"
    page.fill("#find", "i777")
    wait(page, "document.querySelector('.card canvas').width > 1")
    page.fill("#find", "")
    page.evaluate("scrollTo(0, 6000)")
    wait(page, "document.querySelector('.card canvas').width === 0")
