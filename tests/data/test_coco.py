"""A COCO folder of four images: polygons, run lengths of both kinds, a crowd, several objects, grey and empty ones."""

import json
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mpx import config
from mpx.data.annotations import Annotation
from mpx.data.coco import coco
from mpx.data.coco_outlines import draw
from mpx.data.images import read_image
from mpx.data.preprocessing import Preprocess

mask = pytest.importorskip("pycocotools.mask")
WIDTH, HEIGHT = SIZE = (30, 20)


def full(y0, y1, x0, x1):
    area = np.zeros((HEIGHT, WIDTH), bool)
    area[y0:y1, x0:x1] = True
    return area


def lengths(area):
    """Uncompressed run lengths, column by column, the first of zeros."""
    flat = np.concatenate([[0], area.T.ravel(), [2]]).astype(int)
    ends = np.flatnonzero(np.diff(flat)) if area.any() else np.array([area.size])
    return {"size": [HEIGHT, WIDTH], "counts": np.diff(np.concatenate([[0], ends])).tolist()}


def compressed(area):
    runs = mask.encode(np.asfortranarray(area.astype(np.uint8)))
    return {"size": runs["size"], "counts": runs["counts"].decode()}


def square(x0, y0, x1, y1):
    return [x0, y0, x1, y0, x1, y1, x0, y1]


CROWD, SOFA = full(0, 20, 0, 3), full(10, 20, 5, 30)
OBJECTS = [  # image, category, crowd, segmentation, bbox, area
    (1, 18, 0, [square(2, 3, 8, 9), square(20, 3, 24, 5), [1, 2, 3, 4]], [2, 3, 22, 6], 44),
    (1, 18, 1, lengths(CROWD), [0, 0, 3, 20], 60),
    (1, 63, 0, compressed(SOFA), [5, 10, 25, 10], 250),
    (2, 18, 1, compressed(CROWD), [0, 0, 3, 20], 60),
    (3, 18, 0, None, [1, 1, 5, 5], 25),
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "val").mkdir()
    for number in range(1, 5):
        Image.new("L" if number == 2 else "RGB", SIZE).save(tmp_path / f"val/{number:012d}.jpg")
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": WIDTH, "height": HEIGHT} for n in range(1, 5)]
    keys = ("image_id", "category_id", "iscrowd", "segmentation", "bbox", "area")
    annotations = [{"id": i, **dict(zip(keys, values))} for i, values in enumerate(OBJECTS, 1)]
    write(tmp_path, images, annotations)
    return tmp_path


def write(folder, images, annotations):
    categories = [{"id": 18, "name": "dog"}, {"id": 63, "name": "couch"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))


def test_coco(folder, capfd):
    items = coco(folder / "val", folder / "instances.json")
    assert capfd.readouterr() == ("", "")
    one, grey, boxed, empty = items = pickle.loads(pickle.dumps(items))  # as another process gets them
    assert [item.label for item in items] == [("dog", "couch"), "dog", "dog", None]
    assert one.regions["dog"].boxes == ((2, 3, 24, 9),) and grey.regions["dog"].boxes == ((0, 0, 3, 20),)
    assert "no object for '000000000004.jpg'" in empty.problem and not any(item.problem for item in items[:3])
    assert read_image(grey.path).mode == "RGB"
    same = Preprocess((HEIGHT, WIDTH))
    drawn = {label: Annotation(region, SIZE, same).original_mask().numpy() for label, region in one.regions.items()}
    assert (drawn["dog"] == full(3, 9, 2, 8) | full(3, 5, 20, 24) | CROWD).all() and (drawn["couch"] == SOFA).all()
    assert (Annotation(grey.regions["dog"], SIZE, same).mask().numpy() == CROWD).all()
    assert boxed.regions["dog"].draw is None and Annotation(boxed.regions["dog"], SIZE, same).mask().sum() == 25
    # 104 of 600 pixels and not alone; 250 of them; alone
    assert [one.regions["dog"].difficult, one.regions["couch"].difficult] == [True, False]
    assert not grey.regions["dog"].difficult


def test_each_object_has_an_outline_of_its_own(folder):
    one, grey, boxed, _ = coco(folder / "val", folder / "instances.json", {"dog": "thing", "couch": "thing"})
    drawn = [Annotation(r, SIZE, Preprocess((HEIGHT, WIDTH))).original_mask().numpy() for r in one.regions["thing"].objects]
    assert len(drawn) == 2 and (drawn[0] == full(3, 9, 2, 8) | full(3, 5, 20, 24)).all() and (drawn[1] == SOFA).all()
    assert [r.boxes for r in one.regions["thing"].objects] == [((2, 3, 24, 9),), ((5, 10, 30, 20),)]  # and not the crowd
    assert len(grey.regions["thing"].objects) == 1 and boxed.regions["thing"].objects[0].draw is None
    assert all(r.difficult for r in coco(folder / "val", folder / "instances.json")[0].regions["dog"].objects)


def test_drawings_equal_pycocotools(folder):
    from pycocotools.coco import COCO

    parsed = COCO(folder / "instances.json")
    for item, number in zip(coco(folder / "val", folder / "instances.json"), (1, 2)):
        for label, region in item.regions.items():
            ids = parsed.getAnnIds([number], parsed.getCatIds([label]), iscrowd=None)
            result = np.any([parsed.annToMask(one) for one in parsed.loadAnns(ids)], 0)
            assert torch.equal(Annotation(region, SIZE, Preprocess(SIZE[::-1])).original_mask(), torch.from_numpy(result))


def test_classes(folder):
    items = coco(folder / "val", folder / "instances.json", {"dog": 207, "*": None})
    assert [item.label for item in items] == [207, 207, 207, None] and items[0].regions[207].difficult
    (one, *_) = coco(folder / "val", folder / "instances.json", {"dog": "thing", "couch": "thing"})
    assert len(one.regions["thing"].boxes) == 2 and not one.regions["thing"].difficult
    for classes, words in [
        ({"dog": 207}, "category 'couch' has no class"),
        ({"dgo": 207, "*": None}, "'dgo' is no category of this dataset: it has dog"),
    ]:
        with pytest.raises(ValueError, match=words):
            coco(folder / "val", folder / "instances.json", classes)


def test_unusable_files_are_refused(folder, monkeypatch):
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"][0]["category_id"] = 99
    (folder / "unknown.json").write_text(json.dumps(content))
    (folder / "torn.json").write_text("{")
    (folder / "list.json").write_text("[]")
    (folder / "captions.json").write_text(json.dumps({"images": content["images"], "annotations": []}))
    for file, words in [
        ("unknown.json", "annotation 1 in .* is of category 99, which the file does not list"),
        ("torn.json", "is no COCO JSON"),
        ("list.json", "is no COCO JSON"),
        ("captions.json", "lists no categories"),
        ("gone.json", "is no file"),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            coco(folder / "val", folder / file)
        assert "\n" not in str(error.value)
    node = config.compose("dataset=coco", f"dataset.root={folder}/val", f"dataset.annotations={folder}/instances.json")
    assert len(config.build(node.dataset, "dataset")) == 4
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ValueError, match=r"pip install 'mpx\[datasets\]'"):
        coco(folder / "val", folder / "instances.json")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"segmentation": [[1, 2, 3]]}, "annotation 1 in .* has the polygon"),
        ({"segmentation": [[1, 2, 3, float("nan"), 5, 6]]}, "annotation 1 in .* has the polygon"),
        ({"segmentation": 5}, "annotation 1 in .* has the segmentation 5"),
        ({"bbox": [1, 2, 3]}, r"annotation 1 in .* has the bbox \[1, 2, 3\]"),
        ({"area": "x"}, "annotation 1 in .* has the area 'x'"),
        ({"category_id": []}, "is no COCO JSON"),
    ],
)
def test_annotations_that_are_no_annotations_are_refused(folder, change, words):
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"][0] |= change
    (folder / "bad.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words) as error:
        coco(folder / "val", folder / "bad.json")
    assert "\n" not in str(error.value)


def test_polygons_far_outside_are_clipped():
    """pycocotools ends the process for them."""
    far = [0, 0, 1e9, 0, 1e9, 1e9]
    drawn = np.asarray(draw(([far],), (8, 6)))
    assert drawn.any() and not np.tril(drawn, -1).any() and np.triu(drawn, 1).sum() == np.triu(np.ones((6, 8)), 1).sum()
    assert np.asarray(draw(([[-1e9, -1e9, 1e9, -1e9, 1e9, 1e9, -1e9, 1e9]],), (8, 6))).all()
    assert not np.asarray(draw(([[1e9, 1e9, 2e9, 1e9, 2e9, 2e9]],), (8, 6))).any()


@pytest.mark.parametrize("counts", [[5] * 10, [0, 10**6], [-1, 49], [1.5, 46.5], "zzzz", "\u1234", ""])
def test_run_lengths_of_another_image_are_refused(counts):
    """pycocotools reads and writes beyond its memory for them."""
    with pytest.raises(ValueError, match="do not fit an image of 8x6 pixels"):
        draw(({"counts": counts, "size": [6, 8]},), (8, 6))


def test_run_lengths_are_those_of_pycocotools():
    random = np.random.default_rng(0)
    for _ in range(30):
        area = random.random(random.integers(1, 40, 2)) < random.choice([0, 0.1, 0.5, 1])
        assert (np.asarray(draw((compressed(area),), area.shape[::-1])) == area).all()
