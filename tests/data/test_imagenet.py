"""ImageNet's validation images in their original layout, a few tiny ones: boxes from CSV and XML, and what is refused."""

import pytest
from layouts import boxes, picture, text, xml

from mpx.data.imagenet import imagenet


@pytest.fixture
def root(tmp_path):
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


def test_imagenet(root):
    one, two, none = imagenet(root)
    assert one.label == "n01" and boxes(one) == {"n01": ((0, 1, 5, 6), (7, 1, 9, 6))}
    assert two.label == ("n01", "n02") and none.label is None and "no box for ILSVRC2012_val_00000003" in none.problem
    by_xml = imagenet(root, annotations="xml")
    assert [(item.label, item.regions) for item in by_xml] == [(item.label, item.regions) for item in (one, two, none)]
    assert "no annotation" in by_xml[2].problem
    text(root / "out.txt", "3", "ILSVRC2012_val_00000002.JPEG", "900")
    assert imagenet(root, exclude=root / "out.txt") == [one]
    assert [(item.label, item.regions) for item in imagenet(root, annotations=None)] == [(None, {})] * 3
    text(root / "xml/ILSVRC2012_val_00000003.xml", xml())
    assert "no box for ILSVRC2012_val_00000003" in imagenet(root, annotations="xml")[2].problem


def test_missing_files_are_refused(root):
    text(root / "all.txt", "1", "2", "3")
    text(root / "torn.csv", "ImageId,PredictionString", "a,n01 1 2 3")
    for options, words in [
        ({"annotations": "LOC.csv"}, "does not exist"),
        ({"annotations": "torn.csv"}, "line 2 of"),
        ({"images": "pictures"}, "is not a folder"),
        ({"exclude": root / "all.txt"}, "not excluded"),
        ({"exclude": root / "some.txt"}, "is no file"),
    ]:
        with pytest.raises(ValueError, match=words):
            imagenet(root, **options)
