"""Where a target is, from the dataset, a mask file or by hand: the same places as the task's own, in runs and in Python."""

import csv
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from planted import SQUARE, SquareNet, square_photo
from square_networks import BOX, Boxes, Queries, Segments

from mpx import config, explain, method
from mpx.data.annotations import Region
from mpx.data.preprocessing import Preprocess
from mpx.data.targets import NotInImageError, TargetContext
from mpx.learning.batching import solve
from mpx.learning.loop import optimize
from mpx.learning.rows import rows_of_image
from mpx.models import Classifier
from mpx.tasks.detection import Detection
from mpx.tasks.segmentation import Segmentation

PHOTO = square_photo(SquareNet(), 0)[None]
BLUR = partial(config.option("perturbation", "blur_gaussian"), sigma=3.0)
OPTIONS = dict(perturbation=BLUR, mask_size=8, steps=6, jitter=0)
SHARES = [0.5, 0.25, 0.75, 0.5]  # the checkerboard's box
MASK = np.zeros((32, 32), np.uint8)
MASK[8:16, 16:24] = 7
CONTEXT = TargetContext(size=(32, 32), preprocess=Preprocess((32, 32)))


def output_of(network, task):
    with torch.no_grad():
        return task.output(network.eval()(PHOTO), 1)[0]


@pytest.mark.parametrize("network", [Boxes, Queries])
def test_a_box_by_hand_is_the_object_that_the_detector_finds(network):
    found, given = (
        explain(Classifier(network(), task=task), PHOTO, 1, **OPTIONS) for task in (Detection(), Detection(box=SHARES))
    )
    torch.testing.assert_close(given.saliency, found.saliency)
    assert torch.equal(given.region, found.region)


@pytest.mark.parametrize("network", [Boxes, Queries])
def test_objects_of_the_dataset_are_boxes_in_the_units_of_the_output(network):
    board = Region(boxes=(tuple(BOX.tolist()), (0.0, 0.0, 9.0, 9.0), (40.0, 40.0, 50.0, 50.0)))
    context = replace(CONTEXT, label=(1, 2), regions={1: board, 2: Region(boxes=((2.0, 2.0, 4.0, 4.0),))})
    output = output_of(network(), Detection())
    objects = Detection().resolve("label", output, context)
    assert [one.key for one in objects] == ["1", "1#2", "2"]  # the third box lies outside
    assert [one.region.boxes for one in objects] == [(box,) for box in (*board.boxes[:2], *context.regions[2].boxes)]
    others = replace(context, label=1, regions=context.regions | {"cells": board})  # a region that is no label of the image
    assert [one.key for one in Detection().resolve("label", output, others)] == ["1", "1#2"]
    predicted = Detection().resolve(1, output, context)[0]
    torch.testing.assert_close(objects[0].place, predicted.place)
    double = replace(context, size=(64, 64), preprocess=Preprocess((32, 32), 32))
    doubled = {1: Region(boxes=tuple(tuple(2 * x for x in box) for box in board.boxes[:1]))}
    large = Detection().resolve("label", output, replace(double, regions=doubled))[0]
    torch.testing.assert_close(large.place, objects[0].place)


def test_a_mask_file_is_a_region(tmp_path):
    network = Segments()
    Image.fromarray(np.repeat(MASK[..., None], 3, 2)).save(tmp_path / "photo.png")
    np.save(tmp_path / "photo.npy", MASK > 0)
    Image.fromarray(np.dstack([MASK, MASK, MASK, np.full_like(MASK, 255)])).save(tmp_path / "opaque.png")
    whole = explain(Classifier(network, task=Segmentation(SHARES)), PHOTO, 1, **OPTIONS)
    for name in ("photo.png", "photo.npy", "opaque.png"):
        e = explain(Classifier(network, task=Segmentation(str(tmp_path / name))), PHOTO, 1, **OPTIONS)
        assert torch.equal(e.saliency, whole.saliency) and torch.equal(e.region, whole.region), name


def test_a_pixel_of_the_output_that_the_region_touches_belongs_to_it():
    task, output = Segmentation("dataset"), output_of(Segments(), Segmentation())  # 4 x 4 of 32 x 32
    region = Region(draw=lambda: Image.fromarray(np.eye(32, dtype=bool)))
    target = task.resolve(1, output, replace(CONTEXT, regions={1: region}))[0]
    assert torch.equal(target.place, torch.eye(4, dtype=torch.bool))
    other = task.prepare(torch.tensor([0]), output[None], None, target.place[None])  # of another class, the same region
    assert other[0, 0] == 0 and torch.equal(other[0, 2:].view(4, 4).bool(), target.place)


@pytest.mark.parametrize(
    "task, regions, words",
    [
        (Segmentation("dataset"), {}, "the dataset has no region of class 1 in this image"),
        (Segmentation("dataset"), {0: Region(boxes=((1, 1, 5, 5),))}, "no region of class 1"),
        (Segmentation("dataset"), {1: Region(boxes=((90, 1, 95, 5),))}, "lies outside of the part of this image"),
        (Segmentation("dataset"), {1: Region(draw=lambda: Image.new("1", (9, 9)))}, "9x9 pixels does not fit one of 32x32"),
        (Detection(), {1: Region(boxes=((90, 1, 95, 5),))}, "boxes of the dataset lie outside"),
    ],
)
def test_a_place_that_this_image_lacks_is_one_sentence(task, regions, words):
    network = Segments() if isinstance(task, Segmentation) else Boxes()
    target = 1 if isinstance(task, Segmentation) else "label"
    with pytest.raises(NotInImageError, match=words):
        task.resolve(target, output_of(network, task), replace(CONTEXT, label=1, regions=regions))


def test_a_batch_of_places_is_its_single_rows():
    regions = {1: Region(boxes=(tuple(BOX.tolist()), (15.0, 8.0, 24.0, 16.0)))}
    classifier, context = Classifier(Boxes(), task=Detection()), replace(CONTEXT, label=1, regions=regions)
    photos = [square_photo(SquareNet(), seed) for seed in range(2)]
    rows = [row for photo in photos for row in rows_of_image(classifier, photo, "photo", "label", [None], context)]
    quick = method("quick", "mask_size=8", "steps=4", "perturbation.sigma=3")
    with classifier.frozen():
        together, _ = solve(quick, classifier, rows, optimize)
        alone = [solve(quick, classifier, [row], optimize)[0] for row in rows]
    assert together.classes == ["class 1", "class 1 2"] * 2 and len(set(together.names)) == 2
    for field in ("saliency", "value_before", "value_after", "region"):
        torch.testing.assert_close(vars(together)[field], torch.cat([vars(e)[field] for e in alone]))


# ---- in a run


@pytest.fixture
def run(folder, mpx):
    """run(arguments...) -> (the lines of results.csv, stdout and stderr) of a run on photos with two boxes each."""
    here = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    (folder / "net.py").write_text(f"import sys\nsys.path[:0] = {here!r}\nfrom square_networks import *\n")
    (folder / "names.txt").write_text("nothing\nboard\nother\n")
    lines = [f"photos/p{i}.png,{box}" for i in range(3) for box in ("board,16,8,24,16", "board,15,8,24,16", "other,0,0,9,9")]
    (folder / "boxes.csv").write_text("\n".join(["image,label,x0,y0,x1,y1", *lines]))
    (folder / "masks").mkdir()
    for i in range(2):
        Image.fromarray(MASK).save(folder / "masks" / f"p{i}.png")
    plain = [argument for argument in SQUARE if not argument.startswith("model.network")]
    data = ["dataset=images", "dataset.files=photos", "dataset.boxes=boxes.csv", "pictures=none", "log_images=0", "name=a"]

    def call(*arguments):
        code, out, err = mpx(*plain, *data, "game=deletion", "threads=1", *arguments)
        with open("outputs/a/results.csv", newline="") as file:
            return list(csv.DictReader(file)), out + err

    yield call
    for name in here:
        if name in sys.path:
            sys.path.remove(name)


def test_a_run_explains_all_objects_of_the_dataset(run):
    arguments = ["model.network=net.py:Boxes", "task=detection", "target=label", "explainer=center"]
    rows, out = run(*arguments, "metric=[deletion,mass]")
    assert [(row["image"], row["target"], row["class"]) for row in rows[:3]] == [
        ("p0", "1", "board"), ("p0", "1", "board 2"), ("p0", "2", "other")
    ] and len(rows) == 9, out  # fmt: skip
    overlap = float(rows[1]["value_before"]) / float(rows[0]["value_before"])
    assert overlap == pytest.approx(64 / 72, abs=1e-3) and len({row["mask"] for row in rows}) == 9
    deletion = [row["deletion"] for row in rows]
    again, out = run(*arguments, "metric=[complexity]")
    assert "3 of 3 images are done" in out and "evaluating 9 masks" in out
    again, out = run(*arguments, "metric=[deletion,mass]")
    assert [row["deletion"] for row in again] == deletion and "9 masks" in out
    assert [row["mass"] for row in again] == [row["mass"] for row in rows]
    assert float(rows[0]["mass"]) < 0.98 * float(rows[1]["mass"])  # each object's metrics are of its own box


def test_a_run_takes_regions_from_mask_files_and_skips_images_without_one(run):
    network = ("model.network=net.py:Segments", "model.categories=null", "target=1")
    rows, out = run(*network, "task=segmentation", "task.region=masks")
    assert [row["image"] for row in rows] == ["p0", "p1"], out
    skipped = Path("outputs/a/skipped.csv").read_text()
    assert "'masks' has no mask of p2.png: expected p2.png or p2.npy there" in skipped
