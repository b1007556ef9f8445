"""Several objects of one class in a COCO image: each is a row, explained and evaluated on its own outline."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mpx.data.annotations import Annotation, Region
from mpx.data.preprocessing import Preprocess
from mpx.data.synthetic import cells_of, draw, paint
from mpx.metrics.iou import iou
from mpx.metrics.mass import mass
from mpx.models.synthetic import Boxes
from mpx.runs.tables import read_csv

mask = pytest.importorskip("pycocotools.mask")
SIDE = 96
RING, BLOCK = cells_of("1111 1001 1001 1111", 8, 8), cells_of("111 111", 56, 56)  # two ambers; the ring is not its box
SETTING = [
    *("dataset=coco", "dataset.root=photos", "dataset.annotations=instances.json", "target=label"),
    *("device=cpu", "threads=1", "game=deletion", "steps=20", "mask_size=12", "jitter=0", "pictures=none"),
    *("log_images=0", "name=a", "ranking=mask"),
]


class HalfBoxes(Boxes):
    """A detector of the objects in the upper left and in the lower right half of an image, of one class each."""

    def forward(self, x):
        left = (torch.arange(SIDE)[:, None] + torch.arange(SIDE)) < SIDE
        parts = zip(*(super(HalfBoxes, self).forward(torch.where(half, x, 0.5)) for half in (left, ~left)))
        return [{key: torch.cat([a[key], b[key]]) for key in a} for a, b in parts]


def half_boxes():
    return HalfBoxes(8.0, 3)


def outlines() -> torch.Tensor:
    """(2,1,H,W) of True and False."""
    return torch.stack([annotation(cells).mask()[None] for cells in (RING, BLOCK)])


def annotation(cells) -> Annotation:
    return Annotation(Region(draw=partial(draw, cells, SIDE)), (SIDE, SIDE), Preprocess((SIDE, SIDE)))


@pytest.fixture
def run(tmp_path, mpx, monkeypatch):
    """run(arguments...) -> (lines of results.csv, stored saliency (B,1,H,W)) of a run on the image with two ambers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    Path("photos").mkdir()
    Image.fromarray(paint([(0, RING), (0, BLOCK)], 0, SIDE, 0)).save("photos/p.png")
    objects = []
    for number, outline in enumerate(outlines(), 1):
        rle = mask.encode(np.asfortranarray(outline[0].byte().numpy()))
        box, area = mask.toBbox(rle).tolist(), int(mask.area(rle))
        rle = {"size": rle["size"], "counts": rle["counts"].decode()}
        objects.append(dict(id=number, image_id=1, category_id=1, iscrowd=0, segmentation=rle, bbox=box, area=area))
    images = [dict(id=1, file_name="p.png", width=SIDE, height=SIDE)]
    content = dict(images=images, annotations=objects, categories=[dict(id=1, name="amber")])
    Path("instances.json").write_text(json.dumps(content))

    def call(*arguments):
        code, out, err = mpx(*SETTING, *arguments)
        assert code == 0, out + err
        rows = read_csv(Path("outputs/a/results.csv"))
        stored = [np.load(Path("outputs/a", row["mask"]))["saliency"].astype(np.float32) for row in rows]
        return rows, torch.from_numpy(np.stack(stored))[:, None]

    return call


@pytest.mark.parametrize(
    "task",
    [
        ["task=segmentation", "task.region=objects", "model=synthetic", f"model.size={SIDE}"],
        ["task=detection", "model=custom", "model.network=test_objects:half_boxes", "model.mean=0", "model.std=1",
         f"model.size={SIDE}", "model.categories=[amber,basalt,cedar,delft]"],
    ],
    ids=["segmentation", "detection"],
)  # fmt: skip
def test_each_object_is_explained_and_evaluated_on_its_own_outline(run, task):
    rows, saliency = run(*task, "metric=[mass,iou]")
    assert [row["class"] for row in rows] == ["amber", "amber 2"]
    inside = (saliency * outlines()).sum((1, 2, 3)) / saliency.sum((1, 2, 3))
    other = (saliency * outlines().flip(0)).sum((1, 2, 3)) / saliency.sum((1, 2, 3))
    assert (inside > 0.5).all() and (other < 0.02).all(), (inside, other)
    context = SimpleNamespace(annotations=[annotation(cells) for cells in (RING, BLOCK)])
    for name, metric in (("mass", mass), ("iou", iou)):
        expected = metric(saliency, context).tolist()
        assert [float(row[name]) for row in rows] == pytest.approx(expected, abs=1e-4), name
