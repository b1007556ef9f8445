"""MaskLearner with loggers whose packages are large: TensorBoard, W&B offline and MLflow's file store."""

import os

import pytest
from learning.test_learner import learner
from trainers import cpu_trainer

NAMES = {"loss/total", "loss/score", "score/value", "mask/area"}


def fit(logger) -> None:
    cpu_trainer(logger=logger, log_every_n_steps=1).fit(learner("steps=5"))


def test_tensorboard(tmp_path):
    from pytorch_lightning.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    fit(logger)
    events = EventAccumulator(logger.log_dir).Reload()
    assert NAMES <= set(events.Tags()["scalars"]) and len(events.Scalars("loss/total")) == 5


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="W&B is not installed")
    from pytorch_lightning.loggers import WandbLogger

    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="masks")
    fit(logger)
    assert NAMES <= dict(logger.experiment.summary).keys()
    logger.experiment.finish()


def test_mlflow_files(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    from pytorch_lightning.loggers import MLFlowLogger

    monkeypatch.setitem(os.environ, "MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger(save_dir=str(tmp_path))
    fit(logger)
    history = logger.experiment.get_metric_history(logger.run_id, "loss/total")
    assert len(history) == 5 and NAMES <= logger.experiment.get_run(logger.run_id).data.metrics.keys()
