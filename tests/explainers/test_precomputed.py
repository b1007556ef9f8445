"""Maps that use no network: files and the centre."""

from pathlib import Path

import numpy as np
import pytest
import torch
from explainers.scene import IMAGES, NAMES, explain
from PIL import Image

from mpx.explainers.base import ExplainerContext
from mpx.explainers.precomputed import files
from mpx.randomness import RowRandom


@pytest.fixture
def maps(tmp_path):
    for seed, name in enumerate(NAMES):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(seed).random((32, 32), np.float32))
    return tmp_path


def test_center():
    relevance = explain("center", None, IMAGES[..., :20], sigma=0.2)
    assert relevance.shape == (3, 1, 32, 20) and torch.allclose(relevance, relevance.flip(2, 3))
    most = relevance[0, 0] > 0.999 * relevance.max()
    assert most[15:17, 9:11].all() and most.sum() == 4
    assert relevance[0, 0, 15, 9 + 4] / relevance[0, 0, 15, 9] == pytest.approx(
        np.exp(-0.5 * (3.5**2 - 0.5**2) / 4**2), rel=1e-4
    )


def test_files_of_each_kind_are_read(tmp_path):
    cells = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    Image.fromarray(cells[0]).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", cells[1][None] / 255)
    np.savez(tmp_path / "c.npz", saliency=(cells[2] / 255).astype(np.float16), parameter=np.zeros(3))
    ours = explain("files", None, folder=tmp_path)
    torch.testing.assert_close(ours[:, 0], torch.from_numpy(cells / 255).float(), atol=1e-3, rtol=0)
    Image.fromarray(cells[0].astype(np.uint16) * 257).save(tmp_path / "a.png")
    torch.testing.assert_close(explain("files", None, folder=tmp_path)[0], ours[0])
    np.save(tmp_path / "b.npy", np.arange(4.0).reshape(2, 2))
    with pytest.raises(ValueError, match="b.npy' is of 2x2 px and the network's image of 32x32: set explainer.resize=true"):
        explain("files", None, folder=tmp_path)
    corners = explain("files", None, folder=tmp_path, resize=True)[1, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.tolist() == [0, 1, 2, 3]


def test_unreadable_files_are_one_sentence(maps):
    def fails(text, **options):
        with pytest.raises(ValueError, match=text) as raised:
            explain("files", None, **{"folder": maps, **options})
        assert "\n" not in str(raised.value)

    fails("explainer.folder='.*nowhere' is not a folder", folder=maps / "nowhere")
    (maps / "a.png").write_bytes(b"no picture")
    fails("has a.npy and a.png: it must hold one map for each image")
    (maps / "a.npy").unlink()
    fails("cannot read the map '.*a.png': ")
    Image.new("RGB", (32, 32)).save(maps / "a.png")
    fails("it is of mode RGB, not grey")
    (maps / "a.png").unlink()
    fails("has none of a.npz, a.npy, a.png: it must hold")
    np.save(maps / "a.npy", np.full((32, 32), np.nan))
    fails("holds NaN or infinite values")
    np.save(maps / "a.npy", np.zeros((2, 32, 32)))
    fails("is of shape \\(2, 32, 32\\): it must be finite numbers")
    np.save(maps / "a.npy", np.array([{}]), allow_pickle=True)
    fails("cannot read the map")
    (maps / "a.npy").unlink()
    np.savez(maps / "a.npz", one=np.zeros((32, 32)), two=np.zeros((32, 32)))
    fails("it has no array 'saliency', but one, two; set explainer.key=")
    assert explain("files", None, folder=maps, key="two").shape == (3, 1, 32, 32)


def test_files_of_a_run_are_found_by_image_and_class(tmp_path):
    for target in (0, 1):
        np.savez(tmp_path / f"a-{target}-name.npz", saliency=np.full((32, 32), target, np.float16), curves=np.zeros((2, 3)))
    photos, targets = IMAGES[:1].repeat(2, 1, 1, 1), torch.tensor([1, 0])
    result = files(photos, None, targets, ExplainerContext(RowRandom([0, 1]), ["a", "a"]), folder=str(tmp_path))
    assert result.mean((1, 2, 3)).tolist() == [1, 0]


@pytest.mark.parametrize("inside", [True, False])
def test_files_of_longer_image_names_are_not_read(tmp_path, inside):
    """photo-1-1-board is class 1 of photo-1, and no file of photo's class 1."""

    def save(image: str, target: int, value: float) -> Path:
        path = tmp_path / f"{image}-{target}-board.npz"
        entries = {"image": image, "target": target} if inside else {}
        np.savez(path, saliency=np.full((32, 32), value, np.float16), **entries)
        return path

    own, _ = save("photo", 1, 0.25), save("photo-1", 1, 0.5)

    def read(*names: str) -> list[float]:
        context = ExplainerContext(RowRandom([*range(len(names))]), [*names])
        targets = torch.ones(len(names), dtype=torch.long)
        return files(IMAGES[: len(names)], None, targets, context, str(tmp_path)).mean((1, 2, 3)).tolist()

    assert read("photo", "photo-1") == [0.25, 0.5]
    own.unlink()
    for names in [["photo"], ["photo", "photo-1"]][not inside :]:  # a file that names its image needs no other name
        with pytest.raises(ValueError, match="has none of photo.npz"):
            read(*names)
