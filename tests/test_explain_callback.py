"""ExplainCallback: the network trains as without it, and loggers get a picture and numbers of each epoch."""

import csv

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mpx

METHOD = mpx.method("quick", "steps=3", "mask_size=4", "perturbation=black", "jitter=1", "ranking=trajectory")
X, Y = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


class Net(pl.LightningModule):
    """A network with whatever an explanation might disturb: batch norms, dropout, random batches."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(1),
                                     nn.Flatten(), nn.Linear(4, 3))  # fmt: skip

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, _):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fit(folder, *callbacks, epochs=3, logger=(), checkpoint=None):
    pl.seed_everything(0)
    net = Net()
    trainer = pl.Trainer(default_root_dir=folder, max_epochs=epochs, accelerator="cpu", callbacks=[*callbacks],
                         logger=list(logger), enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
                         enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1)  # fmt: skip
    trainer.fit(net, DataLoader(TensorDataset(X, Y), 4, shuffle=True), ckpt_path=checkpoint)
    return net


def callback(**options):
    return mpx.ExplainCallback(X[:2], Y[:2], method=METHOD, **options)


def test_the_network_learns_as_without_it(tmp_path):
    explained, alone = fit(tmp_path, callback()).state_dict(), fit(tmp_path).state_dict()
    assert all(torch.equal(explained[name], alone[name]) for name in alone)


def test_every_nth_epoch_is_explained_as_by_explain(tmp_path):
    explain = callback(every_n_epochs=2)
    net = fit(tmp_path, explain, epochs=4)
    assert list(explain.epochs) == [0, 2, 4]
    e = mpx.explain(mpx.Classifier(net), X[:2], Y[:2], method=METHOD)
    assert torch.equal(explain.epochs[4].value, e.value_before) and torch.equal(explain.epochs[4].area, e.area)
    assert (explain.epochs[4].saliency / 255 - e.saliency).abs().max() < 0.5 / 255 + 1e-6
    assert not torch.equal(explain.epochs[0].value, e.value_before)
    assert explain.strip().width > 3 * 160


def test_loggers_get_pictures_and_numbers(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    loggers = [
        TensorBoardLogger(tmp_path / "tb", name="", version=""),
        CSVLogger(tmp_path / "csv", name="", version=""),
        MLFlowLogger(tracking_uri=f"file:{tmp_path / 'mlflow'}"),
    ]
    fit(tmp_path, callback(), logger=loggers)
    events = EventAccumulator(str(tmp_path / "tb"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    rows = ["image0-0", "image1-1"]
    assert {*events.Tags()["images"]} == {"explanation/strip", *(f"explanation/{row}" for row in rows)}
    assert [image.step for image in events.Images(f"explanation/{rows[0]}")] == [0, 3, 6, 9]
    with open(tmp_path / "csv/metrics.csv") as file:
        value = next(text for line in csv.DictReader(file) if (text := line[f"explanation/{rows[1]}/value"]))
    assert float(value) == pytest.approx(events.Scalars(f"explanation/{rows[1]}/value")[0].value, rel=1e-5)
    assert len(list((tmp_path / "mlflow").rglob("*.png"))) == 9


def test_a_checkpoint_continues_the_strip(tmp_path):
    fit(tmp_path, callback(), ModelCheckpoint(tmp_path, filename="last"), epochs=2)
    continued = callback()
    fit(tmp_path, continued, epochs=3, checkpoint=tmp_path / "last.ckpt")
    assert sorted(continued.epochs) == [0, 1, 2, 3]


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="every_n_epochs=0 must be a whole number"):
        callback(every_n_epochs=0)
    with pytest.raises(ValueError, match="nothing is explained yet"):
        callback().strip()
    with pytest.raises(TypeError, match="no argument every_n_epoch; near it: every_n_epochs"):
        callback(every_n_epoch=1)
