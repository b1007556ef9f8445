"""Datasets in their original layouts, a few tiny images each: what is where, and what is said when something is missing."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpx import config
from mpx.data import annotated
from mpx.data.annotations import Annotation
from mpx.data.images import read_image
from mpx.data.preprocessing import Preprocess

SAMPLE = Path("/work/shared/data/imagenet_val100")  # not in the repository


def picture(path, size=(20, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]))


def xml(*objects, size=(20, 10)):
    """objects: (name, difficult, xmin, ymin, xmax, ymax), with a part inside each as VOC's people have."""
    box = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    part = f"<part><name>head</name>{box.format(1, 1, 2, 2)}</part>"
    found = "".join(
        f"<object><name>{name}</name><difficult>{hard}</difficult>{box.format(*corners)}{part}</object>"
        for name, hard, *corners in objects
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{found}</annotation>"


def boxes(item):
    return {label: region.boxes for label, region in item.regions.items()}


def by_name(items):
    """As another process gets them."""
    return {item.name: item for item in pickle.loads(pickle.dumps(items))}


@pytest.fixture
def voc(tmp_path):
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


def test_voc(voc):
    items = by_name(annotated.voc(voc))
    assert list(items) == ["one", "two", "beside", "hard", "broken", "boxless", "sizeless", "gone"]
    assert boxes(items["one"]) == {"dog": ((0, 0, 10, 10),)}  # from 1, the last pixel included
    assert items["one"].label == "dog" and items["two"].label == ("dog", "person")
    assert boxes(items["two"]) == {"dog": ((0, 0, 2, 2), (4.6 - 1, 0, 5.4, 2)), "person": ((2, 0, 20, 10),)}
    hard = {(name, label): region.difficult for name, item in items.items() for label, region in item.regions.items()}
    # small and not alone; large; and small beside what the annotators call difficult
    assert hard == {("one", "dog"): False, ("two", "dog"): True, ("two", "person"): False, ("beside", "dog"): True}
    problems = {name: item.problem for name, item in items.items() if item.problem}
    assert "all are difficult" in problems.pop("hard") and "there is no annotation" in problems.pop("gone")
    assert "does not tell the size" in problems.pop("sizeless")
    assert all(f"{name}.xml' is no PASCAL XML" in problem for name, problem in problems.items()) and len(problems) == 2
    size = read_image(items["one"].path).size
    assert Annotation(items["one"].regions["dog"], size, Preprocess((10, 20))).mask().sum() == 100


def test_vocs_difficult_objects_count_when_asked(voc):
    items = by_name(annotated.voc(voc, xml_difficult=True))
    assert boxes(items["one"]) == {"dog": ((0, 0, 10, 10), (10, 0, 12, 2))}
    assert items["beside"].label == "dog" and items["hard"].problem


def test_voc_as_torchray_sees_it(voc):
    torchray = pytest.importorskip("torchray.benchmark.datasets")
    from torchvision.datasets import VOCDetection

    files = VOCDetection(voc, "2007", "test")
    for item, (_, tree) in zip(annotated.voc(voc, xml_difficult=True)[:2], files):
        for label, region in item.regions.items():
            if all(value == int(value) for box in region.boxes for value in box):  # it takes whole numbers only
                mask = torchray.voc_as_mask(tree, torchray.VOC_CLASSES.index(label))
                assert (Annotation(region, (20, 10), Preprocess((10, 20))).original() == mask).all()


def test_classes_by_map(voc, tmp_path):
    text(tmp_path / "map.json", json.dumps({"dog": 207, "person": None}))
    text(tmp_path / "marked.json", "\ufeff" + json.dumps({"dog": 207, "person": None}))
    for classes in (tmp_path / "map.json", tmp_path / "marked.json", {"dog": 207, "*": None}):
        item = annotated.voc(voc, classes=classes)[1]
        assert item.label == 207 and list(boxes(item)) == [207] and item.regions[207].difficult  # the person is still there
    cfg = config.compose("dataset=voc", f"dataset.root={voc}", "dataset.classes={dog: 207, *: null}")
    assert config.build(cfg.dataset, "dataset")[1].label == 207
    merged = annotated.voc(voc, classes={"dog": "animal", "person": "animal"})[1]
    assert len(merged.regions["animal"].boxes) == 3 and not merged.regions["animal"].difficult
    text(tmp_path / "list.json", "[]")
    text(tmp_path / "torn.json", "{")
    for classes, words in [
        ({"dog": 207}, "category 'person' has no class: give it one, or null"),
        ({"dog": 1.5, "*": None}, "'dog' is given the class 1.5"),
        (tmp_path / "none.json", "is no file"),
        (tmp_path / "list.json", "one JSON object"),
        (tmp_path / "torn.json", "is no JSON"),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            annotated.voc(voc, classes=classes)
        assert "\n" not in str(error.value)


def test_a_split_that_is_not_there(voc):
    for options, words in [
        ({"split": "val"}, r"no split 'val': expected VOCdevkit/VOC2007/ImageSets/Main/val.txt"),
        ({"year": 2012, "split": "val"}, "expected VOCdevkit/VOC2012"),
        ({"split": "tst"}, "tst"),
        ({"year": 1999}, "1999"),
    ]:
        with pytest.raises(ValueError, match=words):
            annotated.voc(voc, **options)
    with pytest.raises(ValueError, match="is not a folder"):
        annotated.voc(voc / "x")


@pytest.fixture
def imagenet(tmp_path):
    names = [f"ILSVRC2012_val_{number:08d}" for number in (1, 2, 3)]
    for name in names:
        picture(tmp_path / f"images/n1/{name}.JPEG")
    lines = [
        f"{names[0]},n01 0 1 5 6 n01 7 1 9 6 ",
        f"{names[1]},n01 0 1 5 6 n02 7 1 9 6",
        "ILSVRC2012_val_00000009,n01 0 0 1 1",
    ]
    text(tmp_path / "LOC_val_solution.csv", "ImageId,PredictionString", *lines)
    text(tmp_path / f"xml/{names[0]}.xml", xml(("n01", 0, 0, 1, 5, 6), ("n01", 0, 7, 1, 9, 6)))
    text(tmp_path / f"xml/{names[1]}.xml", xml(("n01", 0, 0, 1, 5, 6), ("n02", 0, 7, 1, 9, 6)))
    return tmp_path


def test_imagenet(imagenet):
    one, two, none = annotated.imagenet(imagenet)
    assert one.label == "n01" and boxes(one) == {"n01": ((0, 1, 5, 6), (7, 1, 9, 6))}
    assert two.label == ("n01", "n02") and none.label is None and "no box for ILSVRC2012_val_00000003" in none.problem
    by_xml = annotated.imagenet(imagenet, annotations="xml")
    assert [(item.label, item.regions) for item in by_xml] == [(item.label, item.regions) for item in (one, two, none)]
    assert "no annotation" in by_xml[2].problem
    text(imagenet / "out.txt", "3", "ILSVRC2012_val_00000002.JPEG", "900")
    assert annotated.imagenet(imagenet, exclude=imagenet / "out.txt") == [one]
    assert [(item.label, item.regions) for item in annotated.imagenet(imagenet, annotations=None)] == [(None, {})] * 3
    text(imagenet / "xml/ILSVRC2012_val_00000003.xml", xml())
    assert "no box for ILSVRC2012_val_00000003" in annotated.imagenet(imagenet, annotations="xml")[2].problem


def test_imagenet_says_what_is_wrong(imagenet):
    text(imagenet / "all.txt", "1", "2", "3")
    text(imagenet / "torn.csv", "ImageId,PredictionString", "a,n01 1 2 3")
    for options, words in [
        ({"annotations": "LOC.csv"}, "does not exist"),
        ({"annotations": "torn.csv"}, "line 2 of"),
        ({"images": "pictures"}, "is not a folder"),
        ({"exclude": imagenet / "all.txt"}, "not excluded"),
        ({"exclude": imagenet / "some.txt"}, "is no file"),
    ]:
        with pytest.raises(ValueError, match=words):
            annotated.imagenet(imagenet, **options)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the 100 photos are not here")
def test_the_real_sample():
    items = config.build(config.compose("dataset=imagenet", f"dataset.root={SAMPLE}").dataset, "dataset")
    known = {Path(entry["file"]).stem: entry for entry in json.loads((SAMPLE / "boxes.json").read_text())}
    assert len(items) == len(known) == 100 and not any(item.problem for item in items)
    for item in items:
        entry = known[item.name]
        assert item.label == entry["wnid"] and boxes(item) == {entry["wnid"]: tuple(map(tuple, entry["boxes"]))}
    whole, shares = Preprocess((224, 224), 256), []
    for item in items[:5]:
        size = read_image(item.path).size
        shares.append(Annotation(item.regions[item.label], size, whole).original().double().mean().item())
    assert np.allclose(shares, [known[item.name]["box_area_fraction"] for item in items[:5]], atol=1e-3)


def test_pets(tmp_path):
    root, names = tmp_path / "oxford-iiit-pet", ["Abyssinian_1", "beagle_7", "beagle_8"]
    for name in names:
        picture(root / f"images/{name}.jpg")
    (root / "annotations/trimaps").mkdir(parents=True)
    trimap = np.full((10, 20), 2, np.uint8)
    trimap[2:6, 3:9], trimap[3:5, 4:8] = 3, 1
    for name in names[:2]:
        Image.fromarray(trimap).save(root / f"annotations/trimaps/{name}.png")
    text(root / "annotations/test.txt", "Abyssinian_1 1 1 1", "beagle_7 2 2 1", "beagle_8 2 2 1")
    items = by_name(annotated.pets(tmp_path))
    assert [item.label for item in items.values()] == ["Abyssinian", "Beagle", "Beagle"]
    place = Annotation(items["beagle_7"].regions["Beagle"], (20, 10), Preprocess((10, 20)))
    assert (place.original().numpy() == (trimap == 1)).all() and place.boxes().tolist() == [[4, 3, 8, 5]]
    assert "no trimap" in items["beagle_8"].problem
    assert [item.label for item in annotated.pets(tmp_path, classes={"Beagle": "beagle", "*": None})] == ["beagle"] * 2
    for options, words in [
        ({"split": "trainval"}, "annotations/trainval.txt"),
        ({"split": "val"}, "val"),
        ({"classes": {"Begle": 1}}, "'Begle' is no category of this dataset: it has Beagle"),
        ({"classes": {"*": None}}, "no image in this split"),
    ]:
        with pytest.raises(ValueError, match=words):
            annotated.pets(tmp_path, **options)


def test_cub(tmp_path):
    for name in ("a/1.jpg", "b/2.jpg", "b/3.jpg"):
        picture(tmp_path / "images" / name)
    text(tmp_path / "images.txt", "1 a/1.jpg", "2 b/2.jpg", "3 b/3.jpg")
    text(tmp_path / "classes.txt", "1 001.Black_footed_Albatross", "2 002.Crow")
    text(tmp_path / "image_class_labels.txt", "1 1", "2 2", "3 2")
    text(tmp_path / "train_test_split.txt", "1 1", "2 0", "3 0")
    text(tmp_path / "bounding_boxes.txt", "1 0.0 0.0 5.0 5.0", "2 3.0 1.0 10.0 8.0")
    text(tmp_path / "parts/parts.txt", "1 back", "2 left eye")
    text(tmp_path / "parts/part_locs.txt", "2 1 5.0 6.0 1", "2 2 0.0 0.0 0", "1 2 3.5 2.0 1")
    two, three = annotated.cub(tmp_path)
    assert two.label == "Crow" and boxes(two) == {"Crow": ((3, 1, 13, 9),)}
    assert two.regions["Crow"].points == {"back": (5, 6)} and "no line for image 3" in three.problem
    (one,) = annotated.cub(tmp_path, "train")
    assert one.label == "Black_footed_Albatross" and one.regions[one.label].points == {"left eye": (3.5, 2)}
    assert by_name(annotated.cub(tmp_path, "all")).keys() == {"1", "2", "3"}
    with pytest.raises(ValueError, match="split='val' must be"):
        annotated.cub(tmp_path, "val")
    text(tmp_path / "classes.txt", "1 001.Black_footed_Albatross")
    with pytest.raises(ValueError, match="do not fit together .KeyError: '2'"):
        annotated.cub(tmp_path)
    (tmp_path / "parts/part_locs.txt").unlink()
    with pytest.raises(ValueError, match="there is no .*part_locs.txt"):
        annotated.cub(tmp_path)


@pytest.mark.parametrize("name", ["imagenet", "voc", "pets", "cub"])
def test_the_menus_options_are_the_functions(name, tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match="x"):
        config.build(config.compose(f"dataset={name}", f"dataset.root={tmp_path}/x").dataset, "dataset")
    with pytest.raises(ValueError, match="root"):
        config.build(config.compose(f"dataset={name}").dataset, "dataset")
