"""PASCAL VOC in its original layout, a few tiny images: regions, labels, and sentences about missing parts."""

import json

import pytest
from layouts import boxes, by_name, picture, text, xml

from mpx import config
from mpx.data.annotations import Annotation
from mpx.data.images import read_image
from mpx.data.preprocessing import Preprocess
from mpx.data.voc import voc


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "VOCdevkit/VOC2007"
    annotations = {
        "one": xml(("dog", 0, 1, 1, 10, 10), ("dog", 1, 11, 1, 12, 2)),
        "two": xml(("dog", 0, 1, 1, 2, 2), ("person", 0, 3, 1, 20, 10), ("dog", 0, 4.6, 1, 5.4, 2)),
        "beside": xml(("dog", 0, 1, 1, 2, 2), ("person", 1, 3, 1, 20, 10)),
        "hard": xml(("person", 1, 3, 1, 20, 10)),
        "broken": "<annotation><object>",
        "boxless": "<annotation><object><name>dog</name></object></annotation>",
        "sizeless": "<annotation><object/></annotation>",
    }
    for name, content in annotations.items():
        text(root / f"Annotations/{name}.xml", content)
        picture(root / f"JPEGImages/{name}.jpg", mode="L")
    text(root / "ImageSets/Main/test.txt", *annotations, "gone")
    return tmp_path


def test_voc(root):
    items = by_name(voc(root))
    assert list(items) == ["one", "two", "beside", "hard", "broken", "boxless", "sizeless", "gone"]
    assert boxes(items["one"]) == {"dog": ((0, 0, 10, 10),)}  # from 1, the last pixel included
    assert items["one"].label == "dog" and items["two"].label == ("dog", "person")
    assert boxes(items["two"]) == {"dog": ((0, 0, 2, 2), (4.6 - 1, 0, 5.4, 2)), "person": ((2, 0, 20, 10),)}
    hard = {(name, label): region.difficult for name, item in items.items() for label, region in item.regions.items()}
    # small and not alone; large; and small beside what the annotators call difficult
    assert hard == {("one", "dog"): False, ("two", "dog"): True, ("two", "person"): False, ("beside", "dog"): True}
    problems = {name: item.problem for name, item in items.items() if item.problem}
    assert "all are difficult" in problems.pop("hard") and "there is no annotation" in problems.pop("gone")
    assert "does not state the size" in problems.pop("sizeless")
    assert all(f"{name}.xml' is no PASCAL XML" in problem for name, problem in problems.items()) and len(problems) == 2
    size = read_image(items["one"].path).size
    assert Annotation(items["one"].regions["dog"], size, Preprocess((10, 20))).mask().sum() == 100


def test_difficult_objects_count_on_request(root):
    items = by_name(voc(root, xml_difficult=True))
    assert boxes(items["one"]) == {"dog": ((0, 0, 10, 10), (10, 0, 12, 2))}
    assert items["beside"].label == "dog" and items["hard"].problem


@pytest.mark.slow
def test_masks_equal_torchrays(root):
    torchray = pytest.importorskip("torchray.benchmark.datasets")
    from torchvision.datasets import VOCDetection

    files = VOCDetection(root, "2007", "test")
    for item, (_, tree) in zip(voc(root, xml_difficult=True)[:2], files):
        for label, region in item.regions.items():
            if all(value == int(value) for box in region.boxes for value in box):  # it takes whole numbers only
                mask = torchray.voc_as_mask(tree, torchray.VOC_CLASSES.index(label))
                assert (Annotation(region, (20, 10), Preprocess((10, 20))).original_mask() == mask).all()


def test_classes_by_map(root, tmp_path):
    text(tmp_path / "map.json", json.dumps({"dog": 207, "person": None}))
    text(tmp_path / "marked.json", "\ufeff" + json.dumps({"dog": 207, "person": None}))
    for classes in (tmp_path / "map.json", tmp_path / "marked.json", {"dog": 207, "*": None}):
        item = voc(root, classes=classes)[1]
        assert item.label == 207 and list(boxes(item)) == [207] and item.regions[207].difficult  # the person is still there
    cfg = config.compose("dataset=voc", f"dataset.root={root}", "dataset.classes={dog: 207, *: null}")
    assert config.build(cfg.dataset, "dataset")[1].label == 207
    merged = voc(root, classes={"dog": "animal", "person": "animal"})[1]
    assert len(merged.regions["animal"].boxes) == 3 and not merged.regions["animal"].difficult
    text(tmp_path / "list.json", "[]")
    text(tmp_path / "torn.json", "{")
    for classes, words in [
        ({"dog": 207}, "category 'person' has no class: give it one, or null"),
        ({"dog": 1.5, "*": None}, "'dog' has the class 1.5"),
        (tmp_path / "none.json", "is no file"),
        (tmp_path / "list.json", "one JSON object"),
        (tmp_path / "torn.json", "is no JSON"),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            voc(root, classes=classes)
        assert "\n" not in str(error.value)


def test_missing_splits_are_refused(root):
    for options, words in [
        ({"split": "val"}, r"no split 'val': expected VOCdevkit/VOC2007/ImageSets/Main/val.txt"),
        ({"year": 2012, "split": "val"}, "expected VOCdevkit/VOC2012"),
        ({"split": "tst"}, "tst"),
        ({"year": 1999}, "1999"),
    ]:
        with pytest.raises(ValueError, match=words):
            voc(root, **options)
    with pytest.raises(ValueError, match="is not a folder"):
        voc(root / "x")
