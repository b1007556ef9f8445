"""Folders that are deleted, sweeps started twice, joblib killed: no row is lost that was not deleted, none made twice."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import SAME, Command, done, masks, summary, table, whole, workplace
from interrupted import LONG, check_equals_calm, children, eventually, explained, is_alive, rows, run, until_started

ROWS = 8
JOBS = ("seed=0", "seed=1", "seed=2")
SWEEP = [*SAME, "-m", "seed=0,1,2", "batch_size=1", "metric=[]"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("attack"), ROWS)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    """A folder with four photos, and a sweep over them in outputs/sweeps/calm."""
    home = workplace(tmp_path_factory.mktemp("sweeps"), 4)
    done(home, *SWEEP, "name=calm")
    return home


def check_sweep(home: Path, name: str) -> None:
    """Check that a sweep is complete and differs in nothing from outputs/sweeps/calm."""
    sweep, calm = (home / "outputs" / "sweeps" / one for one in (name, "calm"))
    for job in JOBS:
        assert masks(sweep / job) == masks(calm / job) and len(table(sweep / job)) == 4
        whole(sweep / job)
    assert not any(sweep.glob("*/failed.txt")) and "failed" not in (sweep / "table.md").read_text()


def test_folders_deleted_at_any_instant(home):
    """Six times the folder, its masks or its panels go; the command says so, or did not need them any more."""
    instants, told = random.Random(0), 0
    for attempt in range(6):
        name, part = f"deleted{attempt}", ("", "masks", "panels")[attempt % 3]
        this = run(home, name)
        command = until_started(Command(home, *LONG, f"name={name}"))
        command.until(lambda this=this: any(this.glob("masks/p*.npz")))
        time.sleep(instants.uniform(0, 0.5))
        command.signal(signal.SIGSTOP)
        shutil.rmtree(this / part, ignore_errors=True)
        command.signal(signal.SIGCONT)
        code = command.end()
        there = len(rows(this)) if (this / "masks").exists() else 0
        assert code in (0, 1) and (code or there == summary(this)["n"] == ROWS), command.err
        assert not code or len(command.err.strip().splitlines()) == 1, command.err
        told += code
        done(home, *LONG, f"name={name}")
        check_equals_calm(home, name)
    assert told >= 3


def test_sweeps_that_start_at_once_and_again(sweeps):
    """Twice three commands of one sweep start at once: those that come second are refused, all rows are made once."""
    refused = 0
    for attempt in range(2):
        name = f"beside{attempt}"
        commands = [Command(sweeps, *SWEEP, f"name={name}") for _ in range(3)]
        codes = [command.end() for command in commands]
        assert codes.count(0) >= 1 and set(codes) <= {0, 1}
        assert all("is in use" in command.err for command, code in zip(commands, codes) if code)
        refused += codes.count(1)
        before = {job: rows(sweeps / "outputs" / "sweeps" / name / job) for job in JOBS}
        assert "3 of 3 jobs are finished" in done(sweeps, *SWEEP, f"name={name}").out
        assert before == {job: rows(sweeps / "outputs" / "sweeps" / name / job) for job in JOBS}
        check_sweep(sweeps, name)
    assert refused >= 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_joblib_is_killed(sweeps, number):
    """In the middle of a sweep: the workers end with the command, and what it says continues it."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    name = f"joblib{number}"
    sweep = sweeps / "outputs" / "sweeps" / name
    line = [*SWEEP, "model.network=net.py:PausingNet", "cluster=joblib", "hydra.launcher.n_jobs=2", f"name={name}"]
    (sweeps / "pause").write_text(f"outputs/sweeps/{name}/*/masks/*.npz")
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, root / "scripts" / "run.py", *line]
    command = subprocess.Popen(script, cwd=sweeps, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert eventually(lambda: list(sweep.glob("*/masks/p*.npz")), 300)  # three processes import torch
    time.sleep(random.uniform(0, 1))  # another instant in each session
    workers = children(command.pid)
    assert len(workers) > 2
    before = {path: path.stat().st_mtime_ns for path in sweep.glob("*/masks/p*.npz")}
    command.send_signal(number)
    _, said = command.communicate(timeout=60)
    assert command.returncode == (143 if number == signal.SIGTERM else -number), said
    assert number == signal.SIGKILL or b"mpx: stopped; continue with: " in said
    assert eventually(lambda: not any(map(is_alive, workers)), 20)
    (sweeps / "pause").unlink()
    if number == signal.SIGKILL:
        subprocess.run(script, cwd=sweeps, env=environment, check=True, capture_output=True, timeout=300)
    else:  # the jobs one by one
        done(sweeps, *[a for a in line if not a.startswith(("cluster", "hydra"))])
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    check_sweep(sweeps, name)
