"""callbacks= and logger= on the command line: each batch has its own, and what does not fit is one sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch
from planted import SQUARE

MONITORED = [*SQUARE, "images=photos", "batch_size=1", "pictures=none", "log_images=0", "metric=[]", "name=run"]
CHOSEN = ["callbacks=[early_stopping,learning_rate_monitor,model_checkpoint]"]
CHOSEN += ["callbacks.model_checkpoint.every_n_train_steps=4", "callbacks.early_stopping.patience=50"]


def rows(run: Path) -> dict[str, torch.Tensor]:
    """Return the parameter of each row."""
    return {path.name[:2]: torch.from_numpy(np.load(path)["parameter"]) for path in sorted((run / "masks").iterdir())}


def test_each_batch_writes_checkpoints_and_logs_under_its_own_name(mpx, folder):
    code, out, err = mpx(*MONITORED, *CHOSEN, "logger=[tensorboard,csv]")
    assert code == 0, out + err
    run = folder / "outputs" / "run"
    assert sorted(path.name for path in (run / "batches").iterdir()) == ["00000-p0", "00001-p1", "00002-p2"]
    for batch in (run / "batches").iterdir():
        parameter = torch.load(batch / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]["parameter"]
        assert torch.equal(parameter.flatten(), rows(run)[batch.name[-2:]].flatten())  # of the last iteration
        assert len(list((batch / "tensorboard").glob("events.out.tfevents.*"))) == 1
        lines = (batch / "csv" / "metrics.csv").read_text().splitlines()
        assert any("lr-" in name for name in lines[0].split(",")) and "loss/total" in lines[0] and len(lines) > 12
    assert (run / "tensorboard" / "mean").is_dir() and (run / "csv" / "mean" / "metrics.csv").is_file()
    assert not {"checkpoints", "lightning_logs"} & {path.name for path in run.iterdir()}


def test_a_callback_changes_no_mask_and_early_stopping_ends_its_batch_only(mpx, folder):
    early = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "callbacks.early_stopping.mode=max"]
    for name, more in (("run", []), ("monitored", CHOSEN), ("early", early)):
        code, out, err = mpx(*MONITORED, *more, f"name={name}")
        assert code == 0, out + err
    bare, monitored = rows(folder / "outputs" / "run"), rows(folder / "outputs" / "monitored")
    assert all(torch.equal(bare[name], monitored[name]) for name in bare) and len(bare) == 3
    steps = [len(np.load(path)["curves"][0]) for path in (folder / "outputs" / "early" / "masks").iterdir()]
    assert len(steps) == 3 and max(steps) < 12
    assert not (folder / "outputs" / "run" / "batches").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["callbacks=early_stopping", "callbacks.early_stopping.monitor=nothing"], "nothing"),
        (["callbacks=model_checkpoint", "callbacks.model_checkpoint.monitor=nothing"], "there are loss/l1, loss/score"),
        (["callbacks=learning_rate_monitor", "logger=[]"], "LearningRateMonitor"),
        (["callbacks=early_stopping", "callbacks.early_stopping.mode=up"], "up"),
        (["callbacks=model_checkpoint", "callbacks.model_checkpoint.save_top_k=-7"], "save_top_k"),
    ],
)
def test_a_callback_that_does_not_fit_is_one_sentence(mpx, folder, arguments, words):
    code, out, err = mpx(*MONITORED, *arguments)
    assert code == 1 and words in err and len(err.strip().splitlines()) == 1, out + err
    assert "Traceback" not in out + err and not list((folder / "outputs" / "run").glob("masks/*.npz"))


def test_a_run_is_continued_with_the_same_callbacks_and_any_logger(mpx, folder):
    assert mpx(*MONITORED, "limit=1", "logger=[]")[0] == 0
    before = rows(folder / "outputs" / "run")
    code, out, err = mpx(*MONITORED, *CHOSEN)
    assert code == 1 and "callbacks" in err and "another configuration" in err and len(err.strip().splitlines()) == 1
    assert rows(folder / "outputs" / "run").keys() == before.keys() == {"p0"}
    code, out, err = mpx(*MONITORED, "logger=csv")
    assert code == 0 and len(rows(folder / "outputs" / "run")) == 3, out + err
    assert (folder / "outputs" / "run" / "csv" / "mean" / "metrics.csv").is_file()
