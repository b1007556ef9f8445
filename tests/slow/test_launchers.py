"""The launchers: the real torchrun, ranks as srun and torchrun start them, and more numbers of worker processes."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import PLAIN, SAME, Command, done, masks, summary, table
from interrupted import paused_after
from same_run import SHOWN, check_close, check_equals_one, explained, run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("launchers"))


@pytest.mark.parametrize("ranks, images", [(2, 1), (3, 8)])
def test_ranks_give_the_run_of_one_process(home, ranks, images):
    done(home, *SHOWN, f"trainer.devices={ranks}", f"limit={images}", f"name={ranks}x{images}")
    check_equals_one(home, f"{ranks}x{images}", images)


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
    check_equals_one(home, "torchrun")
    done(home, *[a for a in samples if a != "parallel=samples"], "name=four")
    check_close(home, "torchrun-samples", "four")


def test_srun_shares_rows(home):
    tasks = [
        Command(home, *SHOWN, "name=srun", SLURM_JOB_ID="7", SLURM_NTASKS="2", SLURM_STEP_NUM_TASKS="2",
                SLURM_STEP_TASKS_PER_NODE="2", SLURM_PROCID=rank, SLURM_LOCALID=rank, SLURM_JOB_NAME="night")
        for rank in "01"
    ]  # fmt: skip
    assert [task.end() for task in tasks] == [0, 0], tasks[0].err + tasks[1].err
    check_equals_one(home, "srun")


def test_a_network_that_rounds_by_the_place_in_a_batch_is_solved_one_by_one(home):
    few = [*SAME, "model.network=net.py:PlaceNet", "limit=4"]
    assert "one by one" in done(home, *few, "name=alone").out
    order = f"images=[{','.join(f'photos/p0{i}.png' for i in (3, 1, 0, 2))}]"
    done(home, *few, order, "trainer.devices=2", "name=alone2")
    assert len(masks(run(home, "alone"))) == 4 and masks(run(home, "alone2")) == masks(run(home, "alone"))


def test_a_group_of_which_nothing_is_left_to_do_ends_too(home):
    """Only the leader knows, and the others wait for it."""
    done(home, *PLAIN, "limit=1", "samples=2", "parallel=samples", "trainer.devices=2", "name=group")
    ranks = torchrun(home, *PLAIN, "limit=1", "samples=2", "parallel=samples", "name=group")
    assert [rank.end(30) for rank in ranks] == [0, 0]


def test_a_stopped_group_ends_although_its_ranks_wait_for_each_other(home):
    """Lightning's own handler of SIGTERM broadcasts from within it, and the others do not listen."""
    long = [*PLAIN, "model.network=net.py:PausingNet", "batch_size=1", "samples=2", "parallel=samples", "name=told"]

    def images():
        return len(table(run(home, "told"))) if (run(home, "told") / "results.csv").exists() else 0

    with paused_after(home, "told"):
        leader, other = torchrun(home, *long)
        leader.until(images)
        assert other.signal(signal.SIGTERM).end(5) == 143
        leader.signal(signal.SIGKILL).end()
    kept = images()
    with paused_after(home, "told", f"p{kept:02}"):
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
