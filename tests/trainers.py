"""A bare Lightning Trainer for tests."""

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import LightningEnvironment


def cpu_trainer(callbacks=(), **options) -> pl.Trainer:
    bare = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    bare |= {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "plugins": [LightningEnvironment()]}
    return pl.Trainer(callbacks=list(callbacks), **bare | options)
