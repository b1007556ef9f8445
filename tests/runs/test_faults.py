"""Whatever ends a run, what it finished is whole on disk, and the same command goes on to the run that nothing disturbed."""

import ctypes
import os
import random
import resource
import shlex
import signal
import socket
import subprocess
import time
from contextlib import suppress
from functools import partial
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
from commands import (
    CONTEXT,
    SAME,
    Command,
    SilentCoordinator,
    done,
    drafts,
    fork_workers,
    masks,
    serve,
    summary,
    table,
    whole,
    workplace,
)

from mpx.runs import tables
from mpx.runs.launch import run_processes

ROWS = 16
LONG = [*(a for a in SAME if not a.startswith(("batch_size", "pictures", "log_images"))), "steps=24"]
LONG += ["batch_size=2", "pictures=4", "log_images=2"]


PACE = {}  # seconds of a batch


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with photos, explained without a disturbance in outputs/calm."""
    home = workplace(tmp_path_factory.mktemp("faults"), ROWS)
    command = working(Command(home, *LONG, "name=calm"))
    begun = time.monotonic()
    assert command.end() == 0, command.err
    PACE["batch"] = (time.monotonic() - begun) / (ROWS / 2)
    return home


def run(home: Path, name: str) -> Path:
    return home / "outputs" / name


def working(command: Command) -> Command:
    """Waits until its rows are begun."""
    return command.until(lambda: " on cpu" in command.out)


def told(command: Command, run: Path) -> Command:
    """Waits until it has told of a row in its table."""
    return command.until(lambda: (run / "results.csv").exists() and table(run))


def rows(run: Path) -> dict[str, int]:
    """Which are done, and when."""
    return {path.name: path.stat().st_mtime_ns for path in (run / "masks").glob("[!.]*")}


def as_calm(home: Path, name: str | Path, number: int = ROWS) -> None:
    """The run is complete and could not be told from the one in outputs/calm."""
    this, calm = run(home, name), run(home, "calm")
    names = sorted(masks(calm))[:number]
    assert masks(this) == {row: masks(calm)[row] for row in names}
    assert [row["image"] for row in table(this)] == [f"p{i:02}" for i in range(number)]
    for folder, suffix in (("panels", "png"), ("evolution", "gif")):
        for row in names[:4]:
            assert (this / folder / f"{row}.{suffix}").read_bytes() == (calm / folder / f"{row}.{suffix}").read_bytes()
    counts = summary(this)
    assert (counts["n"], counts["n_missing"], counts["protocol"]["stopped"]) == (number, 0, False)
    assert len(list(this.glob("*.whole"))) == 1 and not drafts(this)
    whole(this)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.add(int(stat.parent.name))
        except OSError:  # it has ended
            pass
    return found


# ---- SIGKILL


def test_twenty_kills_at_any_instant_cost_no_row(home):
    """A third of the instants lie in the start of a session, a third about its first batch, a third among later ones."""
    instants, amid, names = random.Random(0), 0, ["killed"]
    for kill in range(20):
        this = run(home, names[-1])
        before = rows(this)
        command = Command(home, *LONG, f"name={names[-1]}")
        if kill % 3:
            working(command)
        if kill % 3 == 2:
            command.until(lambda this=this, before=before: rows(this) != before)
        time.sleep(instants.uniform(0, PACE["batch"]))
        with suppress(ProcessLookupError):  # nothing was left to do
            command.signal(signal.SIGKILL)
        assert command.end() == -signal.SIGKILL or len(rows(this)) == ROWS, command.err
        whole(this)
        assert before.items() <= rows(this).items()  # no row was made again
        if (this / "results.csv").exists():
            told = [row["mask"] for row in table(this)]
            assert len(set(told)) == len(told) and {Path(mask).name for mask in told} <= set(rows(this))
        amid += 0 < len(rows(this)) < ROWS
        if len(rows(this)) == ROWS:  # where rows are fast, before all the kills
            names.append(f"{names[-1]}-")
    assert amid >= 5
    for name in names:
        done(home, *LONG, f"name={name}")
        as_calm(home, name)


def _dies_before_renaming_to(name: str, number: int, main):
    """At the number-th time that a file of such a name is about to appear."""
    replace, seen = os.replace, []

    def dying(draft, path):
        seen.append(path) if str(path).endswith(name) else None
        if len(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(draft, path)

    os.replace = dying
    main()


def test_a_kill_between_writing_and_renaming_leaves_a_draft_that_goes(home):
    this = run(home, "renaming")
    few = [*LONG, "limit=6", "name=renaming"]
    instants = [("config.yaml", 1), ("overrides.yaml", 1), ("results.csv", 1), (".png", 2), (".gif", 1), (".npz", 1)]
    instants += [(".npz", 2), ("results.csv", 2), ("summary.json", 1)]
    for name, number in instants:
        before = rows(this)
        command = Command(home, *few, inside=partial(_dies_before_renaming_to, name, number))
        assert command.end() == -signal.SIGKILL, (name, command.err)
        assert any(name in draft.name for draft in drafts(this))
        whole(this)
        assert before.items() <= rows(this).items()
    done(home, *few)
    as_calm(home, "renaming", 6)


def test_workers_end_with_their_parent_and_the_same_command_goes_on(home):
    many = [*LONG, "name=orphans", "trainer.devices=2"]
    command = Command(home, *many, spawned=True).until(lambda: rows(run(home, "orphans")))
    born = children(command.pid)
    assert len(born) >= 2
    command.signal(signal.SIGKILL).end()
    assert eventually(lambda: not any(map(alive, born)), 5) and not command.err, command.err
    before = rows(run(home, "orphans"))
    whole(run(home, "orphans"))
    assert 0 < len(before) < ROWS
    done(home, *many)
    assert before.items() <= rows(run(home, "orphans")).items()
    as_calm(home, "orphans")


def workers(command: Command) -> set[int]:
    return children(forkserver._forkserver._forkserver_pid) - {command.pid}


def test_a_worker_that_is_killed_ends_the_run_with_a_sentence(home):
    this, many = run(home, "worker"), [*LONG, "name=worker", "trainer.devices=2"]
    command = told(Command(home, *many), this)
    os.kill(max(workers(command)), signal.SIGKILL)
    assert command.end(10) == 1
    assert "a worker process was killed by signal 9" in command.err and len(command.err.strip().splitlines()) == 1
    before = rows(this)
    assert 0 < len(before) < ROWS and summary(this)["protocol"]["stopped"] and not workers(command)
    whole(this)
    done(home, *many)
    assert before.items() <= rows(this).items()
    as_calm(home, "worker")


def _sleeps(_, file):
    file.write_text(str(os.getpid()))
    time.sleep(60)


def _employs(file):
    fork_workers()
    run_processes(_sleeps, [(file,)], 1, SilentCoordinator())


def test_a_worker_that_is_busy_ends_with_its_parent_too(tmp_path):
    serve()
    parent = CONTEXT.Process(target=_employs, args=(tmp_path / "pid",))
    parent.start()
    worker = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    assert alive(worker)
    parent.kill()
    assert eventually(lambda: not alive(worker))


def eventually(condition, seconds: float = 10):
    """What the condition comes to within this time."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return value


# ---- signals

GO_ON = "mpx: stopped; to go on: "


@pytest.mark.parametrize(
    "number, code, devices",
    [(signal.SIGINT, 130, 1), (signal.SIGTERM, 143, 1), (signal.SIGTERM, 143, 2), (signal.SIGUSR1, 138, 1)],
)
def test_a_signal_stops_a_run_that_says_how_to_go_on(home, number, code, devices):
    name = f"{number.name}{devices}"
    few = [*LONG, "limit=8", f"trainer.devices={devices}", f"hydra.run.dir=outputs/{name}"]
    command = told(Command(home, *few), run(home, name))
    stopped(command, number, code)
    kept = rows(run(home, name))
    assert summary(run(home, name))["n"] <= len(kept)
    go_on(home, command)
    assert kept.items() <= rows(run(home, name)).items()
    as_calm(home, name, 8)


def stopped(command: Command, number: int, code: int, group: bool = False) -> None:
    begun = time.monotonic()
    command.signal(number, group)
    assert command.end(30) == code, command.err
    assert time.monotonic() - begun < 5 and just_stopped(command), command.err
    folder = Path(command.out.partition("kept in ")[2].splitlines()[0])
    said = summary(folder)
    assert said["protocol"]["stopped"] and said["n"] + said["n_missing"] == 8 and said["n_missing"] > 0
    assert [row["image"] for row in table(folder)] == sorted(row["image"] for row in table(folder))
    assert len(table(folder)) == said["n"] and not drafts(folder)
    whole(folder)


def just_stopped(command: Command) -> bool:
    return command.err.startswith(GO_ON) and command.err.count("\n") == 1


def go_on(home: Path, command: Command) -> Command:
    """The command that the message gives."""
    again = shlex.split(command.err.removeprefix(GO_ON))
    assert again[0] == "mpx"
    return done(home, *again[1:])


def test_ctrl_c_in_a_terminal_reaches_the_workers_too(home):
    few = [*LONG, "limit=8", "trainer.devices=2", "name=terminal"]
    starting = Command(home, *few, spawned=True)
    starting.until(lambda: len(children(starting.pid)) > 1)
    assert starting.signal(signal.SIGINT, group=True).end(5) == 130
    assert just_stopped(starting), starting.err
    command = told(Command(home, *few, spawned=True), run(home, "terminal"))
    stopped(command, signal.SIGINT, 130, group=True)
    go_on(home, command)
    as_calm(home, "terminal", 8)


def test_ctrl_c_stops_a_sweep_that_goes_on_where_it_was(home):
    sweep = [*LONG, "limit=2", "batch_size=1", "-m", "seed=0,1"]
    sweeps = run(home, "sweeps")
    command = Command(home, *sweep).until(lambda: any(sweeps.glob("*/seed=0/masks/*.npz")))
    assert command.signal(signal.SIGINT).end(5) == 130 and just_stopped(command), command.err
    (folder,) = sweeps.iterdir()
    kept = rows(folder / "seed=0")
    assert len(kept) == 1 and not (folder / "seed=1").exists()
    go_on(home, command)
    assert list(sweeps.iterdir()) == [folder] and kept.items() <= rows(folder / "seed=0").items()
    assert len(rows(folder / "seed=0")) == len(rows(folder / "seed=1")) == 2


# ---- memory


HUNGRY = """
import torch
from planted import RoundingNet

class Hungry(RoundingNet):
    def forward(self, x):
        print(len(x), file=open("sizes.txt", "a"))
        if len(x) > {most}:
            raise {error}
        return super().forward(x)
"""
CUDA = 'torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")'
CPU = 'RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can\'t allocate memory")'


def hungry(home: Path, most: int, error: str) -> None:
    (home / "hungry.py").write_text(HUNGRY.format(most=most, error=error))
    (home / "sizes.txt").write_text("")


@pytest.mark.parametrize("error, same", [(CUDA, "false"), (CPU, "false"), (CUDA, "true")])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(home, error, same):
    """The rows are those of a run whose batches fit from the start."""
    hungry(home, 3, error)
    some = [*LONG, "limit=11", "steps=12", "pictures=none", "log_images=0", f"deterministic={same}", "metric=[]"]
    command = done(home, *some, "model.network=hungry.py:Hungry", "batch_size=8", f"name=hungry-{same}{len(error)}")
    sizes = [int(line) for line in (home / "sizes.txt").read_text().split()]
    sizes = sizes[sizes.index(8) :]  # before, the model is looked at
    assert [size for size in sizes if size > 3] == [8, 4] and sizes.index(4) < sizes.index(2)
    assert sizes.count(2) > 5 * 12  # ever after
    assert command.out.count("out of memory with 8 rows at once: going on with 4") == 1
    assert command.out.count("out of memory with 4 rows at once: going on with 2") == 1
    assert command.out.count("out of memory") == 2 and not command.err
    done(home, *some, "batch_size=2", f"name=fits-{same}")
    close(run(home, f"hungry-{same}{len(error)}"), run(home, f"fits-{same}"), 0 if same == "true" else 1e-4)


def close(one: Path, other: Path, tolerance: float) -> None:
    names = sorted(path.name for path in (one / "masks").iterdir())
    assert names and names == sorted(path.name for path in (other / "masks").iterdir())
    for name in names:
        a, b = np.load(one / "masks" / name), np.load(other / "masks" / name)
        for key in ("parameter", "curves", "p_after"):
            np.testing.assert_allclose(a[key], b[key], rtol=tolerance, atol=tolerance, err_msg=f"{name} {key}")


@pytest.mark.parametrize("more", [[], ["parallel=samples", "trainer.devices=2", "samples=2"]])
def test_a_row_that_does_not_fit_alone_is_one_sentence(home, more):
    hungry(home, 1, CUDA)  # one photo is looked at before, and a row takes as many as it has samples
    few = [*LONG, "limit=2", f"batch_size={2 if more else 1}", "game=dual", f"name=starved{len(more)}"]
    command = done(home, *few, "model.network=hungry.py:Hungry", *more, code=1)
    assert "mpx: out of memory with" in command.err and len(command.err.strip().splitlines()) == 1


# ---- disk


def _limited(size: int, main):
    """No file may grow beyond this many bytes, which fails as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    main()


# the configuration, a mask or an animation is larger
@pytest.mark.parametrize("size, pictures", [(1000, "none"), (4000, "none"), (30000, "all")])
def test_a_full_disk_stops_the_run_with_what_is_done(home, size, pictures):
    this, few = run(home, f"full{size}"), [*LONG, "limit=2", f"pictures={pictures}", f"name=full{size}"]
    command = done(home, *few, inside=partial(_limited, size), code=1)
    assert len(command.err.strip().splitlines()) == 1 and f"{this}" in command.err and "File too large" in command.err
    assert not rows(this) and not drafts(this)
    whole(this)
    done(home, *few)
    assert len(masks(this)) == 2 and masks(this).items() <= masks(run(home, "calm")).items()
    whole(this)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB, and how to enlarge it."""
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only where file systems may be mounted")
    yield tmp_path, lambda: subprocess.run(["mount", "-o", "remount,size=20m", str(tmp_path)], check=True)
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_disk_that_is_really_full_does_too(home, small_disk):
    disk, enlarge = small_disk
    few = [*LONG, f"hydra.run.dir={disk}/run"]
    command = done(home, *few, code=1)
    assert len(command.err.strip().splitlines()) == 1 and "No space left on device" in command.err, command.err
    whole(disk / "run")
    kept = rows(disk / "run")
    assert "No space left on device" in done(home, *few, code=1).err and not drafts(disk / "run")
    enlarge()
    done(home, *few)
    assert kept.items() <= rows(disk / "run").items()
    as_calm(home, disk / "run")


def test_a_logger_that_cannot_write_is_one_warning(home):
    run(home, "unlogged").mkdir(parents=True)
    (run(home, "unlogged") / "tensorboard").write_text("a file where its folder should be")
    command = done(home, *LONG, "limit=2", "pictures=none", "name=unlogged")
    assert command.out.count("logger=tensorboard is off") == 1 and not command.err
    assert (
        masks(run(home, "unlogged")).items() <= masks(run(home, "calm")).items() and summary(run(home, "unlogged"))["n"] == 2
    )


def test_a_table_holds_whole_lines_on_a_full_disk(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = [dict.fromkeys(tables.RESULT_COLUMNS, "x")]
    tables.write_csv(tmp_path / "results.csv", rows)
    size = (tmp_path / "results.csv").stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, before[1]))
        with pytest.raises(OSError, match="results.csv"):
            for _ in range(2):
                tables.append_csv(tmp_path / "results.csv", rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    whole(tmp_path)
    assert len(table(tmp_path)) == 2


def _unprivileged(main):
    """Permissions hold for root too."""
    assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()) == 0
    main()


def test_a_folder_that_cannot_be_written_is_one_sentence(home):
    few = [*LONG, "limit=2", "pictures=none", "batch_size=1", "name=closed"]
    done(home, *few, "limit=1")
    kept, closed = rows(run(home, "closed")), [run(home, "closed") / "masks", run(home, "closed"), home / "outputs"]
    for folder, arguments in [(closed[0], few), (closed[1], few), (closed[2], [*few, "name=other"])]:
        folder.chmod(0o555)
        command = done(home, *arguments, inside=_unprivileged, code=1)
        folder.chmod(0o755)
        assert "Permission denied" in command.err and len(command.err.strip().splitlines()) == 1, command.err
        assert "cannot use" in command.err and str(folder.relative_to(home)) in command.err
        assert rows(run(home, "closed")) == kept and not run(home, "other").exists()
        whole(run(home, "closed"))
    done(home, *few)
    assert kept.items() <= rows(run(home, "closed")).items() and len(kept) == 1
    assert summary(run(home, "closed"))["n"] == 2


# ---- who else is there


def test_a_second_process_in_a_folder_is_refused_at_once_while_the_first_lives(home):
    many = [*LONG, "name=taken"]
    first = told(Command(home, *many), run(home, "taken"))
    begun = time.monotonic()
    second = done(home, *many, code=1)
    assert time.monotonic() - begun < 4 and len(second.err.strip().splitlines()) == 1
    assert f"pid {first.pid} on {socket.gethostname()}" in second.err
    first.signal(signal.SIGKILL).end()
    assert 0 < len(rows(run(home, "taken"))) < ROWS
    done(home, *many)
    as_calm(home, "taken")


def test_shares_work_side_by_side_but_none_is_done_twice(home):
    few = [*LONG, "limit=16", "name=beside"]
    first = Command(home, *few, "share=0/2").until(lambda: rows(run(home, "beside"))).signal(signal.SIGSTOP)
    assert f"share 0 of 2 pid {first.pid}" in done(home, *few, "share=0/2", code=1).err
    assert "2 shares" in done(home, *few, code=1).err
    done(home, *few, "share=1/2")
    assert first.signal(signal.SIGCONT).end() == 0
    as_calm(home, "beside", 16)
