"""Lists of images: their order and names, and refusals of missing or invalid files."""

import os
import re
import socket
import time

import pytest

from mpx.data import datasets
from mpx.data.images import read_image
from mpx.data.items import Item, named_items, unique_names


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


def test_missing_images_are_refused(tmp_path):
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


def test_folders_links_and_pipes_are_listed_for_reading_to_report(tmp_path):
    touch(tmp_path, "set/a/1.png")
    (tmp_path / "set/a/album.png").mkdir()
    (tmp_path / "set/a/dead.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "set/a/pipe.png")
    everything = ["1.png", "album.png", "dead.png", "pipe.png"]
    assert names(datasets.images(tmp_path / "set/a")) == names(datasets.images(f"{tmp_path}/**/a/*.png")) == everything
    assert names(datasets.images([tmp_path / "set/a" / name for name in everything[2:]])) == everything[2:]
    assert names(datasets.folder(tmp_path / "set")) == ["1.png", "dead.png", "pipe.png"]  # album.png is a folder to look in


def test_listing_opens_no_file(tmp_path, monkeypatch):
    touch(tmp_path, *[f"{c}{i}.png" for c in ("", "0/", "1/") for i in range(100)])
    (tmp_path / "t.csv").write_text("image\n" + "".join(f"0/{i}.png\n" for i in range(100)))
    looked = []
    for name in ("stat", "lstat"):
        look = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, *a, look=look, **k: looked.append(path) or look(path, *a, **k))
    result = [datasets.images(tmp_path / "0"), datasets.images(f"{tmp_path}/0/*"), datasets.table(tmp_path / "t.csv")]
    assert [len(items) for items in [*result, datasets.folder(tmp_path)]] == [100, 100, 100, 200]
    assert len(looked) < 100, looked  # a few for each folder, none for a file


def test_fifty_thousand_names_of_one_stem():
    start = time.perf_counter()
    result = unique_names([f"/set/{i}/same/same/same/photo.png" for i in range(50_000)])
    assert len(set(result)) == 50_000 and time.perf_counter() - start < 10  # 0.7 s; hours if it grew with the square


def test_folder(tmp_path):
    touch(
        tmp_path, "dog/1.png", "cat/2.png", "cat/deep/1.png", "cat/x.txt", "cat/._2.png", ".cache/1.png", "1.png", "void/x"
    )
    items = datasets.folder(tmp_path)
    assert [(item.label, item.path.name) for item in items] == [("cat", "2.png"), ("cat", "1.png"), ("dog", "1.png")]
    with pytest.raises(ValueError, match="did you mean cat"):
        datasets.folder(tmp_path / "cats")
    with pytest.raises(ValueError, match="root/<class>/<image>"):
        datasets.folder(tmp_path / "void")


def test_a_path_with_a_nul_byte_is_the_problem_of_its_row(tmp_path):
    (tmp_path / "set.csv").write_bytes(b"image,label\na\0b.png,1\nok.png,1\n")
    bad, good = datasets.table(tmp_path / "set.csv")
    assert r"a\\0b.png' holds a NUL byte" in bad.problem and "\0" not in str(bad.path) and good.problem is None


def test_links_to_a_parent_folder_lead_to_each_file_once(tmp_path):
    touch(tmp_path, "cat/1.png", "dog/2.png", "dog/deep/3.png")
    for link, target in (("cat/again", "."), ("cat/all", ".."), ("dog/up", ".."), ("dog/deep/up", "../..")):
        (tmp_path / link).symlink_to(target)
    found = [(item.label, item.path.relative_to(tmp_path).as_posix()) for item in datasets.folder(tmp_path)]
    assert found == [("cat", "cat/1.png"), ("dog", "dog/2.png"), ("dog", "dog/deep/3.png")]
    (tmp_path / "cat/all").unlink()
    globbed = datasets.images(f"{tmp_path}/cat/**/*.png")
    assert [item.path for item in globbed] == [tmp_path / "cat/1.png"]


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


def table(tmp_path, text: str | bytes, **options):
    (tmp_path / "set").mkdir(exist_ok=True)
    (tmp_path / "set/t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return datasets.table(tmp_path / "set/t.csv", **options)


def test_table(tmp_path):
    text = '\ufeffimage, label ,n\r\na/1.png, n01440764 ,1\r\n\r\n"b,\nc/1.png",,2\r\na/../d.png,7,3\r\nd.png,7,4\r\n'
    items = table(tmp_path, text)  # as Excel saves it; nothing is there, and listing must not care
    paths = [tmp_path / "set" / name for name in ("a/1.png", "b,\nc/1.png", "d.png")]
    assert [(i.path, i.label, i.problem) for i in items] == list(zip(paths, ["n01440764", None, "7"], [None] * 3))
    assert [item.name for item in items] == ["a_1", "b-c_1", "d"]
    touch(tmp_path, "photos/x.png")
    (item,) = table(tmp_path, "file,class\nx.png,cat\n", root=tmp_path / "photos", image="file", label="class")
    assert item.path == tmp_path / "photos/x.png" and item.label == "cat"
    assert [i.label for i in table(tmp_path, "image\nx.png\n")] == [None]
    spaced = table(tmp_path, "image,label\n x.png ,1.0\ny.png,\nz 1.png,1.5\n")  # 1.0: pandas, of a column with gaps
    assert names(spaced) == ["x.png", "y.png", "z 1.png"] and [i.label for i in spaced] == ["1", None, "1.5"]


def test_an_invalid_row_is_an_item_with_a_problem(tmp_path):
    inside, outside = tmp_path / "set/in.png", tmp_path / "out.png"
    rows = {
        "line-9.png,0": None,
        "cafe\udce9.png,0": None,  # Latin-1: the name of no file here, perhaps, and that is for reading to say
        f"{inside},0": None,
        "a/../in.png,0": None,  # the same image with the same label counts once
        "link/../kept.png,0": None,
        "../out.png,0": "outside",
        f"{outside},0": "outside",
        "a/../../out.png,0": "outside",
        "../set2/out.png,0": "outside",
        ",0": "'image' is empty",
        "  ,0": "'image' is empty",
        "short.png": "1 cells where the header has 2",
        "a,b.png,0": "3 cells",
        "in.png,1": "another label, '1' after '0'",
        "in.png,": "another label, None after '0'",
    }
    items = table(
        tmp_path, "\n".join(["image,label", *rows, "", '"a\nb.png",0', "../c.png,0"]).encode("utf-8", "surrogateescape")
    )
    *items, below, late = items
    assert below.problem is None and f"line {len(rows) + 5} of" in late.problem
    assert [item.problem for item in items[:4]] == [None] * 4
    assert names(items[:4]) == ["line-9.png", "cafe\udce9.png", "in.png", "kept.png"]
    assert items[3].path == tmp_path / "set/kept.png"  # what is read is what was judged, whatever `link` leads to
    wrong = [(line, words) for line, words in enumerate(rows.values(), 2) if words]
    assert len({item.name.lower() for item in items}) == len(items) == 4 + len(wrong)
    for item, (line, words) in zip(items[4:], wrong):
        assert words in item.problem and f"line {line} of" in item.problem and "\n" not in item.problem
        assert item.name == (f"line-{line}" if line != 9 else "t.csv_line-9")


def test_a_table_may_list_links(tmp_path):
    touch(tmp_path, "store/1.png", "set/none")
    (tmp_path / "set/linked.png").symlink_to("../store/1.png")
    (tmp_path / "set/folder").symlink_to("../store")
    items = table(tmp_path, "image\nlinked.png\nfolder/1.png\n")
    assert [(item.problem, item.path.read_bytes()) for item in items] == [(None, b"broken")] * 2


def test_unusable_tables_are_refused(tmp_path):
    for text, options, words in [
        ("file,label\na.png,0\n", {}, "no column 'image': its columns are 'file', 'label'"),
        ("image,klass\na.png,0\n", {"label": "class"}, "no column 'class'"),
        ("image,label\n", {}, "no rows"),
        ("", {}, "no rows"),
        ('image\na.png\n"b.png\nc.png\n', {}, "after line 2, unexpected end of data: look at its quotes"),
        ("image\na.png\n", {"root": tmp_path / "sett"}, "is not a folder; did you mean set?"),
    ]:
        with pytest.raises(ValueError, match=re.escape(words)) as error:
            table(tmp_path, text, **options)
        assert "\n" not in str(error.value)
    for file, words in [("set/tt.csv", "does not exist; did you mean t.csv"), ("set", "is not a file")]:
        with pytest.raises(ValueError, match=words):
            datasets.table(tmp_path / file)


def test_any_dataset_gets_unique_names(tmp_path):
    items = [Item(tmp_path / f"{k}.png") for k in range(3)]
    assert [item.name for item in named_items(items)] == ["0", "1", "2"]
    with pytest.raises(ValueError, match="two images of the dataset are named 'a'"):
        named_items([Item(tmp_path / "0.png", name="a"), Item(tmp_path / "1.png", name="A")])
