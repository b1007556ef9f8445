"""Listing files: what is found, in which order, under which names, and what is said when nothing is."""

import os
import re
import socket
import time

import pytest

from mpx.data import datasets
from mpx.data.images import read_image


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"broken")  # listing must not care
    return root


def names(items):
    return [item.path.name for item in items]


def test_sample_without_network(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    items = datasets.sample()
    assert [(item.name, item.label) for item in items] == [("chelsea", 282), ("coffee", 967), ("rocket", 657)]
    assert all(min(read_image(item.path).size) >= 300 for item in items)


def test_images_takes_path_glob_folder_and_list(tmp_path):
    touch(tmp_path, "b.png", "a.JPG", "notes.txt", ".hidden.png", "sub/c.webp", "odd[1].png", "picture.dat")
    assert names(datasets.images(tmp_path / "b.png")) == ["b.png"]
    assert names(datasets.images(str(tmp_path / "picture.dat"))) == ["picture.dat"]  # named outright: not ours to judge
    assert names(datasets.images(str(tmp_path / "odd[1].png"))) == ["odd[1].png"]
    assert names(datasets.images(str(tmp_path))) == ["a.JPG", "b.png", "odd[1].png"]
    assert names(datasets.images(f"{tmp_path}/*")) == ["a.JPG", "b.png", "odd[1].png"]
    assert sorted(names(datasets.images(f"{tmp_path}/**"))) == ["a.JPG", "b.png", "c.webp", "odd[1].png"]
    several = [f"{tmp_path}/sub/*.webp", f"{tmp_path}/b.png", f"{tmp_path}/sub/../b.png"]
    assert names(datasets.images(several)) == ["c.webp", "b.png"]


def test_images_says_what_is_wrong(tmp_path):
    touch(tmp_path, "chelsea.png", "text/notes.txt")
    for files, words in [
        (tmp_path / "chelsae.png", "did you mean chelsea.png"),
        (f"{tmp_path}/*.gif", "0 entries"),
        (tmp_path / "text", "no image file"),
        (tmp_path / "gone" / "a.png", "no folder"),
        ([], "names no"),
        (None, "names no"),
    ]:
        with pytest.raises(ValueError, match=words):
            datasets.images(files)


def test_what_is_no_file_is_listed_so_that_reading_says_so(tmp_path):
    touch(tmp_path, "set/a/1.png")
    (tmp_path / "set/a/album.png").mkdir()
    (tmp_path / "set/a/dead.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "set/a/pipe.png")
    everything = ["1.png", "album.png", "dead.png", "pipe.png"]
    assert names(datasets.images(tmp_path / "set/a")) == names(datasets.images(f"{tmp_path}/**/a/*.png")) == everything
    assert names(datasets.images([tmp_path / "set/a" / name for name in everything[2:]])) == everything[2:]
    assert names(datasets.folder(tmp_path / "set")) == ["1.png", "dead.png", "pipe.png"]  # album.png is a folder to look in


def test_no_file_is_looked_at(tmp_path, monkeypatch):
    touch(tmp_path, *[f"{c}{i}.png" for c in ("", "0/", "1/") for i in range(100)])
    looked = []
    for name in ("stat", "lstat"):
        look = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, *a, look=look, **k: looked.append(path) or look(path, *a, **k))
    found = [datasets.images(tmp_path / "0"), datasets.images(f"{tmp_path}/0/*")]
    assert [len(items) for items in [*found, datasets.folder(tmp_path)]] == [100, 100, 200]
    assert len(looked) < 20, looked


def test_fifty_thousand_names_of_one_stem():
    start = time.perf_counter()
    found = datasets._names([f"/set/{i}/same/same/same/photo.png" for i in range(50_000)])
    assert len(set(found)) == 50_000 and time.perf_counter() - start < 10  # 0.7 s; hours if it grew with the square


def test_folder(tmp_path):
    touch(tmp_path, "dog/1.png", "cat/2.png", "cat/deep/1.png", "cat/readme.txt", ".cache/1.png", "top.png", "void/x.txt")
    items = datasets.folder(tmp_path)
    assert [(item.label, item.path.name) for item in items] == [("cat", "2.png"), ("cat", "1.png"), ("dog", "1.png")]
    with pytest.raises(ValueError, match="did you mean cat"):
        datasets.folder(tmp_path / "cats")
    with pytest.raises(ValueError, match="root/<class>/<image>"):
        datasets.folder(tmp_path / "void")


def test_names_are_unique_and_safe(tmp_path):
    nasty = [
        "a/1.png",
        "b/1.png",
        "c/a/1.png",
        "1.jpg",
        "A.png",
        "a.jpg",
        "日本.png",
        "中国.png",
        "naïve café.png",
        "=cmd.png",
        "..png",
        "x" * 150 + "1.png",
        "x" * 150 + "2.png",
        "y" * 80 + ".png",
        "y" * 80 + ".jpg",
        "p/q.png",
        "p/q.jpg",
        "<img src=x>.png",
        "a_1.png",
        "d/e/f/g/same.png",
        "D/e/f/g/same.jpg",
    ]
    touch(tmp_path, *nasty)
    items = datasets.images([tmp_path / name for name in nasty])
    assert len({item.name.lower() for item in items}) == len(items) == len(nasty)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,59}", item.name) for item in items), [item.name for item in items]
    by_path = dict(zip(nasty, items))
    assert by_path["naïve café.png"].name == "naive-cafe" and by_path["b/1.png"].name == "b_1"
    assert items == datasets.images([tmp_path / name for name in nasty])  # the same run, the same names
