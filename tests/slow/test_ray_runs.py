"""launch=ray: machines that die and join while a run works, and a command that is killed, beside a run of one process."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Command, done, whole
from interrupted import (
    LONG,
    check_equals_calm,
    check_stopped,
    eventually,
    explained,
    is_alive,
    paused_after,
    rows,
    run,
    until_first_row,
)
from ray_machines import Machines

pytest.importorskip("ray")
ROWS = 8
JOINED, DIED = "has joined", "a worker died"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return explained(tmp_path_factory.mktemp("ray"), ROWS)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    cluster = Machines()
    yield cluster
    cluster.end()


def launched(home: Path, machines: Machines, name: str) -> Command:
    return Command(home, *LONG, "launch=ray", f"launch.address={machines.address}", f"name={name}")


def test_machines_die_and_join_and_no_row_is_lost_or_made_twice(home, machines):
    machines.add()
    with paused_after(home, "machines"):
        command = launched(home, machines, "machines")
        command.until(lambda: command.out.count(JOINED) == 2)
        until_first_row(command, run(home, "machines"))
        before = rows(run(home, "machines"))
        machines.remove()
        command.until(lambda: command.out.count(DIED) == 1)
        machines.add()
        command.until(lambda: command.out.count(JOINED) == 3)
        os.kill(machines.workers()[0], signal.SIGKILL)
        command.until(lambda: command.out.count(DIED) == 2 and command.out.count(JOINED) == 4)
    assert command.end() == 0, command.out + command.err
    assert before.items() <= rows(run(home, "machines")).items()
    check_equals_calm(home, "machines")


def test_a_command_that_is_killed_continues(home, machines):
    """The workers end with the command, and so do those of one that is told to stop."""
    with paused_after(home, "killed"):
        command = until_first_row(launched(home, machines, "killed"), run(home, "killed"))
        workers = machines.workers()
        command.signal(signal.SIGKILL).end()
        assert workers and eventually(lambda: not any(map(is_alive, workers)), 30)
        before = rows(run(home, "killed"))
        whole(run(home, "killed"))
        assert 0 < len(before) < ROWS
        command = launched(home, machines, "killed")
        command.until(lambda: JOINED in command.out)
        check_stopped(command, signal.SIGTERM, 143, ROWS)
        assert eventually(lambda: not machines.workers(), 30)
    done(home, *LONG, "launch=ray", f"launch.address={machines.address}", "name=killed")
    assert before.items() <= rows(run(home, "killed")).items()
    check_equals_calm(home, "killed")
