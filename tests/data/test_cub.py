"""CUB-200-2011 in its original layout, a few tiny images: boxes, parts, and what is refused."""

import pytest
from layouts import boxes, by_name, picture, text

from mpx.data.cub import cub


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
    two, three = cub(tmp_path)
    assert two.label == "Crow" and boxes(two) == {"Crow": ((3, 1, 13, 9),)}
    assert two.regions["Crow"].points == {"back": (5, 6)} and "no line for image 3" in three.problem
    (one,) = cub(tmp_path, "train")
    assert one.label == "Black_footed_Albatross" and one.regions[one.label].points == {"left eye": (3.5, 2)}
    assert by_name(cub(tmp_path, "all")).keys() == {"1", "2", "3"}
    with pytest.raises(ValueError, match="split='val' must be"):
        cub(tmp_path, "val")
    text(tmp_path / "classes.txt", "1 001.Black_footed_Albatross")
    with pytest.raises(ValueError, match="do not fit together .KeyError: '2'"):
        cub(tmp_path)
    (tmp_path / "parts/part_locs.txt").unlink()
    with pytest.raises(ValueError, match="there is no .*part_locs.txt"):
        cub(tmp_path)
