"""Images of any number of channels in files: every format gives the same pixels, and a mistake is one sentence."""

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from mpx import Classifier, explain
from mpx.data import datasets
from mpx.data.images import image_size, read_image
from mpx.data.preprocessing import Preprocess
from mpx.data.reference_images import reference_images

RNG = np.random.default_rng(0)
PREPROCESS = Preprocess((32, 24), 40)


def write(folder, array):
    """Write an array (H,W,C) of uint16 in every format; the files."""
    folder.mkdir()
    channels = array.shape[2]
    planes = np.ascontiguousarray(np.moveaxis(array, 2, 0))
    np.save(folder / "last.npy", array)
    np.save(folder / "first.npy", planes)
    np.save(folder / "float.npy", array.astype(np.float32) / np.float32(65535))
    np.savez(folder / "one.npz", array)
    np.savez_compressed(folder / "several.npz", image=planes, other=np.zeros(3))
    pages = [Image.fromarray(plane) for plane in planes]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    tifffile.imwrite(folder / "pages.tiff", planes, photometric="minisblack")
    if channels > 4:  # Pillow's own kinds of pictures have at most four
        tifffile.imwrite(folder / "bands.tif", array, photometric="minisblack", planarconfig="contig")
        tifffile.imwrite(folder / "planes.TIFF", planes, photometric="minisblack", planarconfig="separate")
    if channels == 1:
        pages[0].save(folder / "grey.png")
        np.save(folder / "plane.npy", planes[0])
    return sorted(folder.iterdir())


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 13])
def test_every_format_gives_the_same_pixels(tmp_path, channels):
    array = RNG.integers(0, 65536, (50, 60, channels), dtype=np.uint16)
    expected = PREPROCESS(torch.from_numpy(np.moveaxis(array, 2, 0) / np.float32(65535)), channels)
    files = write(tmp_path / "files", array)
    assert [item.path for item in datasets.images(tmp_path / "files")] == files
    for file in files:
        image = read_image(file, channels)
        assert image_size(image) == (60, 50) and torch.equal(PREPROCESS(image, channels), expected), file
    e = Classifier(torch.nn.Flatten(), channels=channels, preprocess=PREPROCESS)
    for image in (array, np.moveaxis(array, 2, 0)):
        assert torch.equal(as_input(e, image), expected)
        assert torch.equal(as_input(e, np.stack([image] * 2)), expected)


def as_input(classifier, image):
    from mpx.learning.inputs import as_images

    return as_images(image, classifier)[0][-1]


def test_a_photo_is_grey_rgb_or_its_bands(tmp_path):
    rgba = Image.fromarray(RNG.integers(0, 256, (20, 30, 4), dtype=np.uint8))
    rgb = rgba.convert("RGB")
    for name, image in {"rgba": rgba, "rgb": rgb, "grey": rgb.convert("L"), "la": rgba.convert("LA")}.items():
        image.save(tmp_path / f"{name}.png")
    assert torch.equal(read_image(tmp_path / "rgba.png", 4), to_tensor(rgba))
    assert torch.equal(read_image(tmp_path / "la.png", 2), to_tensor(rgba.convert("LA")))
    assert read_image(tmp_path / "rgb.png", 1) == rgb.convert("L") == read_image(tmp_path / "grey.png", 1)
    np.save(tmp_path / "rgb.npy", np.asarray(rgb))
    assert read_image(tmp_path / "rgb.npy") == rgb
    for array in (np.asarray(rgb), np.asarray(rgb)[None]):
        assert torch.equal(as_input(Classifier(torch.nn.Flatten()), array), to_tensor(rgb))


@pytest.mark.parametrize("size", [(500, 375), (301, 257), (90, 60)])
@pytest.mark.parametrize("resize, crop", [(256, (224, 224)), (64, (64, 48)), (None, (61, 80))])
def test_arrays_have_the_geometry_of_photos(size, resize, crop):
    photo = Image.fromarray(RNG.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    preprocess = Preprocess(crop, resize, "bilinear")
    photo_input, array_input = preprocess(photo), preprocess(to_tensor(photo))
    torch.testing.assert_close(array_input, photo_input, atol=1.01 / 255, rtol=0)  # Pillow rounds to 8 bits


def test_pillows_kinds_of_interpolation_are_not_for_arrays():
    with pytest.raises(ValueError, match="interpolation 'lanczos' is for 8-bit images"):
        Preprocess((8, 8), 8, "lanczos")(torch.rand(6, 20, 10), 6)


@pytest.mark.parametrize("channels", [1, 3])
def test_reference_images_have_the_models_channels(channels):
    batch = next(reference_images(None, (channels, 32, 24)))
    assert batch.shape == (12, channels, 32, 24)
    with pytest.raises(ValueError, match="folder of images of 6 channels"):
        next(reference_images(None, (6, 32, 24)))


def faults(folder):
    """file -> (channels, words)."""
    cube = RNG.random((6, 8, 9), np.float32)
    rgb = Image.fromarray((cube[:3] * 255).astype(np.uint8).transpose(1, 2, 0))
    rgb.save(folder / "rgb.png")
    np.save(folder / "six.npy", cube)
    np.save(folder / "large.npy", cube * 300)
    np.save(folder / "nan.npy", cube * np.nan)
    np.save(folder / "int.npy", (cube * 9).astype(np.int64))
    np.save(folder / "empty.npy", cube[:, :0])
    np.save(folder / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.savez(folder / "two.npz", a=cube, b=cube)
    (folder / "cut.npz").write_bytes((folder / "two.npz").read_bytes()[:300])
    (folder / "page.npy").write_bytes(b"<html>")
    tifffile.imwrite(folder / "six.tif", (cube * 255).astype(np.uint8), photometric="minisblack")
    tifffile.imwrite(folder / "bands.tif", (cube * 255).astype(np.uint8).transpose(1, 2, 0), photometric="minisblack")
    (folder / "cut.tif").write_bytes(b"II*\0" + b"\7" * 40)
    return {
        "rgb.png": (4, "it has 3 channels, but the model takes 4"),
        "six.npy": (3, r"shape is \(6, 8, 9\), but a model of 3 channels takes \(H,W,3\) or \(3,H,W\)"),
        "large.npy": (6, "values range from .* to .*; scale them to"),
        "nan.npy": (6, "values range from nan"),
        "int.npy": (6, "int64, of unknown range; save floats"),
        "empty.npy": (6, r"shape is \(6, 0, 9\)"),
        "objects.npy": (6, "holds pickled objects, which are not loaded"),
        "two.npz": (6, r"2 arrays \(a, b\); name one of them image"),
        "cut.npz": (6, "cannot read"),
        "page.npy": (6, "cannot read"),
        "six.tif": (4, r"shape is \(6, 8, 9\)"),
        "bands.tif": (4, r"shape is \(8, 9, 6\)"),
        "cut.tif": (6, "cannot read"),
    }


def test_a_file_that_does_not_fit_is_one_sentence(tmp_path):
    for name, (channels, words) in faults(tmp_path).items():
        with pytest.raises(ValueError, match=words) as error:
            read_image(tmp_path / name, channels)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value), error.value


@pytest.mark.parametrize(
    "images, words",
    [
        (np.zeros((8, 8, 3), np.float32) + 200, "image0 cannot be used: its values range from 200 to 200"),
        (np.zeros((8, 8), np.uint8), r"image0 cannot be used: its shape is \(8, 8\)"),
        ([np.zeros((8, 8, 3)), np.zeros((8, 9, 3))], "differ in size"),
        (torch.zeros(2, 4, 8, 8), r"\(2, 4, 8, 8\) must be \(B,3,H,W\)"),
        (torch.zeros(2, 8, 8, 3), r"permute\(0,3,1,2\)"),
    ],
)
def test_an_array_that_does_not_fit_is_one_sentence(images, words):
    with pytest.raises(ValueError, match=words):
        explain(Classifier(torch.nn.Flatten(), mean=[0.0] * 3), images)
