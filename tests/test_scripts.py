"""What scripts/ make of their arguments."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from planted import SQUARE, SquareNet, square_photo

from mpx import explain, run
from mpx.config_plan import compose_plan
from mpx.data.images import read_image
from mpx.data.synthetic import synthetic
from mpx.models.synthetic import Synthetic
from mpx.runs.resume import to_command

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch):
    """A script may import another one."""
    monkeypatch.syspath_prepend(SCRIPTS)


def captured_arguments(monkeypatch, script: str, function: str, *arguments: str) -> list:
    """What a script gives to the function that does its work: its arguments, or sys.argv's."""
    calls = []
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.setattr(function, lambda *given: calls.append(given or sys.argv[1:]) or "")
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    return calls[0]


@pytest.mark.parametrize("name", ["a", "0_explainer=rise", "0_a=1,b=2", "it's (1)"])
def test_evaluate_continues_the_runs_command(tmp_path, monkeypatch, name):
    hydra = tmp_path / name / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "config.yaml").write_text("metrics:\n  deletion:\n    step: 448\n")
    old = ["images=photos", "metric=[deletion]", "metrics.deletion.step=448", "share=0/2", "name=a"]
    old += ["sweep=mask_resolution", "cluster=joblib"]  # a job of a sweep is measured, and not the sweep done again
    (hydra / "overrides.yaml").write_text("".join(f"- {o}\n" for o in old))
    *kept, where = captured_arguments(
        monkeypatch, "evaluate.py", "mpx.cli.main.main", f"run={tmp_path / name}", "other_perturbations=[black]"
    )
    assert kept == [*old[:3], "name=a", "other_perturbations=[black]"]  # its metrics, where no others are asked for
    assert to_command([*kept, where]) == to_command(kept)  # which the report shows
    assert OverridesParser.create().parse_override(where).value() == str(tmp_path / name)
    arguments = (f"run={tmp_path / name}", "metric=[road]")
    *kept, where = captured_arguments(monkeypatch, "evaluate.py", "mpx.cli.main.main", *arguments)
    assert kept == ["images=photos", "metrics.deletion.step=448", "name=a", "metric=[deletion,road]"]  # nothing is lost


def test_evaluate_keeps_the_users_own_metric(tmp_path, monkeypatch):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text("metrics: {half: {_target_: mymetric.half}, deletion: {step: 448}}")
    (tmp_path / ".hydra/overrides.yaml").write_text("- +metrics.half._target_=mymetric.half\n")
    *given, _ = captured_arguments(monkeypatch, "evaluate.py", "mpx.cli.main.main", f"run={tmp_path}", "metric=[road]")
    assert given == ["+metrics.half._target_=mymetric.half", "metric=[deletion,road]"]


def test_compare_takes_the_folders_of_a_sweep(tmp_path, monkeypatch):
    folders = [str(tmp_path / f"{k}_explainer={name}") for k, name in enumerate(("rise", "center"))]
    for folder in folders:
        Path(folder).mkdir()
    given = captured_arguments(
        monkeypatch, "compare.py", "mpx.report.compare.write_comparison", *folders, "out=both", "metrics=deletion,area"
    )
    assert given == (folders, Path("both"), ["deletion", "area"])
    with pytest.raises(SystemExit, match="metric: the options are out= and metrics="):
        captured_arguments(monkeypatch, "compare.py", "mpx.report.compare.write_comparison", *folders, "metric=deletion")


def test_compare_names_a_folder_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"sweeps/mask_size,dataset=sampel"):
        monkeypatch.setattr(sys, "argv", ["compare.py", f"{tmp_path}/sweeps/mask_size,dataset=sampel"])
        runpy.run_path(str(SCRIPTS / "compare.py"), run_name="__main__")


def test_no_method_comes_nearer_than_the_optimum_of_regions(tmp_path):
    photo_values = runpy.run_path(str(SCRIPTS / "benchmark.py"))["photo_values"]
    photo_values.__globals__["MAX_REGIONS"] = 7  # 128 sets
    classifier, item = Synthetic(96), synthetic(tmp_path, count=1, size=96)[0]
    image = classifier.preprocess(read_image(item.path, 3), 3)
    center = compose_plan("explainer=center").method
    values = photo_values(center.perturbation, classifier, image, {"center": center})
    best, chance = values.pop("optimum"), values["random order"]
    assert all((value <= best + 1e-6).all() for value in values.values())
    assert values["greedy"][2] > chance[2] + 0.1 and best[2] < best[:2].mean() + 1e-6
    for value in values.values():
        assert value[2].item() == pytest.approx(value[:2].mean().item(), abs=1e-6)


def test_masks_are_exported_as_other_programs_read_them(folder, monkeypatch):
    coco = pytest.importorskip("pycocotools.coco")
    options = ["images=photos", "limit=2", "steps=8", "target=[0,1]", "pictures=none", "metric=[]", "logger=[]"]
    finished = run(*[o for o in SQUARE if o != "steps=12"], *options, name="a")
    monkeypatch.setattr(sys, "argv", ["export.py", "run=outputs/a", "threshold=0.3", "out=there"])
    runpy.run_path(str(SCRIPTS / "export.py"), run_name="__main__")
    labels = coco.COCO("there/labels.json")
    annotations = labels.loadAnns(labels.getAnnIds())
    assert len(labels.imgs) == 2 and {c["name"] for c in labels.cats.values()} == {"nothing", "checker board"}
    assert sum(0 < a["area"] < 32 * 32 for a in annotations) >= 2
    for annotation, evidence in zip(annotations, 1 - finished.arrays("mask"), strict=True):  # the photos are as large
        mask = labels.annToMask(annotation)
        assert np.array_equal(mask, evidence >= 0.3) and mask.sum() == annotation["area"]
        assert annotation["bbox"] == coco.maskUtils.toBbox(labels.annToRLE(annotation)).tolist()
        grey = np.asarray(Image.open(f"there/png/{annotation['row']}.png"))
        assert abs(grey / 255 - evidence).max() <= 0.5 / 255 + 1e-6
    for given, words in ("format=voc", "voc: the options are"), ("threshold=2", "at most 1"), ("run=no", "'no' is not"):
        monkeypatch.setattr(sys, "argv", ["export.py", "run=outputs/a", given])
        with pytest.raises(SystemExit, match=words):
            runpy.run_path(str(SCRIPTS / "export.py"), run_name="__main__")


@pytest.mark.parametrize(
    "script",
    ["benchmark.py", "compare.py", "digits.py", "evaluate.py", "export.py", "figure.py", "same_masks.py", "serve.py"],
)
def test_each_script_has_a_help(script, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    assert not end.value.code and f"python scripts/{script}" in capfd.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("targets", [1, [0, 1]])
def test_a_figure_has_a_block_for_one_target_and_for_two(targets):
    block = runpy.run_path(str(SCRIPTS / "figure.py"))["block"]
    photo = square_photo(SquareNet(), 0)[None]
    page = block("difference", "why?", "network", explain(SquareNet(), photo, targets, mask_size=8, steps=2))
    assert len(set(page.getdata())) > 100  # pictures, not an empty page


def test_digits_are_explained_as_they_are_learnt(tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["digits.py", "epochs=1"])
    runpy.run_path(str(SCRIPTS / "digits.py"), run_name="__main__")
    assert Image.open("outputs/digits/strip.png").width > 3 * 160


def test_no_picture_of_the_readmes_is_older_than_the_code_that_draws_it():
    figure = runpy.run_path(str(SCRIPTS / "figure.py"))
    recorded = json.loads(figure["DRAWN_WITH"].read_text())
    old = [name for name, one in figure["FIGURES"].items() if recorded.get(one.file) != figure["digest"](one)]
    assert not old, f"draw them again: python scripts/figure.py {' '.join(old)}"
    others = {"drawn_with.json", "presets.jpg", "mask_resolution_x_blur.png"}  # the last two take hours
    assert {path.name for path in figure["README"].iterdir()} == {one.file for one in figure["FIGURES"].values()} | others
