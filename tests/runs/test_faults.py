"""Whatever ends a run, what it finished is whole on disk, and the same command continues it to the undisturbed run.

tests/slow/test_interruptions.py interrupts runs at many more instants and in more ways.
"""

import ctypes
import os
import resource
import signal
import socket
import time
from multiprocessing import forkserver

import pytest
from commands import CONTEXT, Command, SilentCoordinator, done, fork_workers, masks, serve, summary, table, whole
from interrupted import (
    CPU,
    CUDA,
    LONG,
    check_equals_calm,
    check_full_disk,
    check_stopped,
    children,
    continued,
    eventually,
    explained,
    is_alive,
    is_stop_sentence,
    one_sentence,
    paused_after,
    rows,
    run,
    until_first_row,
    write_hungry_network,
)

from mpx.errors import is_out_of_memory
from mpx.runs import tables
from mpx.runs.launch import run_processes
from mpx.runs.signals import SIGNALS, Stopped, raise_on_signal

ROWS = 8


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("faults"), ROWS)


# ---- SIGKILL


@pytest.mark.slow
def test_a_folder_is_refused_while_a_run_lives_and_continued_when_it_was_killed(home):
    this, many = run(home, "taken"), [*LONG, "name=taken"]
    with paused_after(home, "taken"):
        first = until_first_row(Command(home, *many), this)
        first.signal(signal.SIGSTOP)  # it keeps the folder, and finishes nothing meanwhile
    second = done(home, *many, code=1)
    assert one_sentence(second) and f"pid {first.pid} on {socket.gethostname()}" in second.err
    first.signal(signal.SIGKILL).end()
    before = rows(this)
    whole(this)
    assert 0 < len(before) < ROWS
    done(home, *many)
    assert before.items() <= rows(this).items()  # no row was made again
    check_equals_calm(home, "taken")


def workers(command: Command) -> set[int]:
    return children(forkserver._forkserver._forkserver_pid) - {command.pid}


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run_with_a_sentence(home):
    this, many = run(home, "worker"), [*LONG, "name=worker", "trainer.devices=2"]
    with paused_after(home, "worker"):
        command = until_first_row(Command(home, *many), this)
        os.kill(max(workers(command)), signal.SIGKILL)
        assert command.end(30) == 1
    assert "a worker process was killed by signal 9" in command.err and one_sentence(command)
    before = rows(this)
    assert 0 < len(before) < ROWS and summary(this)["protocol"]["stopped"] and not workers(command)
    whole(this)
    done(home, *many)
    assert before.items() <= rows(this).items()
    check_equals_calm(home, "worker")


def _sleeps(_, file):
    file.write_text(str(os.getpid()))
    time.sleep(60)


def _employs(file):
    fork_workers()
    run_processes(_sleeps, [(file,)], 1, SilentCoordinator())


@pytest.mark.slow
def test_a_worker_that_is_busy_ends_with_its_parent_too(tmp_path):
    serve()
    parent = CONTEXT.Process(target=_employs, args=(tmp_path / "pid",))
    parent.start()
    worker = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    assert is_alive(worker)
    parent.kill()
    assert eventually(lambda: not is_alive(worker))


# ---- signals


def test_each_signal_of_a_launcher_is_one_exception():
    for number in SIGNALS:
        with pytest.raises(Stopped) as stopped, raise_on_signal():
            os.kill(os.getpid(), number)
        assert stopped.value.signum == number


@pytest.mark.slow
def test_a_signal_stops_a_run_that_says_how_to_continue(home):
    with paused_after(home, "stopped"):
        command = Command(home, *LONG, "hydra.run.dir=outputs/stopped")
        check_stopped(until_first_row(command, run(home, "stopped")), signal.SIGINT, 130, ROWS)
    before = rows(run(home, "stopped"))
    continued(home, command)
    assert before.items() <= rows(run(home, "stopped")).items()
    check_equals_calm(home, "stopped")


@pytest.mark.slow
def test_ctrl_c_stops_a_sweep_that_continues_where_it_was(home):
    sweep = [*LONG, "limit=3", "batch_size=1", "-m", "seed=0,1"]
    sweeps = run(home, "sweeps")
    with paused_after(home, "sweeps/*/seed=0"):
        command = Command(home, *sweep).until(lambda: any(sweeps.glob("*/seed=0/masks/*.npz")))
        assert command.signal(signal.SIGINT).end(30) == 130 and is_stop_sentence(command), command.err
    (folder,) = sweeps.iterdir()
    before = rows(folder / "seed=0")
    assert 0 < len(before) < 3 and not (folder / "seed=1").exists()
    continued(home, command)
    assert list(sweeps.iterdir()) == [folder] and before.items() <= rows(folder / "seed=0").items()
    assert len(rows(folder / "seed=0")) == len(rows(folder / "seed=1")) == 3


# ---- memory


def test_a_batch_that_does_not_fit_is_halved_until_it_does(home):
    """The rows are those of a run whose batches fit from the start."""
    write_hungry_network(home, 3, CUDA)
    some = [*LONG, "limit=5", "steps=4", "game=deletion", "pictures=none", "log_images=0", "metric=[]"]
    command = done(home, *some, "model.network=hungry.py:Hungry", "batch_size=8", "name=hungry")
    sizes = [int(line) for line in (home / "sizes.txt").read_text().split()]
    sizes = sizes[sizes.index(8) :]  # before, the model is checked
    assert [size for size in sizes if size > 3] == [8, 4] and sizes.index(4) < sizes.index(2)
    assert sizes.count(2) > 2 * 4  # from then on
    assert command.out.count("out of memory with 8 rows at once: continuing with 4") == 1
    assert command.out.count("out of memory with 4 rows at once: continuing with 2") == 1
    assert command.out.count("out of memory") == 2 and not command.err
    done(home, *some, "batch_size=2", "name=fits")
    hungry, fits = masks(run(home, "hungry")), masks(run(home, "fits"))
    assert hungry == fits and len(fits) == 5


def test_every_library_that_runs_out_of_memory_is_understood():
    for words in (CPU, "CUDNN_STATUS_ALLOC_FAILED", "MPS backend out of memory"):
        assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_a_row_that_does_not_fit_alone_is_one_sentence(home):
    write_hungry_network(home, 1, CUDA)  # the model is checked with one image
    few = [*LONG, "limit=2", "batch_size=1", "game=dual", "name=starved"]
    command = done(home, *few, "model.network=hungry.py:Hungry", code=1)
    assert "mpx: out of memory with" in command.err and one_sentence(command)


# ---- disk


def test_a_full_disk_stops_the_run_with_what_is_done(home):
    check_full_disk(home, 4000, "none")  # a mask is larger


def test_a_logger_that_cannot_write_is_one_warning(home):
    this = run(home, "unlogged")
    this.mkdir(parents=True)
    (this / ".lock").touch()  # the folder is a run's
    (this / "tensorboard").write_text("a file where its folder should be")
    command = done(home, *LONG, "limit=2", "pictures=none", "name=unlogged")
    assert command.out.count("logger=tensorboard is off") == 1 and not command.err
    assert masks(this).items() <= masks(run(home, "calm")).items() and summary(this)["n"] == 2


def test_a_table_on_a_full_disk_has_complete_lines(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    lines = [dict.fromkeys(tables.RESULT_COLUMNS, "x")]
    tables.write_csv(tmp_path / "results.csv", lines)
    size = (tmp_path / "results.csv").stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 2 * len(lines[0]) + 4, before[1]))
        with pytest.raises(OSError, match="results.csv"):
            for _ in range(2):
                tables.append_csv(tmp_path / "results.csv", lines)
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
    before = rows(run(home, "closed"))
    for folder, arguments in [(run(home, "closed") / "masks", few), (home / "outputs", [*few, "name=other"])]:
        folder.chmod(0o555)
        command = done(home, *arguments, inside=_unprivileged, code=1)
        folder.chmod(0o755)
        assert "Permission denied" in command.err and one_sentence(command), command.err
        assert "cannot use" in command.err and str(folder.relative_to(home)) in command.err
        assert rows(run(home, "closed")) == before and not run(home, "other").exists()
        whole(run(home, "closed"))
    done(home, *few)
    assert before.items() <= rows(run(home, "closed")).items() and len(before) == 1
    assert summary(run(home, "closed"))["n"] == 2
