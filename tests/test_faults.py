"""Whatever ends a run, what it finished is whole on disk, and the same command goes on to the run that nothing disturbed."""

import os
import random
import shlex
import signal
import time
from contextlib import suppress
from functools import partial
from multiprocessing import forkserver
from pathlib import Path

import pytest
from commands import SAME, Command, done, drafts, masks, summary, table, whole, workplace

ROWS = 24
LONG = [*(a for a in SAME if not a.startswith(("batch_size", "pictures", "log_images"))), "steps=60"]
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


def as_calm(home: Path, name: str, number: int = ROWS) -> None:
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
    this, instants, amid = run(home, "killed"), random.Random(0), 0
    for kill in range(20):
        before = rows(this)
        command = Command(home, *LONG, "name=killed")
        if kill % 3:
            working(command)
        if kill % 3 == 2:
            command.until(lambda before=before: rows(this) != before or len(before) == ROWS)
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
    assert amid >= 5
    done(home, *LONG, "name=killed")
    as_calm(home, "killed")


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
    end = time.monotonic() + 5
    while any(map(alive, born)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(alive, born))
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


# ---- signals

GO_ON = "mpx: stopped; to go on: "


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
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
    sweep = [*LONG, "limit=2", "batch_size=1", "-m", "hydra.sweep.dir=night", "hydra.sweep.subdir=${seed}", "seed=0,1"]
    first, second = home / "night" / "0", home / "night" / "1"
    command = told(Command(home, *sweep), first)
    assert command.signal(signal.SIGINT).end(5) == 130 and just_stopped(command)
    assert len(rows(first)) == 1 and not second.exists()
    kept = rows(first)
    go_on(home, command)
    assert kept.items() <= rows(first).items() and len(rows(first)) == len(rows(second)) == 2
