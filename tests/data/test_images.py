"""Every kind of image file, good and bad, made with Pillow. pytest tests/data/test_images.py"""

import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from mpx.data.images import read_image, to_rgb

RNG = np.random.default_rng(0)
RAMP = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
COLOUR = Image.fromarray(RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8))


def difference(image, expected):
    assert image.mode == "RGB"
    return np.abs(np.asarray(image, int) - np.asarray(expected, int)).max()


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tiff"])
def test_lossless_rgb(tmp_path, suffix):
    COLOUR.save(tmp_path / f"a.{suffix}")
    assert difference(read_image(tmp_path / f"a.{suffix}"), COLOUR) == 0


@pytest.mark.parametrize("mode, suffix", [("L", "png"), ("1", "png"), ("P", "png"), ("P", "gif"), ("CMYK", "tiff")])
def test_other_modes_equal_pillows_own_rgb(tmp_path, mode, suffix):
    picture = COLOUR.convert(mode)
    picture.save(tmp_path / f"a.{suffix}")
    assert difference(read_image(tmp_path / f"a.{suffix}"), picture.convert("RGB")) == 0


def test_cmyk_jpeg_and_wrong_extension(tmp_path):
    red = Image.new("RGB", (16, 16), (250, 10, 10))
    red.convert("CMYK").save(tmp_path / "a.png", "JPEG")  # a JPEG that calls itself PNG
    assert difference(read_image(tmp_path / "a.png"), red) < 12


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_16_bit_grey_equals_the_8_bit_picture(tmp_path, mode, suffix):
    if (mode, suffix) == ("I;16B", "png"):
        wide = Image.frombytes(mode, (16, 16), (RAMP * np.uint16(257)).astype(">u2").tobytes())
        assert difference(to_rgb(wide), Image.fromarray(RAMP).convert("RGB")) == 0
        return
    values = RAMP * np.uint16(257) + RNG.integers(-100, 100, RAMP.shape).astype(np.uint16) * (RAMP % 255 > 0)
    stored = values.astype(">u2" if mode.endswith("B") else "<u2").tobytes()
    Image.frombytes(mode, (16, 16), stored).save(tmp_path / f"a.{suffix}")
    assert difference(read_image(tmp_path / f"a.{suffix}"), Image.fromarray(RAMP).convert("RGB")) == 0


def test_16_bit_pgm(tmp_path):  # Pillow opens it as mode I, as old Pillows open PNG
    (tmp_path / "a.pgm").write_bytes(b"P5 16 16 65535\n" + (RAMP * np.uint16(257)).astype(">u2").tobytes())
    assert difference(read_image(tmp_path / "a.pgm"), Image.fromarray(RAMP).convert("RGB")) == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_goes_on_white(tmp_path, mode):
    rgba = Image.new("RGBA", (8, 8), (0, 0, 0, 255))
    rgba.paste((0, 0, 0, 0), (0, 0, 4, 8))  # left half transparent black
    options = {}
    if mode == "P":
        picture = Image.fromarray((np.arange(8)[None] >= 4).repeat(8, 0).astype(np.uint8)).convert("P")
        picture.putpalette([9, 9, 9, 0, 0, 0])
        options["transparency"] = 0
    elif mode == "RGB":
        picture = Image.new("RGB", (8, 8))
        picture.paste((0, 9, 0), (0, 0, 4, 8))
        options["transparency"] = (0, 9, 0)
    else:
        picture = rgba.convert(mode)
    picture.save(tmp_path / "a.png", **options)
    pixels = np.asarray(read_image(tmp_path / "a.png"))
    assert (pixels[:, :4] == 255).all() and (pixels[:, 4:] == 0).all()


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_animation_gives_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    assert difference(read_image(tmp_path / f"a.{suffix}"), frames[0]) < 5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff", "jpg", "webp"])
def test_exif_orientation(tmp_path, orientation, suffix):
    upright = Image.new("RGB", (48, 32), "red")
    upright.paste("blue", (0, 0, 16, 16))  # one blue corner: all eight orientations differ
    T = Image.Transpose
    inverse = {
        2: T.FLIP_LEFT_RIGHT,
        3: T.ROTATE_180,
        4: T.FLIP_TOP_BOTTOM,
        5: T.TRANSPOSE,
        6: T.ROTATE_90,
        7: T.TRANSVERSE,
        8: T.ROTATE_270,
    }
    stored = upright if orientation == 1 else upright.transpose(inverse[orientation])
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a.{suffix}", exif=exif, **options)
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.size == (48, 32) and difference(image, upright) < 4
    assert difference(to_rgb(image), image) == 0  # a second time changes nothing


def png_claiming(width, height):  # a valid header, hardly any data
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def refuse(path, *words):
    with pytest.raises(ValueError) as error:
        read_image(path)
    text = str(error.value)
    assert str(path) in text and "\n" not in text and all(word in text for word in words), text


def test_faults(tmp_path):
    COLOUR.resize((200, 200)).save(tmp_path / "good.png")
    good = (tmp_path / "good.png").read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0xFF
    files = {
        "empty.jpg": b"",
        "page.jpg": b"<html>not found</html>",
        "cut.png": good[: len(good) // 2],
        "flip.png": bytes(flipped),
        "hollow.png": png_claiming(10, 10),
        "bomb.png": png_claiming(10_000, 9_500),
        "huge.png": png_claiming(60_000, 60_000),
        "prog.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    words = {
        "empty.jpg": "0 bytes",
        "page.jpg": "not an image",
        "bomb.png": "pixels",
        "huge.png": "pixels",
        "prog.jpg": "EPS",
        "cut.png": "truncated",
    }
    for name in files:
        refuse(tmp_path / name, words.get(name, ""))
    refuse(tmp_path / "vanished.png", "no such file")
    refuse(tmp_path, "not a regular file")
    Image.fromarray(RNG.random((8, 8), dtype=np.float32)).save(tmp_path / "float.tiff")
    refuse(tmp_path / "float.tiff", "floats")
    Image.fromarray(RNG.integers(0, 2**30, (8, 8), dtype=np.int32)).save(tmp_path / "int.tiff")
    refuse(tmp_path / "int.tiff", "32-bit")
    os.mkfifo(tmp_path / "pipe.png")  # must not block
    refuse(tmp_path / "pipe.png", "not a regular file")


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_unreadable(tmp_path):
    COLOUR.save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    refuse(tmp_path / "a.png", "permission")


def test_global_state_is_left_alone(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_claiming(10_000, 9_500))
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with pytest.raises(ValueError):
        read_image(tmp_path / "bomb.png")
    assert before == (Image.MAX_IMAGE_PIXELS, list(warnings.filters))


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 0, 0)
