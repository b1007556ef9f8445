"""Keys of a Lightning Trainer that would change the optimization, or couple its rows."""

from typing import Any

import pytorch_lightning as pl

DEFAULTS: dict[str, tuple[Any, str]] = {  # attribute of the Trainer -> (the only value allowed, why)
    "fast_dev_run": (False, "steps=2 makes a short fit"),
    "max_epochs": (1, "steps= sets the number of iterations"),
    "max_steps": (-1, "steps= sets the number of iterations"),
    "min_steps": (None, "steps= sets the number of iterations"),
    "limit_train_batches": (1.0, "steps= sets the number of iterations"),
    "overfit_batches": (0.0, "steps= sets the number of iterations"),
    "accumulate_grad_batches": (1, "samples= averages gradients over random draws"),
    "gradient_clip_val": (None, "a clipped norm would couple the rows of a batch"),
    "precision": ("32-true", "precision= of the method chooses it"),
}


def check_trainer(trainer: pl.Trainer) -> None:
    """Raise ValueError where a Trainer would end the fit at another iteration than the method's, or couple its rows."""
    attributes = {name: getattr(trainer, name) for name in DEFAULTS}  # foreign: Lightning's own
    for name, (allowed, reason) in DEFAULTS.items():
        if attributes[name] != allowed and not (name == "fast_dev_run" and not attributes[name]):
            raise ValueError(f"Trainer({name}={attributes[name]!r}) must be Trainer({name}={allowed!r}): {reason}")
