"""Masks while a network learns: python scripts/digits.py [epochs=8]

Trains a small network on scikit-learn's digits (1,797 images of one channel) and explains four of them before the first
epoch and after each. TensorBoard shows them as they come (tensorboard --logdir outputs/digits); outputs/digits/strip.png has
all epochs. Under a minute on one CPU.
"""

import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import mpx
from mpx.cli.arguments import answer_help

FOLDER = Path("outputs/digits")
SHOWN = [1561, 1560, 1562, 1566]  # images that no epoch has seen


class Digits(pl.LightningModule):
    """Three convolutions on images (B,1,32,32) in [0,1]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 64)
        layers = [
            layer
            for a, b in zip(widths, widths[1:])
            for layer in (nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
        ]
        self.network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def main(epochs: int) -> None:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        sys.exit("digits.py needs a package that is not installed: pip install scikit-learn")
    pl.seed_everything(0)
    digits = load_digits()
    images = F.interpolate(torch.tensor(digits.images / 16).float().unsqueeze(1), size=32, mode="bilinear")
    labels = torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(images[:1500], labels[:1500]), batch_size=50, shuffle=True)
    method = mpx.method("quick", "mask_size=8", "perturbation=black", "jitter=1")  # the digits are white on black
    explain = mpx.ExplainCallback(images[SHOWN], labels[SHOWN], method=method)
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[explain], enable_checkpointing=False,
                         logger=TensorBoardLogger(FOLDER, name="", version=""), log_every_n_steps=10)  # fmt: skip
    trainer.fit(Digits(), loader)
    explain.strip().save(FOLDER / "strip.png")
    print(f"strip     {FOLDER / 'strip.png'}\ncurves    tensorboard --logdir {FOLDER}")


if __name__ == "__main__":
    answer_help(__doc__)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    main(int(dict(a.split("=", 1) for a in sys.argv[1:]).get("epochs", 8)))
