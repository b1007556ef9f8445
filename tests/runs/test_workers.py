"""However the rows are shared out over processes, the run is the one that a single process makes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import (
    CONTEXT,
    PLAIN,
    SAME,
    Command,
    SilentCoordinator,
    done,
    drafts,
    masks,
    serve,
    summary,
    table,
    whole,
    workplace,
)
from planted import SQUARE
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mpx.config_plan import compose_plan
from mpx.data.datasets import images
from mpx.runs.coordinator import RunCoordinator
from mpx.runs.folder import claim_folder, lock
from mpx.runs.launch import run_processes
from mpx.runs.resume import check_config

ROOT = Path(__file__).parents[2]
SHOWN = [a for a in SAME if not a.startswith("log_images")] + ["log_images=2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with eight photos, explained by one process in outputs/one."""
    home = workplace(tmp_path_factory.mktemp("workers"), 8)
    done(home, *SHOWN, "name=one")
    return home


def run(home: Path, name: str) -> Path:
    return home / "outputs" / name


def complete(home: Path, name: str, images: int = 8) -> None:
    """The run holds these rows of outputs/one to the bit, each once and in order, in every file that speaks of them."""
    this, one = run(home, name), run(home, "one")
    names = [f"p{i:02}-1-checker-board" for i in range(images)]
    assert masks(this) == {row: masks(one)[row] for row in names}
    seconds = {"seconds": None}  # all else in the table is equal, though made elsewhere
    assert [row | seconds for row in table(this)] == [row | seconds for row in table(one)[:images]]
    counts = summary(this)
    assert (counts["n"], counts["n_skipped"], counts["n_missing"], counts["protocol"]["stopped"]) == (images, 0, 0, False)
    assert sum(counts["computed_with"].values()) == images
    files = [path.parent.name for path in this.glob("tensorboard/*/events.out.tfevents.*")]
    assert sorted(files) == sorted(["mean", *names[:2]])
    total = EventAccumulator(str(this / "tensorboard" / "mean")).Reload()
    assert {"score/probability", "metric/p_after", "metric/area"} <= set(total.Tags()["scalars"])
    text = total.Tensors("results/text_summary")[0].tensor_proto.string_val[0].decode()
    assert [line.split()[1] for line in text.splitlines()[2:]] == [f"p{i:02}" for i in range(images)]
    assert not (this / "parts").exists() and not drafts(this)
    whole(this)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("images", [1, 5, 8])
def test_ranks_give_the_run_of_one_process(home, ranks, images):
    done(home, *SHOWN, f"trainer.devices={ranks}", f"limit={images}", f"name={ranks}x{images}")
    complete(home, f"{ranks}x{images}", images)


def test_torchrun_shares_rows_or_samples(home):
    """Both in one go, for the sake of the time that a start takes."""
    samples = [*PLAIN, "samples=4", "limit=3", "parallel=samples"]
    (home / "both.py").write_text(
        "import sys\nfrom mpx.cli.main import main\n"
        f"for arguments in {[[*SHOWN, 'name=torchrun'], [*samples, 'name=torchrun-samples']]!r}:\n"
        "    sys.argv[1:] = arguments\n    try:\n        main()\n    except SystemExit as end:\n"
        "        if end.code:\n            raise\n"
    )
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, *launcher, "both.py"], cwd=home, env=environment, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    complete(home, "torchrun")
    done(home, *[a for a in samples if a != "parallel=samples"], "name=four")
    close(home, "torchrun-samples", "four")


def test_srun_shares_rows(home):
    tasks = [
        Command(home, *SHOWN, "name=srun", SLURM_JOB_ID="7", SLURM_NTASKS="2", SLURM_STEP_NUM_TASKS="2",
                SLURM_STEP_TASKS_PER_NODE="2", SLURM_PROCID=rank, SLURM_LOCALID=rank, SLURM_JOB_NAME="night")
        for rank in "01"
    ]  # fmt: skip
    assert [task.end() for task in tasks] == [0, 0], tasks[0].err + tasks[1].err
    complete(home, "srun")


def test_shares_may_come_one_after_the_other_and_the_last_sums_up(home):
    first = done(home, *SHOWN, "share=0/2", "name=shares")
    assert not (run(home, "shares") / "results.csv").exists() and not (run(home, "shares") / "summary.json").exists()
    assert sorted(p.name for p in (run(home, "shares") / "parts").iterdir()) == ["0-of-2.csv", "0-of-2.json"]
    assert len(masks(run(home, "shares"))) == 4 and "share 0 of 2 is done" in first.out
    done(home, *SHOWN, "share=1/2", "name=shares")
    complete(home, "shares")


def test_the_plain_command_finishes_what_a_share_began(home):
    done(home, *SHOWN, "share=1/2", "name=plain")
    times = {path: path.stat().st_mtime_ns for path in (run(home, "plain") / "masks").iterdir()}
    done(home, *SHOWN, "name=plain")
    complete(home, "plain")
    assert len(times) == 4 and all(path.stat().st_mtime_ns == time for path, time in times.items())


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


def test_a_network_that_rounds_by_the_place_in_a_batch_is_solved_one_by_one(home):
    few = [*SAME, "model.network=net.py:PlaceNet", "limit=4"]
    assert "one by one" in done(home, *few, "name=alone").out
    order = f"images=[{','.join(f'photos/p0{i}.png' for i in (3, 1, 0, 2))}]"
    done(home, *few, order, "trainer.devices=2", "name=alone2")
    assert len(masks(run(home, "alone"))) == 4 and masks(run(home, "alone2")) == masks(run(home, "alone"))


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


def test_shares_of_different_images_are_not_summed_up(home):
    done(home, *SHOWN, "share=1/2", "limit=4", "name=grew")
    assert "different images" in done(home, *SHOWN, "share=0/2", "name=grew").out
    assert not (run(home, "grew") / "results.csv").exists()
    done(home, *SHOWN, "name=grew")
    complete(home, "grew")


def test_a_share_that_joins_has_the_same_configuration(tmp_path):
    def check(*overrides):
        return partial(check_config, compose_plan(*overrides, folder=tmp_path))

    with claim_folder(tmp_path, 0, 2, check("steps=5", "name=a")):
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
    close(home, "batch1", "batch4", 1e-4)


def close(home: Path, name: str, other: str, tolerance: float = 1e-5) -> None:
    paths = sorted((run(home, name) / "masks").iterdir())
    assert paths and [p.name for p in paths] == sorted(p.name for p in (run(home, other) / "masks").iterdir())
    for path in paths:
        a, b = np.load(path), np.load(run(home, other) / "masks" / path.name)
        for key in ("parameter", "curves", "p_after"):
            np.testing.assert_allclose(a[key], b[key], rtol=tolerance, atol=tolerance, err_msg=f"{path.name} {key}")


def test_samples_spread_over_ranks_are_the_samples_of_one_process(home):
    samples = [*PLAIN, "samples=4", "limit=3", "batch_size=2"]
    done(home, *samples, "name=samples1")
    done(home, *samples, "parallel=samples", "trainer.devices=2", "name=samples2")
    close(home, "samples2", "samples1")


def test_a_group_of_which_nothing_is_left_to_do_ends_too(home):
    """Only the leader knows, and the others wait for it."""
    done(home, *PLAIN, "limit=1", "samples=2", "parallel=samples", "trainer.devices=2", "name=group")
    ranks = torchrun(home, *PLAIN, "limit=1", "samples=2", "parallel=samples", "name=group")
    assert [rank.end(30) for rank in ranks] == [0, 0]


def test_a_group_that_is_told_to_stop_stops_though_its_ranks_wait_for_each_other(home):
    """Lightning's own handler of SIGTERM broadcasts from within it, and the others do not listen."""
    long = [*PLAIN, "batch_size=1", "samples=2", "parallel=samples", "steps=100", "name=told"]

    def images():
        return len(table(run(home, "told"))) if (run(home, "told") / "results.csv").exists() else 0

    leader, other = torchrun(home, *long)
    leader.until(images)
    assert other.signal(signal.SIGTERM).end(5) == 143
    leader.signal(signal.SIGKILL).end()
    kept = images()
    ranks = torchrun(home, *long)
    ranks[0].until(lambda: images() > kept)
    for rank in ranks:  # as torchrun does
        rank.signal(signal.SIGTERM)
    assert [rank.end(5) for rank in ranks] == [143, 143]
    assert kept < summary(run(home, "told"))["n"] < 8 and summary(run(home, "told"))["protocol"]["stopped"]
    assert "Traceback" not in ranks[0].err + ranks[1].err


def torchrun(home: Path, *arguments: str) -> list[Command]:
    """Two ranks, as torchrun would start them."""
    where = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    return [Command(home, *arguments, RANK=rank, LOCAL_RANK=rank, **where) for rank in "01"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


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
        (["-m", "seed=0,1", "name=refused"], SRUN, "a sweep with srun"),
        (["-m", "seed=0,1", "name=refused"], TORCHRUN, "a sweep with torchrun"),
        (["-m", "seed=0,1", "share=0/2", "name=refused"], {}, "a sweep with share="),
        ([], SRUN, "same name="),
        ([], TORCHRUN, "same name="),
        (["share=0/2"], {}, "same name="),
    ],
)
def test_a_launcher_that_is_used_wrongly_is_told_before_there_is_a_folder(
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
        (["samples=3", "trainer.devices=2"], {}, "samples=3 cannot be shared out equally over 2"),
        (["samples=4"], {}, "trainer.devices=N"),
        (["samples=4", "share=0/2", "trainer.devices=2"], {}, "or torchrun"),
        (["samples=6"], SRUN, "or torchrun"),
        (["samples=4"], TORCHRUN, "samples=4 cannot be shared out equally over 8"),
    ],
)
def test_samples_that_cannot_be_spread_are_told_before_the_work(mpx, folder, monkeypatch, arguments, environment, names):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    code, out, err = mpx(*SQUARE, "images=photos", "parallel=samples", "name=refused", *arguments)
    assert code == 1 and names in err and len(err.strip().splitlines()) == 1, out + err
    assert not [path for path in (folder / "outputs" / "refused").iterdir() if path.name != "run.log"]  # Hydra's
