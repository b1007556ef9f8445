"""W&B and MLflow through the command, each with callbacks that log through it too."""

import pytest
from commands import done, summary, workplace
from interrupted import LONG, run

FEW = [*LONG, "limit=3", "steps=4", "log_images=1", "pictures=none", "metric=[]", "callbacks=learning_rate_monitor"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return workplace(tmp_path_factory.mktemp("loggers"), 3)


def test_wandb_has_the_run_of_the_search_only(home):
    pytest.importorskip("wandb", reason="wandb is not installed")
    command = done(home, *FEW, "logger=[wandb,csv]", "name=wandb", WANDB_SILENT="true")
    assert "is off" not in command.out and "Traceback" not in command.err, command.out + command.err
    folder = run(home, "wandb")
    assert len(list(folder.glob("wandb/offline-run-*/*.wandb"))) == 1 and summary(folder)["n"] == 3
    assert not list(home.glob("wandb")) and not list(folder.glob("batches/*/wandb"))
    assert len(list(folder.glob("batches/*/csv/metrics.csv"))) == 2


def test_mlflow_has_a_run_of_the_search_and_one_of_each_batch(home, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    command = done(home, *FEW, "logger=mlflow", "name=mlflow")
    assert "is off" not in command.out and "Traceback" not in command.err, command.out + command.err
    folder = run(home, "mlflow")
    assert (folder / "mlflow" / "run_id.txt").is_file() and summary(folder)["n"] == 3
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient((folder / "mlflow").as_uri())
    (search,) = client.search_runs([client.get_experiment_by_name("mpx").experiment_id])
    assert search.info.status == "FINISHED" and "metric/area" in search.data.metrics
    batches = sorted((folder / "batches").iterdir())
    assert [path.name for path in batches] == ["00000-p00", "00001-p02"]
    for batch in batches:
        client = mlflow.MlflowClient((batch / "mlflow").as_uri())
        (logged,) = client.search_runs([client.get_experiment_by_name("mpx").experiment_id])
        assert "loss/total" in logged.data.metrics and any(name.startswith("lr-") for name in logged.data.metrics)
    assert not list(home.glob("mlruns"))
