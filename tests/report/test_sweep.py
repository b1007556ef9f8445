"""A sweep's folder as a table and pictures: the numbers are its jobs', in an order that no file system has a say in."""

import csv
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from synthetic_explanation import set_values

from mpx.pictures.cells import CELL, GAP, LINE
from mpx.report import pareto, plots, sweep
from mpx.report.compare import compare_runs
from mpx.report.figures import place_labels
from mpx.report.heat_map import draw_heat_map
from mpx.report.lines import ComparisonLine
from mpx.report.pareto import pareto_front
from mpx.report.run_folder import RunFolder
from mpx.report.sweep_grid import MAX_JOBS, draw_grid
from mpx.runs import files, store, summaries, tables

TERMS = {"computed_with": "test", "made_from": "{}", "file_bytes": 1, "row_keys": np.array(["1", "2"])}

PROTOCOL = {"stopped": False, "value": "probability"}


@pytest.fixture
def job(tmp_path, explanation):
    """job(name, value_after, game, ...) -> the folder of a finished job; `more` sets the explanation's attributes."""

    def make(name, value_after=0.2, game="deletion", pictures=True, size=(40, 56), perturbation="blur", **more):
        e, folder = explanation(game=game, size=size), tmp_path / name
        set_values(e, value_after)
        for key, value in more.items():
            setattr(e, key, value)
        for i in range(len(e)):
            store.save_row(folder, e, i, pictures, row_key="1", **TERMS)
        rows = tables.table_rows(e)
        tables.write_csv(folder / "results.csv", rows)
        summary = summaries.summarise_rows(rows, 0, 0, PROTOCOL | {"game": game, "reference": perturbation})
        files.write_json(folder / "summary.json", summary | {"metrics": {}})
        return folder

    return make


def lines(folder) -> list[dict]:
    with open(folder / "table.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_name_says_the_axes():
    assert sweep.job_axes("mask_size=14,perturbation=blur_median") == {"mask_size": "14", "perturbation": "blur_median"}
    assert sweep.job_axes("area=0.1+0.2,lr=1e-3") == {"area": "0.1+0.2", "lr": "1e-3"}
    assert sweep.job_axes("alone") == {"job": "alone"}


def test_numbers_are_ordered_by_size_and_names_by_the_command(tmp_path):
    names = [f"mask_size={m},blur={b}" for m, b in itertools.product((28, 7, 112), ("wide", "narrow"))]
    for name in reversed(names):
        (tmp_path / name / ".hydra").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    expected = [f"mask_size={m},blur={b}" for m, b in itertools.product((7, 28, 112), ("wide", "narrow"))]
    (tmp_path / sweep.JOBS_FILE).write_text("\n".join(names))
    assert sweep.job_names(tmp_path) == expected
    (tmp_path / sweep.JOBS_FILE).unlink()
    assert sweep.job_names(tmp_path) == [
        f"mask_size={m},blur={b}" for m, b in itertools.product((7, 28, 112), ("narrow", "wide"))
    ]


def test_the_table_has_the_jobs_numbers_and_marks_the_best(tmp_path, job):
    for size, left in ((7, 0.5), (14, 0.2), (28, 0.4)):
        job(f"mask_size={size},seed=0", left)
    text = sweep.write_sweep_results(tmp_path)
    table = {line["mask_size"]: line for line in lines(tmp_path) if line["metric"] == "value_normalised"}
    assert {k: float(v["value"]) for k, v in table.items()} == pytest.approx({"7": 0.5, "14": 0.125, "28": 0.375})
    assert list(table) == ["7", "14", "28"] and "seed" not in table["7"]  # what does not vary is no axis
    (best,) = [line for line in text.splitlines() if "**0.125**" in line]
    assert best.startswith("| 14 |")
    for name in ("table.tex", "grid.png", "plots.png", "pareto.png"):
        assert (tmp_path / name).is_file()
    assert Image.open(tmp_path / "grid.png").width > 4 * CELL


def test_an_axis_may_be_called_like_a_column(tmp_path, job):
    for name in ("[road]", "[deletion]"):
        job(f"metric={name}")
    sweep.write_sweep_results(tmp_path)
    result = {(line["metric="], line["metric"]) for line in lines(tmp_path)}
    assert ("[road]", "area") in result and ("[deletion]", "value_normalised") in result


def test_forwards_are_a_cost_where_there_are_any(tmp_path, job):
    job("a/mask_size=7")
    job("b/explainer=rise", forwards=torch.full((2,), 4000.0))
    assert "forwards" not in sweep.write_sweep_results(tmp_path / "a") and "| 4000 |" in sweep.write_sweep_results(
        tmp_path / "b"
    )


def test_null_is_before_the_numbers():
    assert sweep.sort_values(["14", "null", "7", "1e2"]) == ["null", "7", "14", "1e2"]
    assert sweep.sort_values(["b", "null", "7"]) == ["b", "null", "7"]


def test_a_failed_job_takes_nothing_away(tmp_path, job):
    job("target=mug")
    job("target=cup")
    files.write_file(tmp_path / "target=nosuch" / store.FAILED, "there is\nno class nosuch\n")
    (tmp_path / "target=begun" / ".hydra").mkdir(parents=True)
    text = sweep.write_sweep_results(tmp_path)
    assert "\n- target=nosuch failed: there is no class nosuch\n" in text and "\n- target=begun is not finished" in text
    assert text.endswith(".\n") and text == (tmp_path / "table.md").read_text()
    assert {line["target"] for line in lines(tmp_path)} == {"mug", "cup"}
    shutil.rmtree(tmp_path / "target=cup")
    assert "| mug |" in sweep.write_sweep_results(tmp_path)  # one is enough
    shutil.rmtree(tmp_path / "target=mug")
    assert "No job is finished" in sweep.write_sweep_results(tmp_path)


def test_a_job_that_was_stopped_does_not_compete(tmp_path, job):
    job("mask_size=7")
    summary = json.loads((job("mask_size=14", 0.1) / "summary.json").read_text())
    summary["protocol"]["stopped"] = True
    files.write_json(tmp_path / "mask_size=14" / "summary.json", summary)
    text = sweep.write_sweep_results(tmp_path)
    assert "mask_size=14 is not finished" in text and "| 14 |" not in text


def test_messages_show_a_folder_as_typed(tmp_path, job, monkeypatch, caplog):
    """With a ~, and as text, as scripts/compare.py gives it."""
    job("home/a/mask_size=7")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    sweep.write_sweep_results("~/a")
    assert (tmp_path / "home/a/table.md").is_file() and (tmp_path / "home/a/report.html").is_file() and not caplog.records


def test_what_is_no_sweep(tmp_path):
    with pytest.raises(ValueError, match="not the folder of a sweep"):
        sweep.write_sweep_results(tmp_path)


def test_a_preservation_wants_the_chance_high(tmp_path, job):
    for size, left in ((7, 0.3), (14, 0.8)):
        job(f"mask_size={size}", left, "preservation")
    (best,) = [line for line in sweep.write_sweep_results(tmp_path).splitlines() if "**0.875**" in line]
    assert best.startswith("| 14 |") and {x["better"] for x in lines(tmp_path) if x["metric"] == "value_normalised"} == {
        "higher"
    }


def test_the_grid_shows_each_jobs_own_saliency(tmp_path, job):
    """Of rows with and without a photo."""
    seen = []
    for pictures in (True, False):
        for size in (7, 14):
            job(f"{pictures}/mask_size={size}", pictures=pictures)
        runs = sweep.read_sweep(tmp_path / str(pictures)).runs
        page = draw_grid(runs)
        measured = draw_grid(runs, compare_runs(runs, ["area", "passes"]))
        assert measured.height == page.height + 2 * LINE + GAP
        same, below = (measured.crop(box) for box in ((0, 0, *page.size), (0, page.height, *measured.size)))
        assert same.tobytes() == page.tobytes() and len(set(below.getdata())) > 2  # something is written
        cells = np.asarray(page)[60:100, 8 : 8 + 3 * (CELL + 8)].astype(int)
        first, second, third = np.split(cells, 3, 1)
        assert np.array_equal(second, third) and not np.array_equal(first, second)
        assert (first.std() > 10) == pictures
        seen.append(second)
    assert not np.array_equal(*seen)  # over the photo, and alone


def test_a_line_of_the_grid_is_one_photo_whatever_varies(tmp_path, job):
    """The area that is asked, or a model that finds another class and sees another part."""
    for n in (1, 2):
        job(f"a/area=0.{n}", areas=torch.full((2,), n / 10))
        job(f"b/model=m{n}", size=(40, 20 * n), targets=torch.tensor([n, 7]), classes=[f"class {n}", "tabby cat"])
    areas, models = (draw_grid(sweep.read_sweep(tmp_path / name).runs) for name in "ab")
    assert areas.width == 3 * (CELL + 8) + 8 and areas.height < 2.5 * CELL  # two photos, wider than high
    tall, square = (np.asarray(models)[30:180, 8 + k * (CELL + 8) :][:, :CELL] for k in (1, 2))
    assert (tall[:, 85:] == 255).all() and (square[:, 85:] < 255).any()  # each over its own photo


def test_rows_whose_masks_are_gone_take_no_picture_away(tmp_path, job):
    for size in (7, 14):
        job(f"mask_size={size}")
    (tmp_path / "mask_size=7/masks/cup-1-mug.npz").unlink()
    both = draw_grid(sweep.read_sweep(tmp_path).runs)
    (tmp_path / "mask_size=14/masks/cup-1-mug.npz").write_bytes(b"half")
    one = draw_grid(sweep.read_sweep(tmp_path).runs)
    assert one.width == both.width and one.height < both.height
    shutil.rmtree(tmp_path / "mask_size=7/masks")
    shutil.rmtree(tmp_path / "mask_size=14/masks")
    sweep.write_sweep_results(tmp_path)
    assert (tmp_path / "pareto.png").is_file()


def test_of_many_jobs_some_are_shown(tmp_path, job):
    runs = [replace(run, axes={"seed": str(k)}) for run in sweep.read_sweep(job("a/seed=0").parent).runs for k in range(30)]
    assert draw_grid(runs).width == (MAX_JOBS + 1) * (CELL + 8) + 8


def test_no_point_of_the_front_is_beaten():
    points = np.random.default_rng(0).integers(0, 12, (200, 2)).astype(float)
    front = pareto_front(points)
    for i, point in enumerate(points):
        beaten = ((points <= point).all(1) & (points < point).any(1)).any()
        assert beaten or any((points[j] == point).all() for j in front)
        assert not (i in front and beaten)
    assert (np.diff(points[front, 0]) > 0).all()


def heat(better: str, values: dict) -> tuple:
    """The panel of a metric with these values, (a, b) -> value, where a is 1 or 2 and b is x or y."""
    table = [ComparisonLine(f"{a}{b}", "m", value, better, axes={"a": a, "b": b}) for (a, b), value in values.items()]
    panel = Figure().subplots()
    draw_heat_map(panel, table, ["a", "b"], [["1", "2"], ["x", "y"]])
    return panel, {text.get_text(): text for text in panel.texts}


def test_a_cell_without_a_job_stays_blank():
    panel, texts = heat("lower", {("1", "x"): 0.5, ("1", "y"): 0.25, ("2", "x"): 0.75})
    assert panel.images[0].get_array().mask.tolist() == [[False, False], [False, True]]
    assert sorted(texts) == ["0.250", "0.500", "0.750"] and panel.patch.get_hatch()


@pytest.mark.parametrize("better, best", [("lower", -0.5), ("higher", 0.75), ("near 0", 0.25)])
def test_the_best_cell_is_the_most_orange_and_bold(better, best):
    values = {("1", "x"): 0.75, ("1", "y"): 0.25, ("2", "x"): -0.5, ("2", "y"): 0.5}
    panel, texts = heat(better, values)
    (image,) = panel.images
    orange = {value: np.ptp(image.to_rgba(image.get_array())[int(a) - 1, "xy".index(b), :3])
              for (a, b), value in values.items()}  # fmt: skip
    assert max(orange, key=orange.get) == best
    assert [float(text) for text, shown in texts.items() if shown.get_weight() == "bold"] == [best]


def test_what_is_geometric():
    assert all(map(plots.is_geometric, [(7, 14, 28), (5, 7, 14, 28, 56), (0.001, 0.01, 1), (0, 0.1, 0.2, 0.5, 1)]))
    assert not any(map(plots.is_geometric, [(1, 2, 3), (10, 20, 30, 40, 50, 60), (1, 100), (-1, 1, 10, 100), (0, 1), (5,)]))


def test_the_labels_of_an_axis_are_not_written_over_each_other():
    panel = Figure().subplots()
    panel.plot([0, 100], [0, 0])
    assert plots.readable_labels(panel, [1, 2, 50, 100], ["1", "2", "50", "100"]) == ["1", "", "50", "100"]


def test_names_with_several_jobs_stand_beside_each_other():
    axes = [{"blur": blur, "lr": lr, "tv": "1"} for blur in ("wide", "narrow") for lr in ("1", "2")]
    table = [ComparisonLine(f"{a}", "m", 0.5, "lower", low=0.4, high=0.6, axes=a) for a in axes]
    panel = Figure().subplots()
    plots.draw_lines(panel, table, ["blur", "lr", "tv"], [["wide", "narrow"], ["1", "2"], ["1"]])
    places = [x for shown in panel.containers for x in shown[0].get_xdata()]
    assert len(set(places)) == 4 and sorted(round(x) for x in places) == [0, 0, 1, 1]


def test_only_what_it_cost_is_drawn_too(tmp_path, job):
    for size in (7, 14):
        job(f"mask_size={size}")
    sweep.write_sweep_results(tmp_path, tmp_path / "out", ["seconds"])
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"plots.png", "pareto.png", "grid.png"}


def run(name: str, p: float, area: float, better: str = "lower") -> RunFolder:
    numbers = {"value_normalised": p, "area": area, "passes": 30.0, "forwards": 0.0}
    metrics = {
        key: {"value": value, "better": better if key == "value_normalised" else "lower"} for key, value in numbers.items()
    }
    return RunFolder(Path(name), {"lr": name}, [], metrics, {}, 0)


def drawn(monkeypatch, tmp_path, runs) -> Figure:
    pages = []
    monkeypatch.setattr(pareto, "place_labels", lambda page, labels: (pages.append(page), place_labels(page, labels)))
    pareto.plot_pareto(runs, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").is_file()
    return pages[0]


@pytest.mark.parametrize("better, labels", [("lower", ["a", "b"]), ("higher", ["b", "c"]), ("mixed", [])])
def test_the_front_goes_the_way_of_the_game(tmp_path, monkeypatch, better, labels):
    ways = ["lower", "lower", "higher"] if better == "mixed" else [better] * 3
    runs = [run(*given, way) for given, way in zip((("a", 0.1, 0.3), ("b", 0.2, 0.1), ("c", 0.5, 0.2)), ways)]
    (left,) = drawn(monkeypatch, tmp_path, runs).axes  # a second panel where runs differ in cost
    assert sorted(text.get_text() for text in left.texts if text.get_color() != pareto.FAINT) == labels
    assert sorted(text.get_text() for text in left.texts) == ["a", "b", "c"]


def test_labels_of_a_crowded_front_keep_apart(tmp_path, monkeypatch):
    runs = [run(f"a long name, {k}", 0.5 - 0.01 * k, 0.2 + 0.01 * k) for k in range(8)]
    (left,) = drawn(monkeypatch, tmp_path, runs).axes
    boxes, frame = [text.get_window_extent() for text in left.texts], left.get_window_extent()
    assert len(boxes) == 8 and not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


def test_jobs_that_agree_are_stable_and_others_are_told(tmp_path, job):
    """IoU of one disc with itself is 1; of a left and a right half 0."""
    left = torch.ones(2, 1, 40, 56)
    left[..., :28] = 0
    for seed, (agree, differ) in enumerate([({}, {"mask": left}), ({}, {"mask": 1 - left})]):
        job(f"a/seed={seed}", **agree)
        job(f"b/seed={seed}", **differ)
    agreed, unstable = (sweep.write_sweep_results(tmp_path / name) for name in "ab")
    assert "IoU of 1.00" in agreed and "0 of 2 rows are unstable" in agreed
    assert "2 of 2 rows are unstable, below 0.5: cup (mug, 0.00), cat (tabby cat, 0.00)" in unstable
    with open(tmp_path / "b/consensus.csv", newline="") as file:
        first = next(csv.DictReader(file))
    maps = np.load(tmp_path / "b" / first["maps"])
    assert first["jobs"] == "2" and (maps["mean"] == 0.5).all() and (maps["spread"] == 0.5).all()
    assert Image.open(tmp_path / "b/consensus.png").height > 2 * 40


def test_a_consensus_needs_two_masks_of_one_target(tmp_path, job):
    job("seed=0")
    job("seed=1", targets=torch.tensor([8, 9]))
    assert "Consensus" not in sweep.write_sweep_results(tmp_path) and not (tmp_path / "consensus.csv").exists()


def test_an_axis_on_which_evidence_depends_is_told(tmp_path, job):
    left = torch.ones(2, 1, 40, 56)
    left[..., :28] = 0
    for seed, (side, mask) in itertools.product((0, 1), (("left", left), ("right", 1 - left))):
        job(f"seed={seed},side={side}", mask=mask)
    text = sweep.write_sweep_results(tmp_path)
    assert "(1.00 if they differ in seed alone, 0.00 if they differ in side alone)" in text  # and 0.33 of all pairs


def test_what_is_relative_to_the_perturbation_is_not_compared_across_perturbations(tmp_path, job):
    """A weak perturbation leaves much and yet has a small value_normalised: only the probability itself is compared."""
    for name, left, normalised in (("gaussian", 0.002, 0.1), ("median", 0.211, -0.756)):
        verdicts = ["works", "perturbation too weak" if name == "median" else "works"]
        values = dict(value_normalised=torch.full((2,), normalised), verdict=verdicts)
        job(f"a/perturbation={name}", left, perturbation=name, **values)
        job(f"b/seed={name}", left)
    across, within = (sweep.write_sweep_results(tmp_path / name) for name in "ab")
    assert "| gaussian | **0.002**" in across and "**-0.756**" not in across and "value_normalised is not compared" in across
    assert "perturbation=median: perturbation too weak in 1 of 2 rows." in across
    pages = [(tmp_path / name / "report.html").read_text() for name in "ab"]
    assert ['<th title="value_normalised: ' in page for page in pages] == [False, True]
    assert "value_after" not in within and "is not compared" not in within and "value_normalised ↓" in within
    table = [line for line in lines(tmp_path / "a") if line["metric"] == "value_normalised"]
    assert {line["better"] for line in table} == {"none"} and not any(line["p_value"] not in ("", "nan") for line in table)
