"""Oxford-IIIT Pet in its original layout, a few tiny images: trimaps, labels, and what is refused."""

import numpy as np
import pytest
from layouts import by_name, picture, text
from PIL import Image

from mpx.data.annotations import Annotation
from mpx.data.pets import pets
from mpx.data.preprocessing import Preprocess


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
    items = by_name(pets(tmp_path))
    assert [item.label for item in items.values()] == ["Abyssinian", "Beagle", "Beagle"]
    place = Annotation(items["beagle_7"].regions["Beagle"], (20, 10), Preprocess((10, 20)))
    assert (place.original_mask().numpy() == (trimap == 1)).all() and place.boxes().tolist() == [[4, 3, 8, 5]]
    assert "no trimap" in items["beagle_8"].problem
    assert [item.label for item in pets(tmp_path, classes={"Beagle": "beagle", "*": None})] == ["beagle"] * 2
    for options, words in [
        ({"split": "trainval"}, "annotations/trainval.txt"),
        ({"split": "val"}, "val"),
        ({"classes": {"Begle": 1}}, "'Begle' is no category of this dataset: it has Beagle"),
        ({"classes": {"*": None}}, "no image in this split"),
    ]:
        with pytest.raises(ValueError, match=words):
            pets(tmp_path, **options)
