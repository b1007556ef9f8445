"""A run's folder: made only for a result, one for each run, never over the files of somebody else."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from commands import SAME, Command, done, masks, summary, table, workplace
from interrupted import one_sentence, paused_after

FEW = [*SAME, "steps=2", "limit=2", "metric=[]"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with three photos."""
    return workplace(tmp_path_factory.mktemp("folders"), 3)


def entries(folder: Path) -> set[str]:
    """Return what lies in a folder, also hidden; nothing where there is no folder."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


# ---- commands that make nothing


@pytest.mark.parametrize("fault", ["steps=-1", "images=nosuch", "model.categories=nosuch", "model.network=net.py:nosuch"])
def test_a_failed_command_leaves_no_folder(home, fault):
    before = entries(home / "outputs")
    assert one_sentence(done(home, *FEW, fault, "name=failed", code=1))
    assert one_sentence(done(home, *FEW, fault, code=1))  # and none of an unnamed run
    assert entries(home / "outputs") == before


def test_a_command_that_fails_in_a_folder_with_rows_changes_none(home):
    run = home / "outputs" / "good"
    done(home, *FEW, "name=good")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name not in ("run.log", ".lock")}
    done(home, *FEW, "model.network=net.py:nosuch", "name=good", code=1)
    assert {path: path.read_bytes() for path in before} == before and len(masks(run)) == 2


def test_of_a_failed_job_only_the_reason_is_left(home):
    done(home, *FEW, "-m", "target=nosuch,0", "name=jobs", code=1)
    sweep = home / "outputs" / "sweeps" / "jobs"
    assert entries(sweep / "target=nosuch") == {"failed.txt", "run.log", ".lock"}
    assert len(masks(sweep / "target=0")) == 2


# ---- unnamed runs


def test_unnamed_runs_that_start_at_once_have_a_folder_each(home):
    before = entries(home / "outputs")
    commands = [Command(home, *FEW, f"seed={seed}") for seed in range(3)]
    assert [command.end() for command in commands] == [0, 0, 0], [command.err for command in commands]
    assert len(entries(home / "outputs") - before) == 3


# ---- files that mpx did not write


@pytest.mark.parametrize("name", ["results.csv", "summary.json", "masks/mine.npz", "report.html", "run.log", "csv/mine.txt"])
def test_a_folder_with_files_of_others_is_refused(home, tmp_path, name):
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    for force in ([], ["force=true"]):
        command = done(home, *FEW, f"hydra.run.dir={tmp_path}", *force, code=1)
        assert one_sentence(command) and name.partition("/")[0] in command.err and "did not write" in command.err
        assert mine.read_text() == "mine"
        assert {path for path in tmp_path.rglob("*") if path.is_file()} == {mine}


def test_force_leaves_what_is_no_row(home):
    run = home / "outputs" / "forced"
    done(home, *FEW, "pictures=1", "name=forced")
    mine = [run / name for name in ("masks/mine.npz", "panels/mine.png", "evolution/mine.webp", ".x.tmp", "mine.txt")]
    for path in mine:
        path.write_text("mine")
    np.savez(mine[0], a=1)
    done(home, *FEW, "pictures=1", "name=forced", "force=true", "target=0", "limit=1")
    assert all(path.exists() for path in mine)
    assert [path.stem for path in (run / "panels").iterdir() if path not in mine] == [Path(table(run)[0]["mask"]).stem]
    assert {path.name for path in (run / "masks").iterdir()} == {"mine.npz", Path(table(run)[0]["mask"]).name}


# ---- two sweeps at once


@pytest.mark.slow
def test_a_second_sweep_is_refused_and_the_first_is_complete(home):
    sweep = home / "outputs" / "sweeps" / "twice"
    line = [*SAME, "model.network=net.py:PausingNet", "-m", "seed=0,1", "limit=2", "batch_size=1", "name=twice", "metric=[]"]
    (home / "pause").write_text("outputs/sweeps/twice/seed=0/masks/*.npz")
    try:
        first = Command(home, *line).until(lambda: any(sweep.glob("seed=0/masks/p*.npz")))
        first.signal(signal.SIGSTOP)
        before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*")}
        second = done(home, *line, code=1)
        assert one_sentence(second) and f"pid {first.pid}" in second.err
        assert {path: path.stat().st_mtime_ns for path in sweep.rglob("*")} == before
    finally:
        (home / "pause").unlink()
        first.signal(signal.SIGCONT)
    assert first.end() == 0, first.err
    assert "2 of 2 jobs are finished" in done(home, *line).out


def test_a_stale_reason_does_not_make_a_finished_job_fail(home):
    line = [*FEW, "-m", "seed=0,1", "name=stale"]
    done(home, *line)
    sweep = home / "outputs" / "sweeps" / "stale"
    (sweep / "seed=1" / "failed.txt").write_text("in use\n")
    done(home, *line)
    assert "failed" not in (sweep / "table.md").read_text()


@pytest.mark.slow
def test_a_job_in_a_folder_that_is_in_use_spoils_nothing(home):
    """The job's folder alone is taken, by a command of its own."""
    sweep = home / "outputs" / "sweeps" / "taken"
    net = [*SAME, "model.network=net.py:PausingNet", "limit=2", "batch_size=1", "metric=[]"]
    (home / "pause").write_text("outputs/sweeps/taken/seed=0/masks/*.npz")
    try:
        first = Command(home, *net, "seed=0", f"hydra.run.dir='{sweep}/seed=0'").until(
            lambda: any(sweep.glob("seed=0/masks/p*.npz"))
        )
        first.signal(signal.SIGSTOP)
    finally:
        (home / "pause").unlink()
    command = done(home, *net, "-m", "seed=0,1", "name=taken", code=1)
    assert "seed=0" in command.err and "in use" in command.err
    assert not (sweep / "seed=0" / "failed.txt").exists() and len(masks(sweep / "seed=1")) == 2
    first.signal(signal.SIGCONT)
    assert first.end() == 0
    done(home, *net, "-m", "seed=0,1", "name=taken")


# ---- a folder that disappears


@pytest.mark.parametrize(
    "removed, devices",
    [("rm", 1), pytest.param("mv", 2, marks=pytest.mark.slow), pytest.param("masks", 2, marks=pytest.mark.slow)],
)
def test_a_folder_that_disappears_is_told_and_the_same_command_is_complete(home, removed, devices):
    name = f"{removed}{devices}"
    run, net = home / "outputs" / name, "model.network=net.py:PausingNet"
    line = [*SAME, net, "batch_size=1", "metric=[]", f"name={name}", f"trainer.devices={devices}"]
    with paused_after(home, name):
        command = Command(home, *line).until(lambda: any(run.glob("masks/p*.npz"))).signal(signal.SIGSTOP)
        if removed == "mv":
            run.rename(home / "outputs" / f"moved-{name}")
        else:
            shutil.rmtree(run / "masks" if removed == "masks" else run)
        command.signal(signal.SIGCONT)
    assert command.end() == 1, command.err
    assert removed == "masks" or one_sentence(command) and "was removed or moved" in command.err and not run.exists()
    cut_short = "cannot use" in command.err and "masks" in command.err  # while a file was written into it
    assert removed != "masks" or cut_short or "images are still missing" in command.err and summary(run)["n_missing"]
    if removed == "mv":
        (home / "outputs" / f"moved-{name}").rename(run)
    done(home, *line)
    assert len(masks(run)) == summary(run)["n"] == 3


def test_ten_million_shares_end(home):
    done(home, *FEW, "share=1/10000000", "name=share")
