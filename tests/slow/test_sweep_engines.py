"""Sweeps that are killed, and sweeps on every engine: the same results wherever and however often jobs are started.

Sweeps under joblib are in test_folders_under_attack.py.
"""

import csv
import json
import os
import signal

import pytest
from commands import SAME, Command, done, masks, workplace
from interrupted import paused_after
from omegaconf import OmegaConf
from planted import SQUARE

from mpx.config_schema import CONFIGS

QUICK = [*SQUARE, "images=photos", "pictures=none", "log_images=0", "metric=[]"]


def test_a_killed_sweep_continues_to_the_same_result(tmp_path):
    """SIGKILL, then the same line."""
    home = workplace(tmp_path, 4)
    line = [*SAME, "model.network=net.py:PausingNet", "sweep=mask_resolution", "mask_size=4,8,16", "metric=[]"]
    done(home, *line, "name=calm")
    sweep, calm = (home / "outputs" / "sweeps" / name for name in ("killed", "calm"))
    with paused_after(home, "sweeps/killed/mask_size=8"):
        command = Command(home, *line, "name=killed").until(lambda: any(sweep.glob("mask_size=8/masks/*.npz")))
        os.killpg(command.pid, signal.SIGKILL)
        command.end()
    before = {path: path.stat().st_mtime_ns for path in sweep.glob("*/masks/*.npz")}
    modified = (sweep / "mask_size=4" / "summary.json").stat().st_mtime_ns
    assert 4 < len(before) < 12 and not (sweep / "table.csv").exists()
    again = done(home, *line, "name=killed")
    assert "1 of 3 jobs are finished" in again.out
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert (sweep / "mask_size=4" / "summary.json").stat().st_mtime_ns == modified
    for job in ("mask_size=4", "mask_size=8", "mask_size=16"):
        assert masks(sweep / job) == masks(calm / job) and len(masks(sweep / job)) == 4
    tables = [[{k: v for k, v in row.items() if k != "seconds"} for row in _lines(f)] for f in (sweep, calm)]
    assert tables[0] == tables[1] and len(tables[0]) > 3


def _lines(sweep) -> list[dict]:
    """Return the rows of table.csv without those of elapsed time."""
    with open(sweep / "table.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["metric"] != "seconds"]


SEEDS = [*QUICK, "-m", "seed=0,1", "deterministic=true"]
ALONE = ("num_cpus=1", "include_dashboard=false")  # two workers would import all, and a server start


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """A folder with three photos, explained with two seeds in outputs/sweeps/plain."""
    home = workplace(tmp_path_factory.mktemp("seeds"), 3)
    done(home, *SEEDS, "name=plain")
    return home


@pytest.mark.parametrize(
    "plugin, arguments",
    [
        ("hydra_submitit_launcher", ["hydra/launcher=submitit_local"]),
        ("hydra_ray_launcher", ["cluster=ray", *(f"+hydra.launcher.ray.init.{o}" for o in ALONE)]),
    ],
)
def test_every_engine_gives_the_results_of_sequential_jobs(mpx, seeds, monkeypatch, plugin, arguments):
    pytest.importorskip(f"hydra_plugins.{plugin}")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(CONFIGS.parent), os.environ.get("PYTHONPATH")]))
    )
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.chdir(seeds)
    _run(mpx, seeds, *SEEDS, *arguments, f"name={plugin}")
    plain, engine = (seeds / "outputs" / "sweeps" / name for name in ("plain", plugin))
    for job in ("seed=0", "seed=1"):
        assert masks(engine / job) == masks(plain / job) and len(masks(plain / job)) == 3
    assert masks(plain / "seed=0") != masks(plain / "seed=1")


def test_optuna_minimises_the_objective(mpx, folder):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    (sweep,) = _run(mpx, folder, *QUICK, "limit=1", "sweep=optuna", "hydra.sweeper.n_trials=3", "objective=area")
    optimum = OmegaConf.load(sweep / "optimization_results.yaml")
    areas = [json.loads(path.read_text())["area"]["mean"] for path in sweep.glob("*/summary.json")]
    assert len(areas) == 3 and optimum.best_value == pytest.approx(min(areas))
    assert (sweep / "table.md").is_file()
    code, _, err = mpx(*QUICK, "limit=1", "objective=nosuch")
    assert code == 1 and "objective='nosuch'" in err and "value_normalised" in err


def _run(mpx, folder, *line) -> list:
    """Return the folders of all sweeps after a successful command."""
    code, out, err = mpx(*line)
    assert code == 0, out + err
    return sorted((folder / "outputs" / "sweeps").iterdir())
