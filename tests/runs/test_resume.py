"""The same command does what is missing, and only that: a row is looked at, not only found."""

import os
import shutil
import time
import zipfile

import numpy as np
import pytest
import torch
from commands import PLAIN, SAME, done, masks, summary, table, whole, workplace
from planted import RoundingNet, SquareNet, square_photo
from torchvision.transforms.v2.functional import to_pil_image

from mpx.config_plan import compose_plan
from mpx.runs.coordinator import RunCoordinator
from mpx.runs.fingerprint import Fingerprint, digest_file
from mpx.runs.resume import check_config
from mpx.runs.store import is_row, load_row, replace_row

ROWS = ["p00-1-checker-board", "p01-1-checker-board", "p02-1-checker-board", "p03-1-checker-board"]
SHOWN = [a for a in SAME if not a.startswith("pictures")] + ["pictures=2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with four photos, explained in outputs/calm."""
    home = workplace(tmp_path_factory.mktemp("resume"), 4)
    done(home, *SHOWN, "name=calm")
    return home


@pytest.fixture
def run(home):
    """A run in outputs/this that is complete."""
    shutil.rmtree(home / "outputs" / "this", ignore_errors=True)
    return shutil.copytree(home / "outputs" / "calm", home / "outputs" / "this")


def again(home, *arguments: str) -> tuple[set[str], str]:
    """Give the same command once more: the rows that it made, and its output."""
    run = home / "outputs" / "this"
    before = {path.name: path.stat().st_mtime_ns for path in (run / "masks").iterdir()}
    command = done(home, *SHOWN, "name=this", *arguments)
    whole(run)
    made = {path.stem for path in (run / "masks").iterdir() if before.get(path.name) != path.stat().st_mtime_ns}
    return made, command.out + command.err


def _truncated(file):
    file.write_bytes(file.read_bytes()[:-100])


def _empty(file):
    file.write_bytes(b"")


def _garbage(file):
    file.write_bytes(b"not a zip file" * 100)


def _flipped(file):
    data = bytearray(file.read_bytes())
    at = len(data) // 2
    if zipfile.is_zipfile(file):  # in an array: a bit of the dates between them changes no row
        with zipfile.ZipFile(file) as row:
            largest = max(row.infolist(), key=lambda array: array.compress_size)
        at = largest.header_offset + largest.compress_size // 2
    data[at] ^= 1
    file.write_bytes(data)


def _anothers(file):
    shutil.copy(file.with_name(f"{ROWS[3]}.npz"), file)


def _without_its_end(file):
    with np.load(file) as row:
        np.savez(file, **{key: row[key] for key in row.files if key != "curves"})


def _gone(file):
    file.unlink()


def _without_panel(file):
    (file.parents[1] / "panels" / f"{file.stem}.png").unlink()


def _without_animation(file):
    (file.parents[1] / "evolution" / f"{file.stem}.webp").unlink()


@pytest.mark.parametrize(
    "damages",
    [(_truncated, _empty, _garbage), (_flipped, _anothers, _without_its_end), (_without_panel, _without_animation, _gone)],
)
def test_damaged_rows_are_done_again_and_no_others(home, run, damages):
    for row, damage in zip(ROWS, damages):
        damage(run / "masks" / f"{row}.npz")
    assert again(home)[0] == set(ROWS[:3])
    assert masks(run) == masks(home / "outputs" / "calm") and len(table(run)) == 4
    for name in (picture.format(row) for row in ROWS[:2] for picture in ("panels/{}.png", "evolution/{}.webp")):
        assert (run / name).read_bytes() == (home / "outputs" / "calm" / name).read_bytes()


def test_a_run_of_which_nothing_is_missing_makes_nothing(home, run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.suffix in (".csv", ".png", ".webp", ".npz")}
    made, said = again(home)
    assert not made and "4 of 4 images" in said
    assert all(path.read_bytes() == data for path, data in before.items())
    assert summary(run)["n"] == 4 and len(list(run.glob("tensorboard/mean/events.out.tfevents.*"))) == 1


def test_a_photo_that_changed_is_done_again(home, run):
    photo = home / "photos" / "p01.png"
    before = photo.read_bytes()
    try:
        to_pil_image(square_photo(SquareNet(), 77)).save(photo, compress_level=1)
        assert again(home)[0] == {ROWS[1]}
        assert masks(run)[ROWS[1]] != masks(home / "outputs" / "calm")[ROWS[1]] and len(table(run)) == 4
    finally:
        photo.write_bytes(before)


def test_a_photo_that_is_new_is_done_in_its_place(home, run):
    photo = home / "photos" / "p00a.png"
    try:
        to_pil_image(square_photo(SquareNet(), 77)).save(photo)
        assert again(home)[0] == {"p00a-1-checker-board"}
        assert [row["image"] for row in table(run)] == ["p00", "p00a", "p01", "p02", "p03"]
    finally:
        photo.unlink()
    again(home)
    assert [row["image"] for row in table(run)] == ["p00", "p01", "p02", "p03"]


def test_a_photo_that_vanished_since_stays_done(home, tmp_path):
    """As a link into a disk that is not mounted any more does."""
    links = tmp_path / "set" / "nothing"
    links.mkdir(parents=True)
    for photo in (home / "photos").glob("p0[01].png"):
        shutil.copy(photo, tmp_path / photo.name)
        (links / photo.name).symlink_to(tmp_path / photo.name)
    linked = [a for a in SHOWN if not a.startswith("images")] + [
        "dataset=folder",
        f"dataset.root={tmp_path}/set",
        "name=links",
    ]
    done(home, *linked)
    (tmp_path / "p01.png").unlink()
    done(home, *linked)
    assert [row["image"] for row in table(home / "outputs" / "links")] == ["p00", "p01"]
    assert summary(home / "outputs" / "links")["n_skipped"] == 0


def test_of_an_image_with_two_targets_the_missing_one_is_done(home):
    two = [*SAME, "target=[0,1]", "limit=2", "name=two"]
    done(home, *two)
    run = home / "outputs" / "two"
    before, kept = masks(run), (run / "masks" / f"{ROWS[0]}.npz").stat().st_mtime_ns
    (run / "masks" / "p00-0-nothing.npz").unlink()
    done(home, *two)
    assert masks(run) == before and (run / "masks" / f"{ROWS[0]}.npz").stat().st_mtime_ns == kept
    assert [(row["image"], row["target"]) for row in table(run)] == [("p00", "0"), ("p00", "1"), ("p01", "0"), ("p01", "1")]


@pytest.mark.parametrize(
    "changed, names",
    [
        (["steps=13"], [": steps was 12 and is 13"]),  # and not scheduler.total_iters, which reads it
        (["seed=1", "mask_size=7"], ["seed was 0 and is 1", ": mask_size was 8 and is 7"]),
        (["scheduler.total_iters=13"], ["scheduler.total_iters was 12 and is 13"]),
        (["perturbation=blur_mean"], ["perturbation._target_ was", "perturbation.kernel_size was None and is 11"]),
        (["pictures=1"], ["pictures was 2 and is 1"]),
        (["target=0"], ["target was top1 and is 0"]),
        (["batch_size=3"], ["batch_size was 4 and is 3"]),  # these change bits, which deterministic=true promises not to
        (["threads=2"], ["threads was None and is 2"]),
        (["deterministic=false"], ["deterministic was True and is False"]),
    ],
)
def test_another_configuration_is_refused_by_the_names_of_its_keys(home, run, monkeypatch, changed, names):
    monkeypatch.chdir(home)
    before = contents(run)
    with pytest.raises(ValueError) as refusal:
        check_config(compose_plan(*SHOWN, "name=this", *changed, folder=run), joins=False)
    sentence = str(refusal.value)
    assert all(name in sentence for name in names) and len(sentence.splitlines()) == 1
    assert sentence.partition(";")[0].count(" was ") == len(names)
    assert contents(run) == before


def test_a_command_that_is_refused_changes_nothing(home, run):
    before = contents(run)
    command = done(home, *SHOWN, "name=this", "steps=13", code=1)
    assert "steps was 12 and is 13" in command.err and len(command.err.strip().splitlines()) == 1
    assert contents(run) == before


def contents(run):
    """Return every file of a run but those that each command writes."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name not in (".lock", "run.log")}


def test_keys_that_change_no_row_may_differ(home, run):
    made, _ = again(home, "limit=2")
    assert not made and [row["image"] for row in table(run)] == ["p00", "p01"] and summary(run)["n"] == 2
    (run / "masks" / f"{ROWS[3]}.npz").unlink()
    assert again(home, "limit=null", "log_images=1", "trainer.devices=2")[0] == {ROWS[3]}
    assert masks(run) == masks(home / "outputs" / "calm")


def test_without_deterministic_the_batch_may_differ_too(home):
    done(home, *PLAIN, "batch_size=2", "limit=2", "name=free")
    done(home, *PLAIN, "batch_size=1", "threads=1", "limit=3", "name=free")
    assert len(table(home / "outputs" / "free")) == 3
    assert sorted(summary(home / "outputs" / "free")["computed_with"].values()) == [1, 2]


def test_a_row_of_another_label_is_done_again(home, tmp_path):
    csv = home / "set.csv"
    for label, expected in (("nothing", "0"), ("checker board", "1")):
        csv.write_text(f"image,label\nphotos/p00.png,{label}\n")
        labels = [a for a in SHOWN if not a.startswith("images")]
        done(home, *labels, "dataset=table", "dataset.file=set.csv", "target=label", "name=labels")
        assert [row["target"] for row in table(home / "outputs" / "labels")] == [expected]


def test_no_damage_of_a_row_stops_the_reading(run):
    file = next((run / "masks").iterdir())
    data, random = file.read_bytes(), np.random.default_rng(0)
    row = load_row(file)
    for bit in random.integers(8 * len(data), size=600).tolist() + list(range(400)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        read = load_row(file)
        assert read is None or all(np.array_equal(read[key], row[key], equal_nan=key == "requested_area") for key in row)


def test_weights_that_changed_in_their_file_are_refused(home, tmp_path):
    net, file = RoundingNet(), tmp_path / "weights.pth"
    torch.save(net.state_dict(), file)
    own = [*PLAIN, f"model.weights={file}", "limit=1", "name=trained"]
    done(home, *own)
    assert "1 of 1 images are done" in done(home, *own).out
    net.gain.data *= 1.5
    torch.save(net.state_dict(), file)
    command = done(home, *own, code=1)
    assert "model.weights_sha256 was" in command.err and len(command.err.strip().splitlines()) == 1


def test_a_network_whose_file_changed_is_refused(home, tmp_path):
    file = tmp_path / "own.py"
    file.write_text("from planted import *\n")
    own = [*PLAIN, f"model.network={file}:RoundingNet", "limit=1", "name=own"]
    done(home, *own)
    assert "1 of 1 images are done" in done(home, *own).out
    file.write_text("from planted import *\n\nclass RoundingNet(SquareNet):\n    pass\n")
    assert "model.network_sha256 was" in done(home, *own, code=1).err


# ---- what a row was made from


def _other(home, name: str, arguments: list[str], code: int = 0):
    return done(home, *arguments, f"name={name}", code=code)


def test_a_photo_replaced_by_one_of_the_same_size_and_time_is_done_again(home, tmp_path):
    photo = tmp_path / "p.bmp"
    few = [*(a for a in SAME if not a.startswith("images")), f"images={tmp_path}/*.bmp", "metric=[]"]
    to_pil_image(square_photo(SquareNet(), 1)).save(photo)
    before, run = photo.stat(), home / "outputs" / "bmp"
    _other(home, "bmp", few)
    first = masks(run)
    to_pil_image(square_photo(SquareNet(), 2)).save(photo)
    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert photo.stat().st_size == before.st_size
    assert "the photo of p has changed" in _other(home, "bmp", few).out and masks(run) != first
    photo.touch()
    assert "1 of 1 images are done" in _other(home, "bmp", few).out  # the bytes are the same


def test_class_names_that_changed_are_refused(home):
    names = home / "names.txt"
    few = [*SAME, "target='checker board'", "metric=[]"]
    _other(home, "names", [*few, "limit=2"])
    before = names.read_bytes()
    try:
        names.write_text("checker board\nnothing\n")
        assert "model.categories_sha256 was" in _other(home, "names", few, code=1).err
    finally:
        names.write_bytes(before)
    assert len(masks(home / "outputs" / "names")) == 2


def test_maps_that_changed_are_read_again(home, tmp_path):
    few = [*SAME, "explainer=files", f"explainer.folder={tmp_path}", "limit=2", "metric=[]", "target=1"]
    values = np.random.default_rng(0)
    for name in ("p00", "p01"):
        np.save(tmp_path / f"{name}.npy", values.random((32, 32), np.float32))
    _other(home, "maps", few)
    first = masks(home / "outputs" / "maps")
    np.save(tmp_path / "p01.npy", values.random((32, 32), np.float32))
    assert "the map of p01 has changed" in _other(home, "maps", few).out
    second = masks(home / "outputs" / "maps")
    assert [first[row] == second[row] for row in sorted(first)] == [True, False]


def test_code_of_the_users_that_changed_is_refused(home):
    part = home / "mine.py"
    part.write_text("def black(images, context, **_):\n    return images * 0\n")
    few = [*SAME, "perturbation._target_=mine.black", "limit=1"]
    _other(home, "code", few)
    part.write_text("def black(images, context, **_):\n    return images * 0 + 0.5\n")
    assert "code_sha256.mine was" in _other(home, "code", few, code=1).err


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_text("a: [b\n")])
def test_rows_whose_configuration_is_lost_are_refused(home, run, damage):
    damage(run / ".hydra" / "config.yaml")
    before = masks(run)
    command = done(home, *SHOWN, "name=this", "lambda_tv=5", code=1)
    assert "config.yaml" in command.err and len(command.err.strip().splitlines()) == 1 and masks(run) == before
    assert len(again(home, "force=true")[0]) == 4


def test_a_row_of_another_configuration_is_refused(home, run):
    done(home, *SHOWN, "seed=5", "limit=1", "name=other")
    shutil.copy(home / "outputs" / "other" / "masks" / f"{ROWS[0]}.npz", run / "masks")
    assert "of another configuration" in done(home, *SHOWN, "name=this", code=1).err


def test_rows_of_another_version_are_not_mixed(home, run):
    file = run / "masks" / f"{ROWS[0]}.npz"
    row = load_row(file)
    replace_row(file, row | {"made_from": row["made_from"].replace("torch ", "torch 0.", 1)})
    assert "4 of 4 images are done" in done(home, *SHOWN, "name=this").out  # nothing to add
    (run / "masks" / f"{ROWS[1]}.npz").unlink()
    assert "were made with torch 0." in done(home, *SHOWN, "name=this", code=1).err


def test_damaged_pictures_and_reports_are_made_again(home, run):
    files = [run / "panels" / f"{ROWS[0]}.png", run / "evolution" / f"{ROWS[1]}.webp", run / "report.html"]
    before = [file.read_bytes() for file in files[:2]]
    for file in files:
        _flipped(file)
    assert again(home)[0] == set(ROWS[:2])
    assert [file.read_bytes() for file in files[:2]] == before


def test_a_digest_costs_no_millisecond(home, tmp_path):
    photo = tmp_path / "photo"
    photo.write_bytes(os.urandom(150_000))  # a photo of 500 x 375 px
    start = time.process_time()
    known = [digest_file(photo) for _ in range(100)][0]
    assert (time.process_time() - start) / 100 < 1e-3
    start = time.process_time()
    assert all(digest_file(photo, known) == known for _ in range(100)) and (time.process_time() - start) / 100 < 1e-4


# ---- crafted rows


@pytest.mark.parametrize(
    "entries",
    [
        {"area": "abc"},
        {"saliency": np.full((32, 32), np.nan, np.float16)},
        {"mask": np.full((32, 32), np.inf, np.float16)},
        {"target": "one"},
        {"made_from": "{}"},
        {"made_from": "[1"},
        {"metrics": "[]"},
        {"evaluated_with": "1"},
        {"class": 3.5},
    ],
)
def test_a_crafted_row_is_made_again(home, run, monkeypatch, entries):
    monkeypatch.chdir(home)
    file = run / "masks" / f"{ROWS[0]}.npz"
    replace_row(file, load_row(file) | entries)
    plan = compose_plan(*SHOWN, folder=run)
    coordinator = RunCoordinator(run, plan.list_items(), fingerprint=Fingerprint.of(plan))
    assert list(coordinator.remaining) == [0]


def test_a_pipe_among_the_rows_is_no_row(run):
    file = run / "masks" / f"{ROWS[0]}.npz"
    file.unlink()
    os.mkfifo(file)
    assert load_row(file) is None and not is_row(file)
