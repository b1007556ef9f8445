"""However the rows are shared out over processes, the run is the one that a single process makes.

tests/slow/test_launchers.py has the real torchrun, ranks of srun, and more numbers of processes.
"""

import os
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import (
    CONTEXT,
    PLAIN,
    SAME,
    SilentCoordinator,
    done,
    masks,
    serve,
    summary,
    table,
)
from planted import SQUARE
from same_run import SHOWN, check_close, check_equals_one, explained, run

from mpx.config_plan import compose_plan
from mpx.data.datasets import images
from mpx.runs.coordinator import RunCoordinator
from mpx.runs.folder import claim_folder, lock
from mpx.runs.launch import run_processes
from mpx.runs.resume import check_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("workers"))


def test_worker_processes_give_the_run_of_one_process(home):
    done(home, *SHOWN, "trainer.devices=2", "limit=5", "name=two")
    check_equals_one(home, "two", 5)


@pytest.mark.slow
def test_shares_may_come_one_after_the_other_and_the_last_sums_up(home):
    first = done(home, *SHOWN, "share=0/2", "name=shares")
    assert not (run(home, "shares") / "results.csv").exists() and not (run(home, "shares") / "summary.json").exists()
    assert sorted(p.name for p in (run(home, "shares") / "parts").iterdir()) == ["0-of-2.csv", "0-of-2.index", "0-of-2.json"]
    assert len(masks(run(home, "shares"))) == 4 and "share 0 of 2 is done" in first.out
    done(home, *SHOWN, "share=1/2", "name=shares")
    check_equals_one(home, "shares")


@pytest.mark.slow
def test_the_plain_command_finishes_what_a_share_began(home):
    done(home, *SHOWN, "share=1/2", "name=plain")
    times = {path: path.stat().st_mtime_ns for path in (run(home, "plain") / "masks").iterdir()}
    done(home, *SHOWN, "name=plain")
    check_equals_one(home, "plain")
    assert len(times) == 4 and all(path.stat().st_mtime_ns == time for path, time in times.items())


@pytest.mark.slow
def test_of_shares_that_end_together_one_sums_up(home, tmp_path):
    """The second to end waits for the first, which looked before it had ended."""
    shutil.copytree(run(home, "one"), tmp_path / "run")
    files = images(str(home / "photos"))
    first, second = (RunCoordinator(tmp_path / "run", files, index, 2) for index in range(2))
    with first.merge_shares() as merged:
        assert merged is None
    merging = threading.Thread(target=lambda: second.merge_shares().__enter__())
    with lock(tmp_path / "run" / ".lock-merge", "another that looks"):
        merging.start()
        merging.join(0.5)
        assert merging.is_alive()
    merging.join(10)
    assert not merging.is_alive()


def test_neither_the_order_of_files_nor_the_place_in_a_batch_matters(home):
    order = [7, 2, 5, 0, 3, 6, 1, 4]
    listed = f"images=[{','.join(f'photos/p{i:02}.png' for i in order)}]"
    done(home, *SAME, listed, "name=permuted")
    assert masks(run(home, "permuted")) == masks(run(home, "one"))
    assert [row["image"] for row in table(run(home, "permuted"))] == [f"p{i:02}" for i in order]


@pytest.mark.slow
def test_bad_images_of_one_share_end_no_other(home):
    """torchrun ends all its processes when one ends with another code than 0."""
    (home / "mixed").mkdir()
    for i in range(6):
        if i % 2:
            shutil.copy(home / "photos" / f"p{i:02}.png", home / "mixed")
        else:
            (home / "mixed" / f"p{i:02}.png").write_bytes(b"no picture")
    few = [*SHOWN, "images=mixed", "name=mixed"]
    assert "share 0 of 2 is done" in done(home, *few, "share=0/2").out
    assert "skipped p02" in done(home, *few, "share=1/2", code=3).out
    assert [row["image"] for row in table(run(home, "mixed"))] == ["p01", "p03", "p05"]
    assert summary(run(home, "mixed"))["n_skipped"] == 3 and not (run(home, "mixed") / "parts").exists()


@pytest.mark.slow
def test_shares_of_different_images_are_not_summed_up(home):
    done(home, *SHOWN, "share=1/2", "limit=4", "name=grew")
    assert "different images" in done(home, *SHOWN, "share=0/2", "name=grew").out
    assert not (run(home, "grew") / "results.csv").exists()
    done(home, *SHOWN, "name=grew")
    check_equals_one(home, "grew")


@pytest.mark.slow
def test_a_share_that_joins_has_the_same_configuration(tmp_path):
    def check(*overrides):
        return partial(check_config, compose_plan(*overrides, folder=tmp_path))

    with claim_folder(tmp_path, 0, 2, check("steps=5", "name=a")):
        with pytest.raises(ValueError, match=f"is in use .share 0 of 2 pid {os.getpid()}"):
            with claim_folder(tmp_path, 0, 2, check("steps=5")):
                pass
        with claim_folder(tmp_path, 1, 2, check("steps=5", "name=b")):
            pass
        with pytest.raises(ValueError, match="steps was 5 and is 6"):
            with claim_folder(tmp_path, 1, 2, check("steps=6")):
                pass
        with pytest.raises(ValueError, match=f"is in use .2 shares pid {os.getpid()}"):
            with claim_folder(tmp_path, 0, 1, check("steps=5")):
                pass
    with claim_folder(tmp_path, 0, 1, check("steps=6")):  # nobody is there, and no row
        pass


def test_a_row_beside_another_target_of_its_image_is_the_same(home):
    done(home, *SAME, "target=[1,0]", "limit=2", "name=targets")
    both = masks(run(home, "targets"))
    assert len(both) == 4
    for row in ("p00-1-checker-board", "p01-1-checker-board"):  # but for the list of targets, which is the last
        assert both[row][:-1] == masks(run(home, "one"))[row][:-1]


def test_a_batch_of_another_size_differs_by_rounding_only(home):
    for size in (1, 4):
        done(home, *PLAIN, f"batch_size={size}", "limit=5", f"name=batch{size}")
    check_close(home, "batch1", "batch4", 1e-4)


def test_samples_spread_over_processes_are_the_samples_of_one_process(home):
    samples = [*PLAIN, "samples=4", "limit=2", "steps=6"]
    done(home, *samples, "name=samples1")
    done(home, *samples, "parallel=samples", "trainer.devices=2", "name=samples2")
    check_close(home, "samples2", "samples1")


class SlowCoordinator(SilentCoordinator):
    def claim(self, count):
        time.sleep(0.5)  # the worker that waits for the answer dies meanwhile
        return []


def _dies_while_it_waits(remote):
    remote._send("claim", 1)
    os.kill(os.getpid(), signal.SIGKILL)


def _dies_in_a_message(remote):
    os.write(remote._pipe.fileno(), (1000).to_bytes(4, "big") + b"a part of a thousand bytes")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("target", [_dies_while_it_waits, _dies_in_a_message])
def test_a_worker_that_dies_at_any_moment_is_one_sentence(monkeypatch, target):
    serve()
    monkeypatch.setattr(torch.multiprocessing, "get_context", lambda _: CONTEXT)
    with pytest.raises(ValueError, match="a worker process was killed by signal 9"):
        run_processes(target, [()], 1, SlowCoordinator())


SRUN = {"SLURM_STEP_NUM_TASKS": "6", "SLURM_PROCID": "4", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "3(x2)"}
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    "arguments, environment, names",
    [
        (["-m", "seed=0,1", "name=refused"], SRUN, "a sweep under srun"),
        (["-m", "seed=0,1", "name=refused"], TORCHRUN, "a sweep under torchrun"),
        (["-m", "seed=0,1", "share=0/2", "name=refused"], {}, "a sweep under share="),
        ([], SRUN, "same name="),
        ([], TORCHRUN, "same name="),
        (["share=0/2"], {}, "same name="),
    ],
)
def test_wrong_use_of_a_launcher_is_refused_before_a_folder_exists(
    mpx, folder, monkeypatch, arguments, environment, names
):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    code, out, err = mpx(*SQUARE, "images=photos", *arguments)
    assert code == 1 and names in err and len(err.strip().splitlines()) == 1, out + err
    assert not (folder / "outputs").exists()


@pytest.mark.parametrize(
    "arguments, environment, names",
    [
        (["samples=3", "trainer.devices=2"], {}, "samples=3 cannot be divided among 2"),
        (["samples=4"], {}, "trainer.devices=N"),
        (["samples=4", "share=0/2", "trainer.devices=2"], {}, "or torchrun"),
        (["samples=6"], SRUN, "or torchrun"),
        (["samples=4"], TORCHRUN, "samples=4 cannot be divided among 8"),
    ],
)
def test_samples_that_cannot_be_divided_are_refused_before_the_work(mpx, folder, monkeypatch, arguments, environment, names):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    code, out, err = mpx(*SQUARE, "images=photos", "parallel=samples", "name=refused", *arguments)
    assert code == 1 and names in err and len(err.strip().splitlines()) == 1, out + err
    assert not (folder / "outputs" / "refused").exists()
