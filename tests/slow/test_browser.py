"""report.html in a browser: nothing is fetched, sliders, filters and pages work, a thousand images appear at once."""

import shutil
import time
from pathlib import Path

import pytest
import torch
from finished_run import HOSTILE, save
from synthetic_explanation import set_values

from mpx.pictures.colours import overlay
from mpx.report import html
from mpx.runs import tables
from mpx.tasks.base import Answer, format_value

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
    e = explanation((96, 144))
    smooth = torch.linspace(0.1, 0.9, 144)
    e.images = torch.stack([smooth, smooth.flip(0), smooth * 0.5]).view(1, 3, 1, 144).repeat(2, 1, 96, 1)
    page = browse(html.write_report(save(tmp_path, e)), "#cat-2-tabby")
    page.wait_for_selector("#views canvas")
    assert page.inner_text("#class") == "tabby cat"
    picture = torch.tensor(page.evaluate(PIXELS, "#views canvas")).view(96, 144, 4)[..., :3].movedim(-1, 0) / 255
    assert (picture - overlay(e.images[1], e.saliency[1])).abs().mean() < 0.01  # as mpx.pictures.colours draws it
    last = format_value("probability", float(e.frame_values[-1, 1]))
    captions = page.eval_on_selector_all("figcaption", "all => all.map(e => e.textContent.replaceAll('\u00a0', ' '))")
    assert captions[0].startswith("photo · p 0.900") and captions[1].endswith(f"p {last}")
    assert captions[2].startswith("evidence deleted at the end · p 0.200") and "kept at the end · p 0.700" in captions[3]
    page.evaluate(MOVE, ["iteration", 2])
    moved = torch.tensor(page.evaluate(PIXELS, "#views canvas")).view(96, 144, 4)[..., :3].movedim(-1, 0) / 255
    assert (moved - overlay(e.images[1], e.frame_evidence[2, 1] / 255)).abs().mean() < 0.01 < (moved - picture).abs().mean()
    assert page.inner_text("#iterated") == f"{e.iterations[2]} of 30 (mask)"
    assert format_value("probability", float(e.frame_values[2, 1])) in page.inner_text("figure:nth-child(2) figcaption")
    page.evaluate(MOVE, ["opacity", 0])
    bare = torch.tensor(page.evaluate(PIXELS, "#views canvas")).view(96, 144, 4)[..., :3].movedim(-1, 0) / 255
    assert (bare - e.images[1]).abs().mean() < 0.01
    page.focus("#iteration")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#iterated") == f"{e.iterations[3]} of 30 (mask)"
    assert page.locator(".chart path:not(.now):not(.grid)").count() == len(e.curves) + 1
    page.focus("#next")
    page.keyboard.press("Enter")
    wait(page, "document.getElementById('class').textContent === 'mug' && location.hash === '#cup-1-mug'")
    page.keyboard.press("Escape")
    wait(page, "!document.getElementById('detail').open && !location.hash")


@pytest.mark.slow
def test_the_perturbed_pictures_follow_the_iteration_and_the_photo_wipes_over_them(tmp_path, explanation, browse):
    e = explanation((160, 160), game="dual")
    e.images = torch.linspace(0.1, 0.9, 160).view(1, 1, 1, 160).repeat(2, 3, 160, 1)
    reference, evidence = 1 - e.images, torch.full((2, 1, 160, 160), 0.25)
    e.mask, e.saliency = 1 - evidence, evidence
    e.perturbed, e.complement = (s * reference + (1 - s) * e.images for s in (evidence, 1 - evidence))
    e.frame_evidence[:] = torch.linspace(0, 0.25 * 255, len(e.iterations)).round().byte().view(-1, 1, 1, 1, 1)
    e.answers_after[1] = [Answer("<b>bowl", 0.9, False), Answer("tabby cat", 0.2, True)]
    page = browse(html.write_report(save(tmp_path, e, "dual")), "#cat-2-tabby")
    page.wait_for_selector("#views canvas")
    said = page.inner_text("#sentence")
    assert said.startswith("Perturb 25 % of the photo, and tabby cat falls from 90 % to 20 %; the network now says <b>bowl.")
    assert page.locator(".answers").nth(1).inner_text().split("\n") == ["<b>bowl", "0.900", "tabby cat", "0.200"]

    def shown(which):
        picture = page.evaluate(PIXELS, f"#views figure:nth-child({which}) canvas")
        return torch.tensor(picture).view(160, 160, 4)[..., :3].movedim(-1, 0) / 255

    frame = len(e.iterations) // 2
    page.evaluate(MOVE, ["iteration", frame])
    share = e.frame_evidence[frame, 1] / 255
    for which, s in ((3, share), (4, 1 - share)):
        assert (shown(which) - (s * reference + (1 - s) * e.images)[1]).abs().mean() < 0.02
    page.evaluate(MOVE, ["wipe", 50])
    assert (shown(3) - e.images[1])[..., :78].abs().mean() < 0.01 < (shown(3) - e.images[1])[..., 90:].abs().mean()
    assert not page.locator(".answers").nth(1).is_visible()  # they are those of the end


@pytest.mark.slow
def test_an_explainers_saliency_is_shown(tmp_path, monkeypatch, browse, mpx):
    monkeypatch.chdir(tmp_path)
    small = ("model=synthetic", "dataset=synthetic", "limit=2", "target=label", "metric=[]", "threads=1")
    code, out, err = mpx(*small, "explainer=center", "name=center")
    assert code == 0, out + err
    page = browse(tmp_path / "outputs/center/report.html")
    wait(page, "document.querySelector('.card canvas').width > 1")
    colours = torch.tensor(page.evaluate(PIXELS, ".card canvas")).view(-1, 4)[:, :3]
    assert (colours[:, 0] - colours[:, 1]).max() > 30  # the photo is in grey, the evidence in colour
    page.click(".card a")
    page.wait_for_selector("#views canvas")
    assert not page.is_visible("#iteration") and page.is_visible("#opacity")
    assert not {"game", "fails", "works"} & {*page.inner_text("header").split(), *page.inner_text("#gallery").split()}


@pytest.mark.slow
def test_filters_sorting_and_hostile_names(tmp_path, explanation, browse):
    names, classes = [f"row{k}" for k in range(5)], HOSTILE[:4] + HOSTILE[-1:]
    e = explanation(names=names, classes=classes)
    e.image_names = ["b10", "b9", "c", "a", "<i>d"]
    set_values(e, [0.1, 0.5, 0.3, 0.15, 0.8])
    e.mask = 1 - e.saliency * torch.tensor([0.5, 0.1, 0.9, 0.2, 0.3]).view(-1, 1, 1, 1)
    e.verdict = ["works", "falls short", "falls short", "works", "falls short"]
    page = browse(html.write_report(save(tmp_path, e, skipped=[("x.png", "is <b>no</b> image")])))
    assert page.evaluate(NAMES) == e.image_names and page.text_content("#skipped td") == "is <b>no</b> image"
    assert page.locator(".card b").all_text_contents() == classes

    def sort(by):
        page.select_option("#sort", by)
        return page.evaluate(NAMES)

    assert sort("name") == ["<i>d", "a", "b9", "b10", "c"]
    assert sort("area") == ["b9", "a", "<i>d", "b10", "c"]
    assert sort("failure") == ["<i>d", "b9", "c", "a", "b10"]
    assert sort("drop") == ["b10", "a", "c", "b9", "<i>d"]
    page.click("#turn")
    assert page.evaluate(NAMES) == ["<i>d", "b9", "c", "a", "b10"]
    page.select_option("#which", "works")
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
    assert page.locator("#views canvas").count() == 2 + 2 and page.locator("[aria-pressed=true]").inner_text() == "a=2"
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
