"""Metrics and baselines in the main job: the same numbers at once or later, and masks that outlive a metric's fault."""

import csv
import functools
import json

import numpy as np
import pytest
from planted import SQUARE

from mpx import config, config_plan
from mpx.metrics.complexity import complexity
from mpx.metrics.deletion_insertion import deletion

GIVEN = [*SQUARE, "images=photos", "pictures=none", "log_images=0", "threads=1"]
THREE = "metric=[deletion,insertion,complexity]"
BOX = "image,label,x0,y0,x1,y1\n" + "".join(f"photos/p{i}.png,checker board,16,8,24,16\n" for i in range(3))


def rows(name: str) -> list[dict]:
    with open(f"outputs/{name}/results.csv", newline="") as file:
        return list(csv.DictReader(file))


def numbers(name: str, *metrics: str) -> np.ndarray:
    return np.array([[float(v) for k, v in row.items() if k.startswith(metrics)] for row in rows(name)])


def test_measured_later_is_measured_at_once(folder, mpx):
    assert mpx(*GIVEN, THREE, "name=once")[0] == 0
    assert mpx(*GIVEN, "name=later")[0] == 0
    assert "cross_perturbation_only_own" in rows("later")[0] and "deletion" not in rows("later")[0]
    before = {path.name: np.load(path)["parameter"] for path in (folder / "outputs/later/masks").iterdir()}
    code, out, _ = mpx(*GIVEN, THREE, "name=later")
    assert code == 0 and "3 of 3 images are done" in out and "evaluating 3 masks that were stored before" in out
    assert "cross_perturbation" not in rows("later")[0]
    result = numbers("later", "deletion", "insertion", "complexity")
    assert result.shape[1] > 5 and np.array_equal(result, numbers("once", "deletion", "insertion", "complexity"))
    assert all(np.array_equal(np.load(folder / "outputs/later/masks" / k)["parameter"], v) for k, v in before.items())
    assert "evaluating" not in mpx(*GIVEN, THREE, "name=later")[1]
    file = json.loads((folder / "outputs/later/summary.json").read_text())
    summary = file["metrics"]["deletion"]
    assert file["protocol"]["learnt_with"] == "blur_gaussian"
    assert file["metric_protocols"]["deletion"]["options"]["baseline"] == "mean"  # once for all columns of a metric
    assert summary["n"] == 3 and summary["better"] == "lower" and summary["metric"] == "deletion"
    assert summary["value"] == pytest.approx(numbers("later", "deletion").mean(), abs=1e-5)


def test_options_of_a_metric_count(folder, mpx):
    assert mpx(*GIVEN, THREE, "name=a")[0] == 0
    assert "evaluating 3 masks" in mpx(*GIVEN, THREE, "metrics.deletion.step=1", "name=a")[1]
    assert "evaluating 3 masks" in mpx(*GIVEN, "other_perturbations=[noise]", "name=a")[1]
    assert [k for k in rows("a")[0] if k.startswith("cross_perturbation")] == [
        "cross_perturbation",
        "cross_perturbation_own",
        "cross_perturbation_noise",
        "cross_perturbation_only_own",
    ]


def test_only_what_is_new_is_measured(folder, mpx, monkeypatch):
    """Under a metric that fails where it is called again; with another option of its own it is."""
    assert mpx(*GIVEN, "metric=[complexity,deletion]", "name=a")[0] == 0
    before = numbers("a", "complexity")
    monkeypatch.setattr("mpx.metrics.complexity.complexity", functools.wraps(complexity)(_fails))
    code, _, err = mpx(*GIVEN, "metric=[complexity,deletion,insertion]", "metrics.deletion.step=1", "name=a")
    assert code == 0 and np.array_equal(numbers("a", "complexity"), before) and numbers("a", "insertion").size, err
    assert mpx(*GIVEN, "metric=[complexity]", "name=b")[0] == 1
    assert mpx(*GIVEN, "metric=[complexity]", "name=a", "verdict.absent_value=1")[0] == 0  # judged again, not evaluated
    assert {row["verdict"] for row in rows("a")} == {"the class was never there"}


def _fails(*_, **__):
    raise ValueError("called again")


def test_masks_outlive_the_fault_of_a_metric(folder, mpx, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mpx.metrics.deletion_insertion.deletion", functools.wraps(deletion)(_fails))
        code, _, err = mpx(*GIVEN, "metric=[deletion]", "name=a")
    assert code == 1 and "called again" in err
    assert len(list((folder / "outputs/a/masks").glob("*.npz"))) == 3
    code, out, _ = mpx(*GIVEN, "metric=[deletion]", "name=a")
    assert code == 0 and "3 of 3 images are done" in out and np.isfinite(numbers("a", "deletion")).all()


def test_an_option_too_large_for_the_images_is_refused_before_any_mask(folder, mpx):
    code, _, err = mpx(*GIVEN, "metric=[deletion]", "metrics.deletion.step=2000", "name=a")
    assert code == 1 and err == "mpx: metrics.deletion.step=2000 must be at most 1024, the number of the image's pixels\n"
    assert not (folder / "outputs/a/masks").exists()


def test_regions_reach_the_metrics(folder, mpx):
    (folder / "boxes.csv").write_text(BOX)
    where = ["dataset=images", "dataset.boxes=boxes.csv", "target=label", "metric=[mass,pointing,iou]", "name=a"]
    assert mpx(*GIVEN, "steps=40", *where)[0] == 0
    assert (numbers("a", "mass") > 4 * 64 / 32**2).all() and all(row["pointing"] == "1" for row in rows("a"))


def test_regions_that_have_changed_are_measured_again(folder, mpx):
    given = [*GIVEN, "dataset=images", "dataset.boxes=boxes.csv", "metric=[mass,complexity]"]
    (folder / "boxes.csv").write_text(BOX)
    assert mpx(*given, "name=a")[0] == 0 and "evaluating" not in mpx(*given, "name=a")[1]
    (folder / "boxes.csv").write_text(BOX.replace("p1.png,checker board,16,8", "p1.png,checker board,0,0"))
    code, out, _ = mpx(*given, "name=a")
    assert code == 0 and "3 of 3 images are done" in out and "evaluating 1 masks" in out
    assert mpx(*given, "name=fresh")[0] == 0 and np.array_equal(numbers("a", "mass"), numbers("fresh", "mass"))


def test_metrics_that_do_not_apply_say_so_before_anything_is_done(folder, mpx):
    code, _, err = mpx(*GIVEN, "metric=[mass]", "name=a")
    assert code == 1 and err.startswith("mpx: metric=mass compares with where the class is") and not rows_exist(folder)
    code, _, err = mpx(*GIVEN, "task=regression", "target=1", "metric=[saliency_metric]", "name=a")
    assert code == 1 and "saliency_metric needs a probability of a whole image" in err and not rows_exist(folder)
    code, _, err = mpx(*GIVEN, "task=difference", "task.other=0", "target=1", "metric=[sanity]", "name=a")
    assert code == 1 and "this network has only one to explain: leave it out" in err  # which its output says
    assert not [*folder.rglob("*.npz")]


def rows_exist(folder) -> bool:
    return any((folder / "outputs").rglob("results.csv"))


def test_a_baseline_is_a_run_as_any_other(folder, mpx):
    (folder / "boxes.csv").write_text(BOX)
    where = [
        "dataset=images",
        "dataset.boxes=boxes.csv",
        "target=label",
        "metric=[mass,deletion]",
        "pictures=1",
        "log_images=1",
    ]
    code, out, _ = mpx(*GIVEN, "explainer=gradient", *where, "name=a")
    assert code == 0 and "p0" in out
    assert (numbers("a", "mass") == 1).all()  # the network's gradient is in its square alone
    assert all(float(row["passes"]) == 1 and float(row["forwards"]) == 0 for row in rows("a"))
    assert len(list((folder / "outputs/a/panels").iterdir())) == 1 and not (folder / "outputs/a/evolution").exists()
    assert "/panels" in out and "/evolution" not in out
    assert "3 of 3 images are done" in mpx(*GIVEN, "explainer=gradient", *where, "name=a")[1]
    assert "explainer" in mpx(*GIVEN, "explainer=center", *where, "name=a")[2]  # another configuration


@pytest.mark.parametrize("name", config.options("protocol"))
def test_protocols_compose(name):
    cfg = config.compose(f"protocol={name}", "dataset.root=here")
    assert config_plan.build_metrics(cfg) and cfg.target in ("label", "top1")


def test_the_sum_of_several_areas_is_measured(folder, mpx):
    (folder / "boxes.csv").write_text(BOX)
    where = ["dataset=images", "dataset.boxes=boxes.csv", "target=label", "metric=[pointing,mass]", "name=a"]
    given = ["experiment=extremal2019", "perturbation.sigma=3", "steps=30", "mask_size=8", "area=[0.05,0.2]"]
    code, out, _ = mpx(*(a for a in GIVEN if not a.startswith(("jitter", "steps", "mask_size"))), *given, *where)
    assert code == 0 and "the sum of the masks of all areas" in out
    with open("outputs/a/area_sums.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(rows("a")) == 6 and [line["image"] for line in lines] == ["p0", "p1", "p2"]
    summary = json.loads((folder / "outputs/a/summary.json").read_text())
    assert summary["area_sums"]["pointing"]["n"] == 3 and summary["metrics"]["pointing"]["n"] == 6
    assert summary["area_sums"]["mass"]["value"] == pytest.approx(np.mean([float(line["mass"]) for line in lines]), abs=1e-5)


def test_a_masks_own_perturbation_is_no_other(folder, mpx):
    assert mpx(*GIVEN, "perturbation=noise", "other_perturbations=[mean_color,noise]", "name=a")[0] == 0
    assert [k for k in rows("a")[0] if k.startswith("cross_perturbation")] == [
        "cross_perturbation", "cross_perturbation_own", "cross_perturbation_mean_color", "cross_perturbation_only_own"
    ]  # fmt: skip
    given = [a for a in GIVEN if "sigma" not in a]
    assert mpx(*given, "perturbation=black", "other_perturbations=[black,fade]", "name=b")[0] == 0
    assert [k for k in rows("b")[0] if k.startswith("cross_perturbation")] == [
        "cross_perturbation", "cross_perturbation_own", "cross_perturbation_fade", "cross_perturbation_only_own"
    ]  # fmt: skip


def test_labels_that_are_no_class_matter_to_metrics_of_places_alone(folder, mpx):
    (folder / "boxes.csv").write_text(BOX.replace("checker board", "zebra"))
    where = ["dataset=images", "dataset.boxes=boxes.csv", "name=a"]
    assert mpx(*GIVEN, *where)[0] == 0 and len(rows("a")) == 3
    code, out, _ = mpx(*GIVEN, *where, "metric=[mass]")
    assert code == 0 and "mass: no image has a region of the class" in out and "regions of 'zebra': give" in out
    assert [row["mass"] for row in rows("a")] == [""] * 3


def test_an_image_that_cannot_be_measured_is_no_matter_to_the_others(folder, mpx):
    (folder / "t.csv").write_text("image\n" + "".join(f"photos/p{i}.png\n" for i in range(3)))
    (folder / "boxes.csv").write_text(BOX + "photos/p1.png,dog,0,0,9,9\n")
    given = [*(a for a in GIVEN if not a.startswith("images=")), "dataset=table", "dataset.file=t.csv", "batch_size=1"]
    assert mpx(*given, "dataset.boxes=boxes.csv", "metric=[mass]", "name=a")[0] == 0
    assert len(rows("a")) == 3 and np.isfinite(numbers("a", "mass")).all()
    (folder / "photos/p0.png").unlink()
    code, out, err = mpx(*given, "dataset.boxes=boxes.csv", "metric=[mass,pointing]", "name=a")
    assert code == 0 and "1 images are not evaluated, as p0: cannot read image" in out, out + err
    assert [row["pointing"] != "" for row in rows("a")] == [False, True, True]


@pytest.mark.parametrize("given", ["other_perturbations=5", "other_perturbations=mean_color", "other_perturbations=[blurr]"])
def test_other_perturbations_are_checked_first(folder, mpx, given):
    code, _, err = mpx(*GIVEN, given, "name=a")
    assert code == 1 and err.count("\n") == 1 and not rows_exist(folder)
    assert "other_perturbations=" in err or "'blurr'" in err
