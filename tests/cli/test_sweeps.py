"""Sweeps: their jobs, the names of their folders, which jobs start again, and failed jobs."""

import itertools
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from commands import masks, table
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from planted import SQUARE
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from mpx import config
from mpx.cli.arguments import prepare
from mpx.cli.axes import list_jobs
from mpx.cli.folders import folder_name, sweep_folder
from mpx.cli.gpus import claim_gpu
from mpx.cli.versus import as_sweep
from mpx.config_errors import error_sentence
from mpx.report.sweep import job_axes
from mpx.runs import store

QUICK = [*SQUARE, "steps=2", "images=photos", "pictures=none", "log_images=0", "metric=[]"]
CASES = {"blur": {"weak": ["perturbation=blur_mean", "perturbation.sigma=2"], "black": ["perturbation=black", "lr=0.2"]}}


def jobs(*typed, params=None, cases=None) -> dict[str, list[str]]:
    parse = OverridesParser.create().parse_overrides
    return list_jobs(parse([f"{k}={v}" for k, v in (params or {}).items()]), cases or {}, parse(list(typed)))


# ---- jobs and folder names


def test_jobs_are_all_combinations_named_by_the_varied_keys():
    result = jobs("lr=0.5", "seed=1,2", params={"mask_size": "7,14,28"}, cases=CASES)
    assert len(result) == 3 * 2 * 2
    expected = itertools.product((7, 14, 28), ("weak", "black"), (1, 2))
    assert list(result) == [f"mask_size={m},blur={b},seed={s}" for m, b, s in expected]
    assert result["mask_size=7,blur=black,seed=2"] == ["lr=0.5", "mask_size=7", "perturbation=black", "seed=2"]


def test_a_typed_key_replaces_its_axis():
    assert list(jobs("mask_size=5", params={"mask_size": "7,14"})) == ["mask_size=5"]
    assert list(jobs("mask_size=5,6", "seed=3", params={"mask_size": "7,14"})) == ["mask_size=5", "mask_size=6"]
    assert jobs("perturbation=noise", cases=CASES) == {"run": ["perturbation=noise"]}
    only_one_sets_it = jobs("lr=0.5", cases=CASES)
    assert only_one_sets_it["blur=black"] == ["lr=0.5", "perturbation=black"]


def test_characters_that_folder_names_lack_are_replaced():
    assert folder_name({"images": "/a b/é.png", "area": "[0.1,0.2]"}) == "images=-a-b-é.png,area=0.1+0.2"
    long = folder_name({f"key{i}": i for i in range(100)})
    assert len(long.encode()) < 200 and long != folder_name({f"key{i}": i for i in range(101)})


def test_a_long_value_is_shortened_and_the_axes_stay_readable():
    names = [folder_name({"images": f"/data/{'x' * 250}/{end}", "lr": 0.1, "mask_size": 7}) for end in "ab"]
    read = [job_axes(name) for name in names]
    assert all(
        len(name.encode()) <= 200 and list(result) == ["images", "lr", "mask_size"] for name, result in zip(names, read)
    )
    assert read[0]["images"] != read[1]["images"] and read[0]["lr"] == "0.1" and read[0]["images"].endswith("x-a")
    two = job_axes(folder_name({"images": "i" * 190, "boxes": "b" * 150}))
    assert two["boxes"] == "b" * 150 and len(two["images"]) < 30  # one value is shortened, not both


def test_two_jobs_in_one_folder_are_refused():
    with pytest.raises(ValueError, match="two jobs need the folder images=a-b"):
        jobs("images=a/b,a-b")


def test_an_interval_is_refused():
    with pytest.raises(ValueError, match="sweep=optuna"):
        jobs("lr=interval(0,1)")


FEW = ("mask_resolution", "blur", "seeds")  # the others are the same in slow
PRESETS = [name for name in config.options("sweep") if name != "optuna"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in FEW)) for n in PRESETS])
def test_every_preset_has_different_jobs_that_can_be_built(name):
    preset = OmegaConf.load(config.CONFIGS / "sweep" / f"{name}.yaml").hydra.sweeper
    result = jobs(params=preset.get("params"), cases=OmegaConf.to_container(preset.get("cases") or OmegaConf.create({})))
    first, *others = [name.split(",") for name in result]
    near = [name for name in others if sum(a != b for a, b in zip(name, first, strict=True)) == 1]  # along each axis
    assert len(result) > 2 and near
    composed = [config.compose(*result[",".join(name)]) for name in (first, *near)]
    assert len(set(map(str, composed))) == 1 + len(near)  # no two are the same
    for cfg in composed:
        config.build_method(cfg)


@pytest.mark.parametrize(
    "arguments, name",
    [
        (["sweep=mask_resolution", "dataset=sample", "threads=1"], "mask_resolution,dataset=sample"),
        (["sweep=mask_resolution", "mask_size=7,9"], "mask_resolution"),
        (["sweep=blur", "seed=0,1", "perturbation=noise"], "blur_x_seed"),
        (["-m", "mask_size=14,28", "perturbation=noise,black", "steps=5"], "mask_size_x_perturbation,steps=5"),
        (["cluster=slurm", "images=/a/b.png"], "run,images=-a-b.png"),
        (["versus=[gradcam,quick]", "steps=5"], "versus=gradcam+quick,steps=5"),
    ],
)
def test_the_sweep_folder_is_named_by_the_command(arguments, name):
    assert sweep_folder(arguments) == name


def versus_jobs(*arguments) -> dict[str, list[str]]:
    *others, mode, cases = as_sweep(list(arguments), [Path("my")])
    (cases,) = OverridesParser.create().parse_overrides([cases])
    assert mode == "hydra.mode=MULTIRUN" and cases.get_key_element() == "hydra.sweeper.cases"
    return jobs(*others, cases=cases.value())


def test_versus_is_a_sweep_of_the_commands_method_and_others(folder):
    (folder / "my/experiment").mkdir(parents=True)
    (folder / "my/experiment/mine.yaml").write_text("# @package _global_\nsteps: 3\n")
    assert versus_jobs("versus=[gradcam, mine]", "steps=3") == {
        "method=default": ["steps=3"],
        "method=gradcam": ["steps=3", "explainer=gradcam"],
        "method=mine": ["steps=3", "experiment=mine"],
    }
    assert versus_jobs("experiment=fong2017", "versus=rise,quick") == {
        "method=fong2017": ["experiment=fong2017"],
        "method=rise": ["experiment=fong2017", "explainer=rise"],  # evaluated with the same perturbation
        "method=quick": ["experiment=quick"],
    }
    assert list(versus_jobs("explainer=center", "versus=quick", "seed=0,1"))[1:3] == [
        "method=center,seed=1",
        "method=quick,seed=0",
    ]
    assert as_sweep(["versus=null", "steps=3"], []) == ["steps=3"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["versus=gradcma"], "versus=gradcma: no explainer or experiment is called so; near it: gradcam"),
        (["experiment=quick", "versus=quick"], "quick is there twice, or the command's own method"),
        (["versus=quick", "sweep=blur"], "no sweep= beside it"),
    ],
)
def test_what_versus_cannot_compare_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        prepare(arguments)


# ---- finished jobs


@pytest.mark.slow
def test_a_finished_job_starts_again_only_by_force(mpx, folder):
    line = [*QUICK, "-m", "seed=0,1", "limit=1"]
    (sweep,) = _run(mpx, folder, *line)
    before = {path: path.stat().st_mtime_ns for path in sweep.glob("*/*.json")}
    assert len(before) == 2
    code, out, err = mpx(*line)
    assert code == 0 and "2 of 2 jobs are finished" in out, err
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    code, out, err = mpx(*line, "force=true")
    assert code == 0 and "0 of 2 jobs are finished" in out, err
    assert all(path.stat().st_mtime_ns != when for path, when in before.items())
    code, out, err = mpx(*QUICK, "-m", "seed=0,1,2", "limit=2")  # more jobs and more images
    assert code == 0 and "0 of 3 jobs are finished" in out, err
    assert [len(table(sweep / f"seed={k}")) for k in range(3)] == [2, 2, 2]
    assert [_hparams(sweep / f"seed={k}") for k in range(3)] == [{"seed": 0.0}, {"seed": 1.0}, {"seed": 2.0}]


def _hparams(folder) -> dict[str, float]:
    events = EventAccumulator(str(folder / "tensorboard" / "mean")).Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    result = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    return {key: value.number_value for key, value in result.items()}


def test_another_configuration_is_refused_with_the_difference(mpx, folder):
    (sweep,) = _run(mpx, folder, *QUICK, "-m", "seed=0,1", "limit=1", "name=one")
    kept = masks(sweep / "seed=0")
    code, _, err = mpx(*QUICK, "-m", "seed=0,1", "limit=1", "name=one", "lr=0.5")
    assert code == 1 and "lr was 0.3 and is 0.5" in err and "another name=" in err
    assert masks(sweep / "seed=0") == kept


def test_force_replaces_a_run_and_leaves_the_users_files(mpx, folder):
    for extra in ([], ["lr=0.5"]):
        (folder / "outputs" / "one").mkdir(parents=True, exist_ok=True)
        (folder / "outputs" / "one" / "mine.txt").write_text("mine")
        code, _, err = mpx(*QUICK, "name=one", *extra, *["force=true"] * bool(extra))
        assert code == 0, err
    assert json.loads((folder / "outputs" / "one" / "summary.json").read_text())["n"] == 3
    assert "lr: 0.5" in (folder / "outputs" / "one" / ".hydra" / "config.yaml").read_text()
    assert (folder / "outputs" / "one" / "mine.txt").read_text() == "mine"
    code, _, err = mpx(*QUICK, "name=one", "force=true", "share=0/2")
    assert code == 1 and "other shares" in err


# ---- failures


def test_a_failed_job_is_listed_and_the_others_are_complete(mpx, folder):
    line = [*[a for a in QUICK if not a.startswith("images=")], "-m", "images=photos,later"]
    line.append("hydra.sweeper.max_batch_size=1")
    code, out, err = mpx(*line)
    assert code == 1 and "1 of 2 jobs failed, images=later" in err
    (sweep,) = (folder / "outputs" / "sweeps").iterdir()
    lines = [line for line in out.splitlines() if line.startswith("images=photos: 3 rows")]  # of the job that ran
    assert len(lines) == 1 and re.match(r"images=photos: 3 rows \(.*\), area .* %, \d+ s$", lines[0]), out
    assert "explaining" not in out and "explaining" in (sweep / "images=photos/run.log").read_text()
    assert out.rstrip().endswith(f"report    {sweep.relative_to(folder)}/report.html")
    table = (sweep / "table.md").read_text()
    assert "images=later" in table and "'later' does not exist" in table and "0." in table
    assert (sweep / "report.html").is_file() and (sweep / "grid.png").is_file()
    shutil.copytree(folder / "photos", folder / "later")
    code, _, err = mpx(*line)  # the failed job starts again
    assert code == 0 and not (sweep / "images=later" / store.FAILED).exists(), err


def test_a_batch_of_no_jobs_is_refused(mpx, folder):
    code, _, err = mpx(*QUICK, "-m", "seed=0,1", "hydra.sweeper.max_batch_size=0")
    assert code == 1 and "hydra.sweeper.max_batch_size=0 must be a number of jobs, at least 1" in err


def test_a_misspelt_value_starts_no_job(mpx, folder):
    code, out, err = mpx(*QUICK, "-m", "score=logit,lgoit")
    assert code == 1 and "near it: logit" in err and "images are done" not in out


@pytest.mark.parametrize("name, part", [("submitit_slurm", "pip install 'mpx[slurm]'"), ("nosuch", "is not an option")])
def test_a_missing_engine_is_named_with_its_extra(name, part):
    assert part in error_sentence(MissingConfigException("", f"hydra/launcher/{name}"))


def test_a_launcher_without_srun_is_one_sentence(mpx, folder):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    code, _, err = mpx(*QUICK, "cluster=slurm", "hydra.launcher.partition=gpu")
    assert code == 1 and "srun" in err and len(err.strip().splitlines()) == 1


def test_parallel_jobs_have_a_gpu_each(tmp_path, monkeypatch):
    monkeypatch.setenv("MPX_JOBS", "2")
    with claim_gpu(tmp_path, 2):
        assert os.environ["MPX_GPU"] == "0"
        del os.environ["MPX_GPU"]  # set by another process
        with claim_gpu(tmp_path, 2):
            assert os.environ["MPX_GPU"] == "1"
        os.environ["MPX_GPU"] = "0"
    with pytest.raises(ValueError, match="of the job"), claim_gpu(tmp_path, 2):
        assert os.environ["MPX_GPU"] == "0"
        raise ValueError("of the job")
    assert "MPX_GPU" not in os.environ
    monkeypatch.setenv("MPX_JOBS", "1")
    with claim_gpu(tmp_path, 2):
        assert "MPX_GPU" not in os.environ


def _run(mpx, folder, *line) -> list:
    """Return the folders of all sweeps after a successful command."""
    code, out, err = mpx(*line)
    assert code == 0, out + err
    return sorted((folder / "outputs" / "sweeps").iterdir())


@pytest.mark.slow
def test_methods_are_compared_in_one_command(mpx, folder):
    line = [*QUICK, "versus=gradient", "metric=[deletion]", "limit=1"]
    (sweep,) = _run(mpx, folder, *line)
    assert sweep.name.startswith("versus=gradient,") and (sweep / "grid.png").is_file()
    lines = (sweep / "table.md").read_text().splitlines()[2:4]
    assert [line.split(" | ")[0] for line in lines] == ["| default", "| gradient"]
    assert "2 of 2 jobs are finished" in mpx(*line)[1]


@pytest.mark.slow
def test_a_job_whose_images_changed_starts_again(mpx, folder):
    (folder / "photos" / "p2.png").unlink()
    line = [*QUICK, "-m", "lr=0.1", "steps=2"]
    (sweep,) = _run(mpx, folder, *line)
    assert "1 of 1 jobs are finished" in mpx(*line)[1] and len(table(sweep / "run")) == 2
    (folder / "photos" / "p3.png").write_bytes(b"no photo")
    code, out, _ = mpx(*line)
    assert code == 3 and "0 of 1 jobs are finished" in out
    (folder / "photos" / "p3.png").write_bytes((folder / "photos" / "p0.png").read_bytes())  # repaired
    code, out, _ = mpx(*line)
    assert code == 0 and "0 of 1 jobs are finished" in out and len(table(sweep / "run")) == 3
