"""Runs that are interrupted at any instant, by every signal, by disks that are really full, with spawned workers."""

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from commands import Command, done, drafts, masks, table, whole
from interrupted import (
    CPU,
    CUDA,
    LONG,
    check_close,
    check_equals_calm,
    check_full_disk,
    check_stopped,
    children,
    continued,
    dies_before_renaming_to,
    eventually,
    explained,
    is_alive,
    is_stop_sentence,
    one_sentence,
    paused_after,
    rows,
    run,
    until_first_row,
    until_started,
    write_hungry_network,
)

ROWS = 12


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("interruptions"), ROWS)


@pytest.fixture(scope="module")
def batch_seconds(home):
    """How long a batch takes on this machine."""
    command = until_started(Command(home, *LONG, "name=timed"))
    start = time.monotonic()
    assert command.end() == 0, command.err
    return (time.monotonic() - start) / (ROWS / 2)


def test_twelve_kills_at_any_instant_cost_no_row(home, batch_seconds):
    """A third of the instants lie in the start of a session, a third about its first batch, a third among later ones."""
    instants, amid, names = random.Random(0), 0, ["killed"]
    for kill in range(12):
        this = run(home, names[-1])
        before = rows(this)
        command = Command(home, *LONG, f"name={names[-1]}")
        if kill % 3:
            until_started(command)
        if kill % 3 == 2:
            command.until(lambda this=this, before=before: rows(this) != before)
        time.sleep(instants.uniform(0, batch_seconds))
        with suppress(ProcessLookupError):  # nothing was left to do
            command.signal(signal.SIGKILL)
        assert command.end() == -signal.SIGKILL or len(rows(this)) == ROWS, command.err
        whole(this)
        assert before.items() <= rows(this).items()  # no row was made again
        if (this / "results.csv").exists():
            listed = [row["mask"] for row in table(this)]
            assert len(set(listed)) == len(listed) and {Path(mask).name for mask in listed} <= set(rows(this))
        amid += 0 < len(rows(this)) < ROWS
        if len(rows(this)) == ROWS:  # where rows are fast, before all the kills
            names.append(f"{names[-1]}-")
    assert amid >= 4
    for name in names:
        done(home, *LONG, f"name={name}")
        check_equals_calm(home, name)


def test_a_kill_between_writing_and_renaming_any_file_leaves_a_partial_file_that_goes(home):
    this = run(home, "renaming")
    few = [*LONG, "limit=6", "name=renaming"]
    instants = [("config.yaml", 1), ("overrides.yaml", 1), ("results.csv", 1), (".png", 2), (".webp", 1), (".npz", 1)]
    instants += [(".npz", 2), ("results.csv", 2), ("summary.json", 1)]
    for name, number in instants:
        before = rows(this)
        command = Command(home, *few, inside=partial(dies_before_renaming_to, name, number))
        assert command.end() == -signal.SIGKILL, (name, command.err)
        assert any(name in draft.name for draft in drafts(this))
        whole(this)
        assert before.items() <= rows(this).items()
    done(home, *few)
    check_equals_calm(home, "renaming", 6)


def test_spawned_workers_end_with_their_parent_and_the_same_command_continues(home):
    many = [*LONG, "name=orphans", "trainer.devices=2"]
    with paused_after(home, "orphans"):
        command = Command(home, *many, spawned=True).until(lambda: rows(run(home, "orphans")), 180)
        born = children(command.pid)
        assert len(born) >= 2
        command.signal(signal.SIGKILL).end()
        assert eventually(lambda: not any(map(is_alive, born)), 60) and not command.err, command.err
    before = rows(run(home, "orphans"))
    whole(run(home, "orphans"))
    assert 0 < len(before) < ROWS
    done(home, *many)
    assert before.items() <= rows(run(home, "orphans")).items()
    check_equals_calm(home, "orphans")


@pytest.mark.parametrize(
    "number, code, devices", [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 1), (signal.SIGUSR1, 138, 2)]
)
def test_a_signal_stops_a_run_within_seconds(home, number, code, devices):
    name = f"{number.name}{devices}"
    few = [*LONG, "limit=8", f"trainer.devices={devices}", f"hydra.run.dir=outputs/{name}"]
    with paused_after(home, name):
        command = until_first_row(Command(home, *few), run(home, name))
        start = time.monotonic()
        check_stopped(command, number, code, 8)
    assert time.monotonic() - start < 10
    before = rows(run(home, name))
    continued(home, command)
    assert before.items() <= rows(run(home, name)).items()
    check_equals_calm(home, name, 8)


def test_ctrl_c_in_a_terminal_reaches_workers_too(home):
    """Also those that are still importing."""
    few = [*LONG, "limit=8", "trainer.devices=2", "name=terminal"]
    with paused_after(home, "terminal"):
        starting = Command(home, *few, spawned=True)
        starting.until(lambda: len(children(starting.pid)) > 1)
        assert starting.signal(signal.SIGINT, group=True).end(30) == 130
        assert is_stop_sentence(starting), starting.err
        command = Command(home, *few).until(lambda: rows(run(home, "terminal")))
        check_stopped(until_first_row(command, run(home, "terminal")), signal.SIGINT, 130, 8, group=True)
    continued(home, command)
    check_equals_calm(home, "terminal", 8)


def test_a_batch_that_does_not_fit_is_halved_without_deterministic_too(home):
    write_hungry_network(home, 3, CPU)
    shared = ["limit=11", "steps=12", "game=deletion", "pictures=none", "log_images=0", "metric=[]"]
    some = [*LONG, *shared, "deterministic=false"]
    command = done(home, *some, "model.network=hungry.py:Hungry", "batch_size=8", "name=hungry")
    assert command.out.count("out of memory") == 2 and not command.err
    done(home, *some, "batch_size=2", "name=fits")
    check_close(run(home, "hungry"), run(home, "fits"), 1e-4)


def test_a_row_whose_samples_do_not_fit_is_one_sentence(home):
    write_hungry_network(home, 1, CUDA)  # the model is checked with one image
    more = ["parallel=samples", "trainer.devices=2", "samples=2", "limit=2", "game=dual", "name=starved"]
    command = done(home, *LONG, "model.network=hungry.py:Hungry", *more, code=1)
    assert "mpx: out of memory with" in command.err and one_sentence(command)


@pytest.mark.parametrize("size, pictures", [(1000, "none"), (30000, "all")])  # the configuration or an animation is larger
def test_a_full_disk_stops_the_run_with_what_is_done(home, size, pictures):
    check_full_disk(home, size, pictures)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB, and how to enlarge it."""
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only where file systems may be mounted")
    yield tmp_path, lambda: subprocess.run(["mount", "-o", "remount,size=20m", str(tmp_path)], check=True)
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_disk_that_is_really_full_stops_the_run_too(home, small_disk):
    disk, enlarge = small_disk
    few = [*LONG, f"hydra.run.dir={disk}/run"]
    command = done(home, *few, code=1)
    assert one_sentence(command) and "No space left on device" in command.err, command.err
    whole(disk / "run")
    before = rows(disk / "run")
    assert "No space left on device" in done(home, *few, code=1).err and not drafts(disk / "run")
    enlarge()
    done(home, *few)
    assert before.items() <= rows(disk / "run").items()
    assert masks(disk / "run") == masks(run(home, "calm"))
    check_equals_calm(home, disk / "run")


def test_shares_work_side_by_side_and_no_row_is_made_twice(home):
    few = [*LONG, "name=beside"]
    with paused_after(home, "beside"):
        first = Command(home, *few, "share=0/2").until(lambda: rows(run(home, "beside"))).signal(signal.SIGSTOP)
    assert f"share 0 of 2 pid {first.pid}" in done(home, *few, "share=0/2", code=1).err
    assert "2 shares" in done(home, *few, code=1).err
    done(home, *few, "share=1/2")
    assert first.signal(signal.SIGCONT).end() == 0
    check_equals_calm(home, "beside")
