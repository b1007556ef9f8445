"""Similarity to other images, which the network embeds itself."""

import numpy as np
import pytest
import torch
from planted import SQUARE, SquareNet, square_photo
from square_networks import EYE, Embedding
from torch import nn
from torchvision.transforms.functional import to_pil_image, to_tensor

from mpx import explain
from mpx.data.preprocessing import Preprocess
from mpx.models import Classifier
from mpx.tasks.similarity import Similarity

PHOTOS = torch.stack([square_photo(SquareNet(), seed) for seed in range(3)])
OPTIONS = dict(mask_size=8, steps=3, jitter=0)


@pytest.fixture
def files(tmp_path):
    """Three image files, and the tensors in them."""
    paths = [tmp_path / f"other{i}.png" for i in range(3)]
    for path, photo in zip(paths, PHOTOS):
        to_pil_image(photo).save(path)
    return [str(path) for path in paths], torch.stack([to_tensor(to_pil_image(photo)) for photo in PHOTOS])


def test_an_image_file_is_the_embedding_that_the_network_gives_it(files):
    paths, images = files
    network = nn.Sequential(nn.Dropout(0.5), Embedding()).train()  # it embeds in eval mode, as it is explained
    with torch.no_grad():
        vectors = network[1](images * 2 - 1)
    for given, known in (paths[0], vectors[0]), (paths, vectors):
        model = Classifier(network, mean=0.5, std=0.5)
        tasks = Similarity(images=given), Similarity(known)
        a, b = (explain(model, PHOTOS[1:2], 0, task=task, **OPTIONS) for task in tasks)
        torch.testing.assert_close(a.value_before, b.value_before)
        torch.testing.assert_close(a.saliency, b.saliency)
    assert a.classes == ["other0"] and b.classes == ["embedding 0"] and network.training and network[0].training


def test_images_are_preprocessed_as_the_model_says(files):
    model, large = Classifier(Embedding(), preprocess=Preprocess((32, 32), 40)), to_pil_image(torch.rand(3, 90, 70))
    large.save(files[0][0])
    with torch.no_grad():
        vectors = Embedding()(model.preprocess(large)[None])
    embeddings = model.with_task(Similarity(images=files[0][0])).task.embeddings
    torch.testing.assert_close(embeddings, nn.functional.normalize(vectors))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda files: Similarity(), "give one of task.embeddings, task.images and task.texts"),
        (lambda files: Similarity(EYE, images=files[0]), "give one of"),
        (lambda files: Similarity(images=files[0] + "x"), "does not exist"),
        (lambda files: Similarity(images=files, names=["a"]), "1 names do not fit 3 images"),
        (lambda files: Classifier(nn.Conv2d(3, 4, 3)).with_task(Similarity(images=files[0])), "shape .1, 4, 30, 30."),
        (lambda files: explain(Embedding(), PHOTOS, "dog", task=Similarity(images=files)), "'dog' is not a class"),
        (lambda files: Classifier(Embedding()).with_task(Similarity(texts=["a cat"])), "need a model that embeds texts"),
        (lambda files: Classifier(Embedding(), task=Similarity(images=files))(PHOTOS), "not embedded yet"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(make, words, files):
    with pytest.raises(ValueError, match=words) as error:
        make(files[0])
    assert "\n" not in str(error.value)


def test_a_run_compares_with_an_image_and_notices_another(folder, mpx):
    here = str(folder)
    net = (folder / "net.py").read_text() + f"sys.path.append({str(__file__).rsplit('/', 1)[0]!r})\n"
    (folder / "net.py").write_text(net + "from square_networks import Embedding\n")
    to_pil_image(PHOTOS[2]).save("other.png")
    network = ["model.network=net.py:Embedding", "model.categories=null", "task=similarity", "task.images=other.png"]
    plain = [*SQUARE, *network, "images=photos", "pictures=none", "name=a", "threads=1", "steps=2"]
    code, _, err = mpx(*plain)
    assert code == 0, err
    with np.load(f"{here}/outputs/a/masks/p2-0-other.npz") as row:
        assert row["quantity"] == "similarity" and row["value_before"] == pytest.approx(1, abs=1e-3)
    to_pil_image(PHOTOS[1]).save("other.png")
    assert "task.images_sha256 was" in mpx(*plain)[2]
