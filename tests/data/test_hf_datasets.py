"""Hugging Face's datasets: columns by their types, class names as labels, images as files, and a run that resumes."""

import io
import sys

import numpy as np
import pytest
from PIL import Image
from planted import SQUARE, SquareNet, square_photo
from torchvision.transforms.v2.functional import to_pil_image

from mpx.data.hf import hf

datasets = pytest.importorskip("datasets")
NAMES = ["nothing", "checker board"]
PHOTOS = [to_pil_image(square_photo(SquareNet(), seed)) for seed in range(3)]
LABELS = datasets.ClassLabel(names=NAMES)


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def table(labels=(1, 0, 1), kind=LABELS, images=None, **more):
    cells = {"photo": [png(image) for image in PHOTOS] if images is None else images, "class": list(labels)} | more
    features = {"photo": datasets.Image(), "class": kind} | {name: datasets.Value("string") for name in more}
    return datasets.Dataset.from_dict(cells, features=datasets.Features(features))


@pytest.fixture
def saved(tmp_path):
    """saved(table or splits, **options) -> the items of the folder that save_to_disk writes."""

    def call(content, **options):
        if content is not None:
            content.save_to_disk(str(tmp_path / "saved"))
        return hf(tmp_path / "saved", root=tmp_path / "images", **options)

    return call


def test_columns_are_found_by_their_types(saved):
    items = saved(table(note=["a", "b", "c"]))
    assert [item.name for item in items] == ["000000", "000001", "000002"]
    assert [item.label for item in items] == ["checker board", "nothing", "checker board"]
    for item, photo in zip(items, PHOTOS):
        assert item.path.suffix == ".png" and np.array_equal(np.asarray(Image.open(item.path)), np.asarray(photo))
    times = [item.path.stat().st_mtime_ns for item in items]
    assert [item.path.stat().st_mtime_ns for item in saved(None, limit=2)] == times[:2]  # written once
    assert [item.label for item in saved(None, label="note", image="photo")] == ["a", "b", "c"]
    assert [item.label for item in saved(None, classes={"checker board": 7, "*": None})] == [7, None, 7]


def test_a_changed_image_is_written_again(saved, tmp_path):
    saved(table())
    other = table(images=[png(photo.rotate(180)) for photo in PHOTOS])
    other.save_to_disk(str(tmp_path / "other" / "saved"))
    path = hf(tmp_path / "other" / "saved", root=tmp_path / "images")[0].path
    assert path.read_bytes() == png(PHOTOS[0].rotate(180))["bytes"]


def test_several_labels_no_label_and_no_image(saved):
    assert [item.label for item in saved(table([[0, 1], [], [1]], datasets.Sequence(LABELS)))] == [
        ("nothing", "checker board"), None, "checker board"
    ]  # fmt: skip


def test_unlabelled_rows_and_empty_cells(saved, tmp_path):
    PHOTOS[2].save(tmp_path / "own.png")
    items = saved(table([-1, None, 1], images=[png(PHOTOS[0]), None, {"bytes": None, "path": str(tmp_path / "own.png")}]))
    assert [item.label for item in items] == [None, None, "checker board"]
    assert items[1].problem == "row 1 of the dataset has no image" and items[0].problem is None
    assert items[2].name in ("own", "000002")  # save_to_disk embeds files


def test_splits(saved):
    both = datasets.DatasetDict({"train": table(), "test": table([0, 0, 0])})
    assert [item.label for item in saved(both, split="test")] == ["nothing"] * 3
    with pytest.raises(ValueError, match="dataset.split=None must be one of the splits of .*: train, test"):
        saved(None)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(image="foto"), "dataset.image='foto' is no column of the dataset; near it: photo"),
        (dict(label="klass"), "dataset.label='klass' is no column"),
        (dict(split="test"), "has one split only"),
        (dict(classes={"dog": 3}), "'dog' is no category"),
    ],
)
def test_a_wrong_option_is_one_sentence(saved, options, words):
    with pytest.raises(ValueError, match=words) as error:
        saved(table(), **options)
    assert "\n" not in str(error.value)


def test_a_dataset_without_images_or_with_two_columns_of_them(saved, tmp_path, monkeypatch):
    texts = datasets.Dataset.from_dict({"text": ["a"]})
    with pytest.raises(ValueError, match=r"has no column of images: its columns are text \(Value\)"):
        saved(texts)
    both = table().add_column("again", [0, 1, 0]).cast_column("again", LABELS)
    both.save_to_disk(str(tmp_path / "both"))
    with pytest.raises(ValueError, match="has 2 columns of labels: set dataset.label= to one of class, again"):
        hf(tmp_path / "both", root=tmp_path / "images")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="dataset.name='.*nowhere' cannot be loaded") as error:
        hf(tmp_path / "nowhere", root=tmp_path / "images")
    assert "\n" not in str(error.value)


def test_without_the_package_a_sentence_says_how_to_install_it(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r'needs datasets: pip install "mpx\[hf\]"'):
        hf("saved")


def test_a_run_resumes(folder, mpx):
    table().save_to_disk("saved")
    arguments = ["dataset=hf", "dataset.name=saved", "target=label", "pictures=none", "name=a", "threads=1", "steps=2"]
    assert mpx(*SQUARE, *arguments, "limit=2")[0] == 0
    code, out, err = mpx(*SQUARE, *arguments)
    assert code == 0 and "resuming" in out + err or "2 of 3 images" in out + err, out + err
    lines = (folder / "outputs/a/results.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [
        ["000000", "1", "checker board"], ["000001", "0", "nothing"], ["000002", "1", "checker board"]
    ]  # fmt: skip
    assert "3 of 3 images are done" in mpx(*SQUARE, *arguments)[1]
