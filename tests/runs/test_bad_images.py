"""Every kind of file and row that a folder of images may hold, in one run: each is right, or skipped with a reason.

A good one is a photo for SquareNet stored in some way: its mask must lie on the square.
"""

import csv
import json
import os
import struct
import sys
import zlib
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from planted import SQUARE, SquareNet, square_photo
from torchvision.transforms.v2.functional import to_pil_image

import mpx.runs.row_source
from mpx.cli.main import main
from mpx.data import datasets

FAST = [*SQUARE, "model.network=planted:SquareNet", "steps=30", "frames=2", "log_images=0"]


def save(change=lambda photo: photo, **options):
    return lambda path, photo: change(photo).save(path, **options)


def holds(content):
    return lambda path, photo: path.write_bytes(content)


def cut(path, photo):
    photo.resize((200, 200)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def png(width, height, depth, colour, pixels=b""):
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0),
        b"IDAT": zlib.compress(pixels),
        b"IEND": b"",
    }
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def save_48_bit(path, photo):  # Pillow reads it and cannot write it
    rows = (np.asarray(photo).astype(">u2") * 257).reshape(photo.height, -1)
    path.write_bytes(png(*photo.size, 16, 2, b"".join(b"\0" + row.tobytes() for row in rows)))


def save_grey16(path, photo):
    Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(path)


def save_floats(path, photo):
    Image.fromarray(np.asarray(photo.convert("L"), np.float32) / 255).save(path)


def save_turned(path, photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to see it
    photo.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


def save_animated(path, photo):
    photo.save(path, save_all=True, append_images=[Image.new("RGB", photo.size, "red")], duration=100)


def no_permission(path, photo):
    photo.save(path)
    path.chmod(0)


def link(target):
    return lambda path, photo: path.symlink_to(target)


def see_through(photo):  # all black in the square: the checkerboard is the white that shines through
    square = SquareNet().box
    alpha, pixels = np.full((32, 32), 255, np.uint8), np.array(photo)
    alpha[square] = 255 * (pixels[square][..., 0] < 128)
    pixels[square] = 0
    photo = Image.fromarray(pixels)
    photo.putalpha(Image.fromarray(alpha))
    return photo


GOOD = {  # file -> how it is made
    "first.png": save(),
    "turned.png": save_turned,
    "grey.png": save(lambda photo: photo.convert("L")),
    "palette.png": save(lambda photo: photo.convert("P", palette=Image.Palette.ADAPTIVE)),
    "rgba.png": save(see_through),
    "la.png": save(lambda photo: see_through(photo).convert("LA")),
    "cmyk.jpg": save(lambda photo: photo.convert("CMYK"), quality=95),
    "grey16.png": save_grey16,
    "rgb48.png": save_48_bit,
    "animated.gif": save_animated,
    "webp called.jpg": save(format="WEBP", lossless=True),
    "linked.png": link("../outside.png"),
    "grün.png": save(),
    "中国.png": save(),
    "日本.png": save(),
    "🐈.png": save(),
    "l" * 246 + ".png": save(),
    "two\nlines.png": save(),
    "bell\a\x1b[31m.png": save(),
    "-rf.png": save(),
    "a,b.png": save(),
    "=cmd|'calc'!A0.png": save(),
    "\"quoted\" 'twice'.png": save(),
    "a/same.png": save(),
    "b/same.png": save(),
}
BAD = {  # file -> how it is made, a word of the reason
    "cut.png": (cut, "truncated"),
    "cut.jpg": (cut, "truncated"),
    "empty.jpg": (holds(b""), "0 bytes"),
    "page.jpg": (holds(b"<html>404 not found</html>"), "not an image"),
    "bomb.png": (holds(png(20_000, 20_000, 8, 2)), "more than"),
    "floats.tiff": (save_floats, "floats of unknown range"),
    "broken\n\x1b[31m.png": (holds(b"no"), "broken\\n\\x1b[31m.png"),
    "private.png": (no_permission, "no permission"),
    "vanishes.png": (save(), "no such file"),  # while the run reads the first
    "album.png": (lambda path, photo: path.mkdir(), "not a regular file"),
    "dead.png": (link("nowhere.png"), "no such file"),
    "loop.png": (link("loop.png"), "symbolic links"),
    "pipe.png": (lambda path, photo: os.mkfifo(path), "not a regular file"),
}
ROWS = {  # a row's cells -> a word of the reason
    ("absent.png", "1"): "no such file",
    ("../outside.png", "1"): "outside",
    ("a/../../outside.png", "1"): "outside",
    ("{folder}/outside.png", "1"): "outside",
    ("", "1"): "empty",
    ("grey.png",): "1 cells",
    ("first.png", "0"): "another label",
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The run: where it is, how it ended, and for each row of the table its line in results.csv or skipped.csv."""
    folder = tmp_path_factory.mktemp("catalogue")
    net, photos = SquareNet(), folder / "photos"
    to_pil_image(square_photo(net, 99)).save(folder / "outside.png")
    (folder / "names.txt").write_text("nothing\nchecker board\n")
    made = GOOD | {"one pixel.png": save(lambda photo: photo.resize((1, 1)))} | {k: make for k, (make, _) in BAD.items()}
    for seed, (name, make) in enumerate(made.items()):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        make(photos / name, to_pil_image(square_photo(net, 0 if name == "turned.png" else seed)))
    rows = [(name, "1") for name in made] + [tuple(c.format(folder=folder) for c in cells) for cells in ROWS]
    with open(photos / "set.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "label"), *rows])
    items = datasets.table(photos / "set.csv")
    assert len(items) == len(rows)

    def read_image(path, channels, read=mpx.runs.row_source.read_image):
        (photos / "vanishes.png").unlink(missing_ok=True)
        return read(path, channels)

    out, err = StringIO(), StringIO()
    arguments = ["dataset=table", "dataset.file=photos/set.csv", "hydra.run.dir=run", "batch_size=64"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(mpx.runs.row_source, "read_image", read_image)
        patch.setattr(sys, "argv", ["mpx", *FAST, *arguments])
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code == 3, err.getvalue()
    tables = {}
    for name in ("results", "skipped"):
        with open(folder / "run" / f"{name}.csv", newline="") as file:
            tables[name] = list(csv.DictReader(file))
    result = {item.name: row for item in items for row in sum(tables.values(), []) if row["image"] == item.name}
    return SimpleNamespace(
        folder=folder,
        root=os.access(photos / "private.png", os.R_OK),  # who reads everything, whatever the permissions
        items=items,
        tables=tables,
        result=dict(zip([*made, *ROWS], [result[item.name] for item in items])),
        out=out.getvalue(),
        err=err.getvalue(),
    )


def mask(folder, row):
    with np.load(folder / row["mask"]) as arrays:
        return {key: arrays[key] for key in arrays}


def test_nothing_stops_the_run_and_nothing_is_lost(ran):
    assert "Traceback" not in ran.out + ran.err and "Logging error" not in ran.err
    assert not set("\a\x1b") & set(ran.out + ran.err)  # a file name must not drive the terminal
    results, skipped = ([row["image"] for row in ran.tables[name]] for name in ("results", "skipped"))
    assert sorted(results + skipped) == sorted({item.name for item in ran.items})  # each once
    assert len(list((ran.folder / "run" / "masks").iterdir())) == len(results)
    assert len(skipped) == len(BAD) + len(ROWS) - ran.root
    summary = json.loads((ran.folder / "run" / "summary.json").read_text())
    assert summary["n"] == len(results) and summary["n_skipped"] == len(skipped)


def test_a_glob_lists_the_same_files(ran):
    """So that none is missing in silence where the images are a folder's."""
    listed = {item.path for item in datasets.images(f"{ran.folder}/photos/**")}
    photos = ran.folder / "photos"
    assert listed == {photos / name for name in [*GOOD, *BAD, "one pixel.png"] if name != "vanishes.png"}


@pytest.mark.parametrize("name", GOOD, ids=str)
def test_a_good_one_is_right(ran, name):
    row = ran.result[name]
    assert row["class"] == "checker board" and float(row["value_before"]) > 0.9 and float(row["value_after"]) < 0.5
    saliency = mask(ran.folder / "run", row)["saliency"].astype(float)
    inside = saliency[SquareNet().box].mean()
    outside = (saliency.sum() - 64 * inside) / (32 * 32 - 64)
    assert inside > 0.5 and inside > 4 * outside
    assert not row["image"].startswith(("=", "+", "-", "@"))  # a spreadsheet would run it


@pytest.mark.parametrize("name", [*BAD, *ROWS], ids=str)
def test_a_bad_one_is_skipped_for_its_reason(ran, name):
    if ran.root and name == "private.png":
        pytest.skip("root reads everything")
    row, word = ran.result[name], ROWS[name] if name in ROWS else BAD[name][1]
    assert word in row["reason"] and len(row["reason"].splitlines()) == 1, row["reason"]


def test_one_pixel_is_no_evidence_but_a_row(ran):
    row = ran.result["one pixel.png"]
    assert row["class"] == "nothing" and row["value_before"] == row["value_after"] == row["value_reference"]
    assert np.isfinite(mask(ran.folder / "run", row)["saliency"]).all()


def test_a_photo_stored_turned_gives_the_upright_ones_mask(ran):
    upright, turned = (mask(ran.folder / "run", ran.result[name]) for name in ("first.png", "turned.png"))
    assert (upright["parameter"] == turned["parameter"]).all() and upright["value_after"] == turned["value_after"]


class Poisoned(SquareNet):
    """Gives NaN for a white photo, and for a bright one as soon as its checkerboard fades."""

    def forward(self, x):
        out, light = super().forward(x), x.mean((1, 2, 3))
        poison = (light > 0.85) | (light > 0.65) & (out[:, 1] < 0.7 * self.gain * 0.3)
        return torch.where(poison[:, None], torch.nan, 1.0) * out


def test_nan_is_one_photos_failure(mpx, folder):
    masks = []
    for shade in (0, 0.25):
        for seed, brighter in ((1, shade), (3, 0.5)):
            photo = square_photo(SquareNet(), seed)
            rows, columns = SquareNet().box
            square = photo[:, rows, columns].clone()
            photo = (photo + brighter).clamp(max=1)
            photo[:, rows, columns] = square
            to_pil_image(photo).save(folder / "photos" / f"p{seed}.png")
        code, _, err = mpx(*FAST, "model.network=test_bad_images:Poisoned", "images=photos", f"hydra.run.dir=run{shade}")
        with open(f"run{shade}/skipped.csv", newline="") as file:
            skipped = {row["image"]: row["reason"] for row in csv.DictReader(file)}
        assert code == 3 and "untouched photo" in skipped.pop("p3"), err
        masks.append({path.name: np.load(path)["parameter"] for path in Path(f"run{shade}/masks").iterdir()})
    (reason,) = skipped.values()
    assert list(skipped) == ["p1"] and "NaN or infinite at iteration" in reason
    assert set(masks[0]) - set(masks[1]) == {"p1-1-checker-board.npz"} and len(masks[1]) == 2
    assert all((masks[0][name] == masks[1][name]).all() and np.isfinite(masks[1][name]).all() for name in masks[1])


def test_a_first_photo_that_the_model_cannot_take_stops_no_other(mpx, folder):
    Image.new("RGB", (32, 32), "white").save(folder / "photos" / "first.png")
    code, _, err = mpx(*FAST, "model.network=test_bad_images:Poisoned", "images=photos", "hydra.run.dir=run")
    with open("run/skipped.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (
        code == 3 and row["image"] == "first" and "NaN" in row["reason"] and len(list(Path("run/masks").iterdir())) == 3
    ), err
